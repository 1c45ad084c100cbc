"""Rehearsals: an experiment's notebooks at their real sizes, with few images and steps, and what the whole would take.

Image sizes, networks, precisions and batch sizes are the experiment's. Images, classes, steps, epochs, repeats and
seeds are cut (`rehearsed_nodes`). The seconds of the whole follow from the steps that were timed, those of each loop in
proportion to its own work (`forecast`).
"""

import json
import math
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.images.scan import list_folder
from dgs_utils.methods import DYNAMICS_WINDOW, MODE_GUIDED
from dgs_utils.params import PrepareParams, SampleParams, validate
from dgs_utils.params.base import StageParams
from dgs_utils.runtime.terminal import format_table
from dgs_utils.runtime.units import format_duration
from dgs_utils.store.manifest import STEP_TIMES, STEP_TIMES_FILE, read_manifest
from dgs_utils.store.node import Node, input_nodes, with_resolved_pool_size
from dgs_utils.store.paths import display_path, outputs_root, resolve_path
from dgs_utils.store.status import Status, node_status
from dgs_utils.workflow.display import Display
from dgs_utils.workflow.notebook import Options, Report, format_failure
from dgs_utils.workflow.plan_checks import check_plan
from dgs_utils.workflow.scheduler import run_plan

REHEARSALS = "rehearsal"  # folder of the outputs
CLASSES = 2  # few, so that whole batches of one class are few images
TRAINING_STEPS, SAMPLING_STEPS, EPOCHS = 4, 5, 3  # the first step of a loop may be slow
FIRST_CLASSES = {"digits": ["0", "1"], "fashion": ["0", "1"], "cifar10": ["airplane", "automobile"]}
MIB = 2**20


