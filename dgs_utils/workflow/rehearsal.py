"""Rehearsals: an experiment's notebooks at their real sizes, with few images and steps, and what the whole would take.

Image sizes, networks, precisions and batch sizes are the experiment's. Images, classes, steps, epochs, repeats and
seeds are cut (`rehearsed_nodes`); without a GPU so far that a pool takes minutes, and batches are not full then. The
seconds of the whole follow from the steps that were timed (`forecast`).
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.images.scan import list_folder
from dgs_utils.methods import DYNAMICS_WINDOW, MODE_GUIDED
from dgs_utils.params import PrepareParams, SampleParams, validate
from dgs_utils.params.base import StageParams
from dgs_utils.store.manifest import STEP_TIMES
from dgs_utils.store.node import Node, with_resolved_pool_size
from dgs_utils.store.paths import display_path, outputs_root, resolve_path
from dgs_utils.workflow.display import Display
from dgs_utils.workflow.forecast import UNLIMITED, Few, rehearsal_table
from dgs_utils.workflow.notebook import Options, Report, format_failure
from dgs_utils.workflow.plan_checks import check_plan
from dgs_utils.workflow.scheduler import run_plan

REHEARSALS = "rehearsal"  # folder of the outputs
CLASSES = 2  # few, so that whole batches of one class are few images
TRAINING_STEPS, SAMPLING_STEPS, EPOCHS = 3, 3, 3  # the first step of a loop may be slow
CACHED_STEPS = 5  # of a pool with `pool.cache`, which extrapolates some of them
CPU_OPERATIONS = 1e13  # that a pool may take without a GPU: minutes, and 8 GB for steps of DiT-XL/2
FIRST_CLASSES = {"digits": ["0", "1"], "fashion": ["0", "1"], "cifar10": ["airplane", "automobile"]}


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

    folder, params = outputs_root() / REHEARSALS / name, [node.params for node in nodes]
    say = cache(partial(print, flush=True))  # each line once, as soon as it is known: writing weights takes a while
    few = _few(params, _affordable_images(params))
    if few.most < UNLIMITED:
        say(f"NO GPU HERE, and the diffusion model is large: each class has {few.most} images at most, so that larger "
            f"batches are not full. Seconds are those of this machine, and full batches need more memory than shown; "
            f"rehearse on the GPU to see both.")
    made = rehearsed_nodes(nodes, lambda params: stand_ins(params, folder / "weights", say), few)
    rehearsed = list({node.key: node for node in made.values()}.values())
    with _environment(DGS_OUTPUTS=str(folder), **{STEP_TIMES: "1"}):  # after paths below the real one are resolved
        check_plan(rehearsed)
        reports = run_plan(rehearsed, Display(), options, jobs)
        failures = [format_failure(report.node, report.error) for report in reports if report.outcome == "failed"]
        return reports, ["", *failures, *rehearsal_table(nodes, made, few),
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

def rehearsed_nodes(nodes: list[Node], replace: Callable[[StageParams], dict[str, Any]] = lambda params: {},
                    few: Few | None = None) -> dict[str, Node]:
    """Return the rehearsed node of each node of a plan, by its key; nodes that differ in what is cut alone share one.

    Of evaluations, one of each set and one of each setting are rehearsed, not each set in each setting.

    Args:
        nodes: inputs before what needs them.
        replace: returns other values of some of a stage's parameters, as `stand_in_weights.stand_ins` does.
        few: how many images there are; by default as many as fill the batches.
    """
    few = few or _few([node.params for node in nodes])
    made: dict[str, Node] = {}
    unique: dict[str, Node] = {}
    for node in nodes:
        inputs = {name: _rehearsed_inputs(value, made) for name, value in node.inputs.items()}
        changes = replace(node.params) | _cut(node.params, few)
        params: Any = validate(node.stage, _with_absolute_paths(node.params) | changes)
        rehearsed = Node(with_resolved_pool_size(params, inputs), inputs)
        # An evaluation of a set that is evaluated with other parameters, too, is like those of other sets.
        others = [other for other in unique.values() if other.stage == rehearsed.stage == "06_evaluate"]
        if any(other.inputs["distilled"] == rehearsed.inputs["distilled"] for other in others):
            rehearsed = next((other for other in others if other.params == rehearsed.params), rehearsed)
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


def _few(params: list[Any], most: int = UNLIMITED) -> Few:
    """Return how many images a plan with these parameters is cut to, so that batches are as large as they will be.

    Rules and methods that take real images need as many of them as their sets have.

    Args:
        params: of the plan's nodes.
        most: how many images a class may have.
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
    few = Few(count, whole, ipc, max(needed))
    if max([few.originals, *(_pool_images(own, few) for own in params if own.stage == "02_pool")]) <= most:
        return few
    return Few(count, whole, max(min(ipc, most // 2), 1), min(few.originals, most), most)


def _affordable_images(params: list[Any]) -> int:
    """Return how many images of a class a pool may have, so that the diffusion model makes them here in minutes."""
    from dgs_utils.diffusion.blank_models import operations_of_image  # here, because torch takes a while to import
    from dgs_utils.runtime.devices import resolve_device

    generated = any(own.model for own in params if own.stage == "02_pool")
    if not generated or resolve_device().type != "cpu":
        return UNLIMITED
    cost = max(operations_of_image(own, SAMPLING_STEPS) for own in params if own.stage == "00_prepare")
    return max(int(CPU_OPERATIONS / cost / CLASSES), 2)


def _pool_images(params: Any, few: Few) -> int:
    """Return how many images of a class a rehearsed pool has: where there may be as many, a batch."""
    wanted = few.ipc if params.generator in MODE_GUIDED else max(min(params.batch_size, params.images_per_class),
                                                                 2 * few.ipc)
    return min(wanted, few.most)


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
            "images_per_class": _pool_images(params, few), "shard": "",
            "steps": min(params.steps, SAMPLING_STEPS if params.cache == "none" else CACHED_STEPS)},
        "03_difficulty": dict,
        "04_transform": lambda: {"ipc": few.ipc, "pool_factor": pool_factor, "pool_images": 0, "figure_classes": []},
        "05_sample": lambda: {
            "ipc": few.ipc, "pool_factor": pool_factor, "pool_images": 0, "cut_errors": False, "total": 0,
            "drop_duplicates": False, "pool_share": 1.0,
            "short_classes": "take_all" if params.has_budgets else params.short_classes,
            "features_epochs": 1, **({"distribution": "scale"} if isinstance(params.distribution, list) else {})},
        "06_evaluate": lambda: {"epochs": EPOCHS, "evaluations": 1, "repeats": 1, "teacher_epochs": 1},
        "07_figures": lambda: {"figure_classes": []},
        "08_condense": lambda: {
            "ipc": few.ipc, "iterations": min(params.iterations, TRAINING_STEPS),
            "inner_loops": min(params.inner_loops, 2), "pretrain_epochs": min(params.pretrain_epochs, 1)},
    }
    return seed | cuts[params.stage]()