def rehearse(name: str, nodes: list[Node], options: Options, jobs: int = 1) -> tuple[list[Report], list[str]]:
    """Rehearse an experiment in a folder of its own; return the reports, and lines on failures, times and memory.

    Args:
        name: of the experiment.
        nodes: its plan.
        options: how nodes are run.
        jobs: how many notebooks run at a time.

    Raises:
        ValueError: the rehearsed plan cannot run.
    """
    from dgs_utils.workflow.stand_in_weights import stand_ins  # here, because torch takes a while to import

    folder, lines = outputs_root() / REHEARSALS / name, list[str]()
    made = rehearsed_nodes(nodes, lambda params: stand_ins(params, folder / "weights", lines.append))
    print(*dict.fromkeys(lines), sep="\n", end="\n" if lines else "")
    rehearsed = list({node.key: node for node in made.values()}.values())
    with _environment(DGS_OUTPUTS=str(folder), **{STEP_TIMES: "1"}):  # after paths below the real one are resolved
        check_plan(rehearsed)
        reports = run_plan(rehearsed, Display(), options, jobs)
        failures = [format_failure(report.node, report.error) for report in reports if report.outcome == "failed"]
        return reports, ["", *failures, *rehearsal_table(nodes, made),
                         f"All files are in {display_path(folder)}; remove it to rehearse anew"]


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables, which the notebooks inherit, and put back what they were."""
    before = os.environ.copy()
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name)
        os.environ.update({name: value for name, value in before.items() if name in values})


# ---- What is cut -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Few:
    """How many images a rehearsal has.

    Attributes:
        classes: how many classes.
        whole: how many the experiment has.
        ipc: images per class of distilled sets: with all classes a batch of a student's training.
        originals: of each class and split.
    """

    classes: int
    whole: int
    ipc: int
    originals: int


def rehearsed_nodes(nodes: list[Node], replace: Callable[[StageParams], dict[str, Any]] = lambda params: {}
                    ) -> dict[str, Node]:
    """Return the rehearsed node of each node of a plan, by its key; nodes that differ in what is cut alone share one.

    Args:
        nodes: inputs before what needs them.
        replace: returns other values of some of a stage's parameters, as `stand_in_weights.stand_ins` does.
    """
    few = _few([node.params for node in nodes])
    made: dict[str, Node] = {}
    unique: dict[str, Node] = {}
    for node in nodes:
        inputs = {name: _rehearsed_inputs(value, made) for name, value in node.inputs.items()}
        changes = replace(node.params) | _cut(node.params, few)
        params: Any = validate(node.stage, _with_absolute_paths(node.params) | changes)
        rehearsed = Node(with_resolved_pool_size(params, inputs), inputs)
        made[node.key] = unique.setdefault(rehearsed.key, rehearsed)
    return made


def _rehearsed_inputs(value: Any, made: Mapping[str, Node]) -> Any:
    if not isinstance(value, list):
        return made.get(value.key, value) if isinstance(value, Node) else value
    items = [made.get(item.key, item) if isinstance(item, Node) else item for item in value]
    return list({getattr(item, "key", str(item)): item for item in items}.values())


def _with_absolute_paths(params: StageParams) -> dict[str, Any]:
    """Return parameters that name results of this outputs folder where it is, since a rehearsal has another one."""
    def absolute(value: Any) -> Any:
        if isinstance(value, list):
            return [absolute(item) for item in value]
        return str(resolve_path(value)) if isinstance(value, str) and value.startswith("outputs/") else value

    return {name: absolute(value) for name, value in params.model_dump().items()}


def _few(params: list[Any]) -> Few:
    """Return how many images a plan with these parameters is cut to, so that batches are as large as they will be.

    Rules and methods that take real images need as many of them as their sets have.
    """
    originals = [own for own in params if isinstance(own, PrepareParams)]
    folders = [_class_folders(own) for own in originals]
    whole = max([len(names) or 10 for names in folders], default=10)
    count = min(CLASSES, whole) if all(len(names) > CLASSES for names in folders) else whole
    ipc = max([own.ipc for own in params if own.stage in ("05_sample", "08_condense")], default=1)
    batch = max([PROTOCOLS[own.protocol].batch_size(ipc) for own in params if own.stage == "06_evaluate"], default=1)
    ipc = max(math.ceil(min(batch, ipc * whole) / count), min(ipc, 2))
    needed = [2, *(math.ceil(own.batch_size / count) for own in params if own.stage == "01_fine_tune")]
    needed += [math.ceil(max(own.train_batch * (own.base_model == "train"), 64 * own.trains_classifier) / count)
               for own in originals]
    needed += [ipc for own in params if isinstance(own, SampleParams) and own.preset[1].source != "pool"]
    needed += [max(own.real_batch, ipc) for own in params if own.stage == "08_condense"]
    return Few(count, whole, ipc, max(needed))


def _class_folders(params: PrepareParams) -> list[str]:
    """Return the classes of originals, as far as their names are known without reading an archive or a list."""
    if names := params.class_folders() or FIRST_CLASSES.get(params.dataset, []) * 5:
        return names
    root = resolve_path(params.root)
    root = root / "train" if (root / "train").is_dir() else root
    folders, files = list_folder(root) if params.root and root.is_dir() else ([], [])
    return sorted(folders) if len(folders) > CLASSES and not files else []


def _cut(params: Any, few: Few) -> dict[str, Any]:
    """Return what a rehearsal changes of a stage's parameters: all that only says how often something is done."""
    pool_factor = 2 if getattr(params, "cut", 0) else 1
    seed = {"seed": 0} if "seed" in type(params).model_fields else {}
    cuts = {
        "00_prepare": lambda: {
            "classes": _class_folders(params)[:few.classes] if few.classes < few.whole else params.classes,
            "images_per_class": few.originals, "train_steps": min(params.train_steps, TRAINING_STEPS),
            "classifier_epochs": DYNAMICS_WINDOW if params.dynamics else min(params.classifier_epochs, EPOCHS),
            "folds": min(params.folds, 2)},
        "01_fine_tune": lambda: {"steps": min(params.steps or TRAINING_STEPS, TRAINING_STEPS)},
        "02_pool": lambda: {
            "images_per_class": few.ipc if params.generator in MODE_GUIDED else
            max(min(params.batch_size, params.images_per_class), 2 * few.ipc),
            "steps": min(params.steps, SAMPLING_STEPS), "shard": ""},
        "03_difficulty": dict,
        "04_transform": lambda: {"ipc": few.ipc, "pool_factor": pool_factor, "pool_images": 0, "figure_classes": []},
        "05_sample": lambda: {
            "ipc": few.ipc, "pool_factor": pool_factor, "pool_images": 0, "cut_errors": False, "total": 0,
            "short_classes": "take_all" if params.has_budgets else params.short_classes,
            "features_epochs": 1, **({"distribution": "scale"} if isinstance(params.distribution, list) else {})},
        "06_evaluate": lambda: {"epochs": EPOCHS, "evaluations": 1, "repeats": 1, "teacher_epochs": 1},
        "07_figures": lambda: {"figure_classes": []},
        "08_condense": lambda: {
            "ipc": few.ipc, "iterations": min(params.iterations, TRAINING_STEPS),
            "inner_loops": min(params.inner_loops, 2), "pretrain_epochs": min(params.pretrain_epochs, 1)},
    }
    return seed | cuts[params.stage]()


# ---- What the whole would take ---------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Size:
    """A stage's parameters, and how many images there are.

    Attributes:
        params: the parameters.
        classes: classes.
        train: original images.
        test: test images.
        pool: what the stage's inputs hold: the parameters of its pool, if it has one.
    """

    params: Any
    classes: int
    train: int
    test: int
    pool: Any = None


def _prepare_work(size: Size) -> dict[str, float]:
    own = size.params
    return {"training": own.train_steps, "epochs": own.classifier_epochs * size.train * max(own.folds, 1),
            "images": size.train + size.test, "headers": size.train + size.test, "latents": size.train,
            "": size.train}


def _fine_tune_work(size: Size) -> dict[str, float]:
    own = size.params
    return {"training": own.steps or own.epochs * max(size.train // own.batch_size, 1)}


def _pool_work(size: Size) -> dict[str, float]:
    images = size.params.images_per_class * size.classes
    return {"pool": images * size.params.steps, "pool rest": images, "images": images, "": images}


def _difficulty_work(size: Size) -> dict[str, float]:
    own = size.params
    images = size.pool.images_per_class * size.classes if own.source == "pool" and size.pool else size.train
    return {"images scored": images, "snapshots": images}


def _transform_work(size: Size) -> dict[str, float]:
    return {"classes": size.classes * max(size.params.ipc // 2, 1) ** 2}


def _sample_work(size: Size) -> dict[str, float]:
    own, chosen = size.params, size.params.ipc * size.classes
    candidates = size.train if own.preset[1].source != "pool" else own.images_read_from("pool") * size.classes
    return {"images": chosen, "crops": chosen, "": candidates if "features" in own.needs else 1}


def _evaluate_work(size: Size) -> dict[str, float]:
    own, ipc = size.params, size.pool.ipc if size.pool else 10
    epochs = own.epochs or PROTOCOLS[own.protocol].epochs(ipc, own.epoch_factor, size.classes)
    tests = min(own.evaluations, epochs) * size.test
    return {"epochs": own.repeats * epochs * ipc * size.classes, "epochs rest": own.repeats * tests,
            "soft labels": (epochs if own.soft_labels == "crop" else 1) * ipc * size.classes,
            "images": ipc * size.classes + size.test}


def _condense_work(size: Size) -> dict[str, float]:
    own = size.params
    loops = own.inner_loops if own.method == "idc" else 1
    return {own.method: own.iterations * loops * size.classes}


WORK = {"00_prepare": _prepare_work, "01_fine_tune": _fine_tune_work, "02_pool": _pool_work,
        "03_difficulty": _difficulty_work, "04_transform": _transform_work, "05_sample": _sample_work,
        "06_evaluate": _evaluate_work, "08_condense": _condense_work}


def forecast(steps: Mapping[str, list[float]], seconds: float, rehearsed: Mapping[str, float],
             whole: Mapping[str, float]) -> tuple[float, float]:
    """Return the least and the most seconds that a stage is expected to take.

    Args:
        steps: seconds of each step that was timed, by loop.
        seconds: of the whole stage.
        rehearsed: work by loop, as timed: of its steps, and under "NAME rest" of what else is done within it, as
            tests; under "" of all that is in no loop.
        whole: the same of the whole.

    Of each loop, the fastest step gives the least; the mean, in which the slow first step is as heavy as it was, the
    most. What a step took beyond the median, after the first, counts as the loop's rest.

    >>> forecast({"training": [3.0, 1.0, 1.0, 1.0]}, 8.0, {"training": 4}, {"training": 400})
    (404.0, 602.0)
    """
    def ratio(name: str) -> float:
        return max(whole.get(name, 1.0) / max(rehearsed.get(name, 1.0), 1e-9), 1.0)

    outside = max(seconds - sum(map(sum, steps.values())), 0.0)
    low, high = outside, outside * ratio("")
    for name, times in steps.items():
        usual = statistics.median(times)
        warm_up = max(times[0] - usual, 0.0)
        rest = max(sum(times) - warm_up - usual * len(times), 0.0) if f"{name} rest" in rehearsed else 0.0
        low += warm_up + min(times) * len(times) * ratio(name) + rest * ratio(f"{name} rest")
        high += (sum(times) - rest) * ratio(name) + rest * ratio(f"{name} rest")
    return low, high


def rehearsal_table(nodes: list[Node], made: Mapping[str, Node]) -> list[str]:
    """Return the lines on what was rehearsed: seconds and peak memory a stage, and what the whole would take.

    Args:
        nodes: the plan.
        made: the rehearsed nodes, by the plan's keys.
    """
    few = _few([node.params for node in nodes])
    stages: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        stages[node.stage].append(node)
    rows = [["stage", "rehearsed", "time", "memory", "GPU", "notebooks", "the whole"]]
    total_low, total_high, complete = 0.0, 0.0, True
    for stage, group in stages.items():
        own = {made[node.key].key: made[node.key] for node in group}
        done = {key: read_manifest(node.folder) for key, node in own.items() if node_status(node) == Status.DONE}
        ranges = [_node_forecast(node, made[node.key], few) for node in group if made[node.key].key in done]
        low, high = (sum(values) for values in zip(*ranges, strict=True)) if ranges else (0.0, 0.0)
        complete &= len(ranges) == len(group)
        total_low, total_high = total_low + low, total_high + high
        peaks = Counter[str]()
        for manifest in done.values():
            peaks |= Counter(manifest["peak_memory_mib"])
        rows.append([stage, f"{len(done)} of {len(own)}", format_duration(sum(m["seconds"] for m in done.values())),
                     *(f"{peaks[kind] / 1024:.1f} GiB" if peaks[kind] else "·" for kind in ("cpu", "gpu")),
                     str(len(group)), f"{format_duration(low)} to {format_duration(high)}" if ranges else "?"])
    lines = format_table(rows, left=["stage"])
    lines.append(f"The whole, one notebook after the other: {'' if complete else 'more than '}"
                 f"{format_duration(total_low)} to {format_duration(total_high)}. The least is by the fastest step of "
                 f"each loop, the most by the mean, first steps included; stages that pay to be compiled get faster.")
    lines.append("Memory is the peak at the real sizes of images, networks and batches; the images and latents of all "
                 "classes come on top where a stage holds them.")
    return lines


def _node_forecast(node: Node, rehearsed: Node, few: Few) -> tuple[float, float]:
    manifest = read_manifest(rehearsed.folder)
    if node.stage not in WORK:
        shown = [len([*input_nodes(figures)]) for figures in (node, rehearsed)]
        return manifest["seconds"], manifest["seconds"] * max(shown[0] / max(shown[1], 1), 1)
    path = rehearsed.folder / STEP_TIMES_FILE
    steps = json.loads(path.read_text()) if path.exists() else {}
    work, (now, whole) = WORK[node.stage], _sizes(node, rehearsed, few)
    return forecast({name: times for name, times in steps.items() if times}, manifest["seconds"], work(now),
                    work(whole))


def _sizes(node: Node, rehearsed: Node, few: Few) -> tuple[Size, Size]:
    """Return how much a rehearsed node had to do, and how much the node itself has."""
    prepare = rehearsed if node.stage == "00_prepare" else rehearsed.inputs.get("prepare")
    available: dict[str, int] = {}
    if isinstance(prepare, Node):
        available = json.loads((prepare.folder / "dataset.json").read_text()).get("available", {})
    scale = few.whole / few.classes  # a plan's other classes were not listed
    few_images = few.classes * few.originals
    train, test = (available.get(split, few_images) for split in ("train", "val"))
    return (Size(rehearsed.params, few.classes, min(train, few_images), min(test, few_images), _source(rehearsed)),
            Size(node.params, few.whole, round(train * scale), round(test * scale), _source(node)))


def _source(node: Node) -> Any:
    """Return the parameters of the pool that a node scores, or of the set that it trains on."""
    source = node.inputs.get("distilled") or node.inputs.get("pool")
    return source.params if isinstance(source, Node) else None
