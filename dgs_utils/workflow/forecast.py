"""What an experiment would take, from its rehearsal: seconds of each loop's steps in proportion to its work."""

import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.params import SampleParams
from dgs_utils.runtime.terminal import format_table
from dgs_utils.runtime.units import format_duration, format_range
from dgs_utils.store.manifest import STEP_TIMES_FILE, read_manifest
from dgs_utils.store.node import Node, input_nodes
from dgs_utils.store.status import Status, node_status

UNLIMITED = sys.maxsize
MANY = 20  # steps of a loop, from which on they are items


@dataclass(frozen=True)
class Few:
    """How many images a rehearsal has.

    Attributes:
        classes: how many classes.
        whole: how many the experiment has.
        ipc: images per class of distilled sets: with all classes a batch of a student's training.
        originals: of each class and split.
        most: as many as a class may have, where that is too few to fill the batches.
    """

    classes: int
    whole: int
    ipc: int
    originals: int
    most: int = UNLIMITED


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


def work_of(size: Size) -> dict[str, float]:
    """Return a stage's work by loop, as `forecast` takes it; {} for 07, which is in proportion to what it shows."""
    own, pool, every = size.params, size.pool, size.train + size.test
    match own.stage:
        case "00_prepare":
            return {"training": own.train_steps, "epochs": own.classifier_epochs * size.train * max(own.folds, 1),
                    "images": every, "headers": every, "latents": size.train}
        case "01_fine_tune":
            return {"training": own.steps or own.epochs * max(size.train // own.batch_size, 1)}
        case "02_pool":
            images = own.images_per_class * size.classes
            return {"pool": images * own.steps, "pool rest": images, "images": images, "": images}
        case "03_difficulty":
            images = pool.images_per_class * size.classes if own.source == "pool" and pool else size.train
            return {"images scored": images, "snapshots": images}
        case "04_transform":
            return {"classes": size.classes * max(own.ipc // 2, 1) ** 2}
        case "05_sample":
            chosen = size.train if own.preset[1].whole else _images_of_set(own, size.classes)
            is_pool = own.preset[1].source == "pool"
            candidates = own.images_read_from("pool") * size.classes if is_pool else size.train
            return {"images": chosen, "crops": chosen, "features": candidates}
        case "06_evaluate":
            return _evaluate_work(size)
        case "08_condense":
            return {own.method: own.iterations * (own.inner_loops if own.method == "idc" else 1) * size.classes}
    return {}


def _images_of_set(params: Any, classes: int) -> int:
    return getattr(params, "total", 0) or params.ipc * classes


def _evaluate_work(size: Size) -> dict[str, float]:
    own, ipc = size.params, size.pool.ipc if size.pool else 10
    is_full = isinstance(size.pool, SampleParams) and size.pool.preset[1].whole
    images = size.train if is_full else _images_of_set(size.pool, size.classes) if size.pool else ipc * size.classes
    epochs = own.epochs or PROTOCOLS[own.protocol].epochs(0 if is_full else ipc, own.epoch_factor, size.classes)
    tests = (epochs if is_full else min(own.evaluations, epochs)) * size.test
    return {"epochs": own.repeats * epochs * images, "epochs rest": own.repeats * tests,
            "soft labels": (epochs if own.soft_labels == "crop" else 1) * images, "images": images + size.test}


def forecast(steps: Mapping[str, list[float]], seconds: float, rehearsed: Mapping[str, float],
             whole: Mapping[str, float]) -> tuple[float, float]:
    """Return the least and the most seconds that a stage is expected to take.

    Args:
        steps: seconds of each step that was timed, by loop.
        seconds: of the whole stage.
        rehearsed: work by loop, as timed: of its steps, and under "NAME rest" of what else is done within it, as
            tests; under "" of all that is in no loop.
        whole: the same of the whole.

    Of each loop, the fastest step gives the least, but the mean does of many items, which come in batches; the mean, in
    which the slow first step is as heavy as it was, the most. What a step took beyond the median, after the first,
    counts as the loop's rest.

    >>> forecast({"training": [3.0, 1.0, 1.0, 1.0]}, 8.0, {"training": 4}, {"training": 400})
    (404.0, 602.0)
    """
    def ratio(name: str) -> float:  # a loop over files may have been as long as it will be
        done = max(rehearsed.get(name, 1.0), len(steps.get(name, ())), 1e-9)
        return max(whole.get(name, 1.0) / done, 1.0)

    outside = max(seconds - sum(map(sum, steps.values())), 0.0)
    low, high = outside, outside * ratio("")
    for name, times in steps.items():
        usual = statistics.median(times)
        warm_up = max(times[0] - usual, 0.0)
        rest = max(sum(times) - warm_up - usual * len(times), 0.0) if f"{name} rest" in rehearsed else 0.0
        steady = sum(times) - warm_up - rest
        if len(times) <= MANY:  # without what ended at once, as a bar's last step does
            steady = min(steady, len(times) * min(value for value in times if 2 * value * len(times) >= sum(times)))
        low += warm_up + steady * ratio(name) + rest * ratio(f"{name} rest")
        high += (sum(times) - rest) * ratio(name) + rest * ratio(f"{name} rest")
    return low, high


def rehearsal_table(nodes: list[Node], made: Mapping[str, Node], few: Few) -> list[str]:
    """Return the lines on what was rehearsed: seconds and peak memory a stage, and what the whole would take.

    Args:
        nodes: the plan.
        made: the rehearsed nodes, by the plan's keys.
        few: how many images these have.
    """
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
                     str(len(group)), format_range(low, high) if ranges else "?"])
    lines = format_table(rows, left=["stage"])
    lines.append(f"The whole, one notebook after the other: {'' if complete else 'more than '}"
                 f"{format_range(total_low, total_high)}. The least is by the fastest step of "
                 f"each loop, the most by the mean, first steps included; stages that pay to be compiled get faster.")
    batches = "batches" if few.most == UNLIMITED else f"batches of at most {few.most} images of a class"
    lines.append(f"Memory is the peak at the real sizes of images, networks and {batches}; the images and latents of "
                 f"all classes come on top where a stage holds them.")
    return lines


def _node_forecast(node: Node, rehearsed: Node, few: Few) -> tuple[float, float]:
    manifest = read_manifest(rehearsed.folder)
    if node.stage == "07_figures":
        shown = [len([*input_nodes(figures)]) for figures in (node, rehearsed)]
        return manifest["seconds"], manifest["seconds"] * max(shown[0] / max(shown[1], 1), 1)
    path = rehearsed.folder / STEP_TIMES_FILE
    steps = json.loads(path.read_text()) if path.exists() else {}
    now, whole = _sizes(node, rehearsed, few)
    return forecast({name: times for name, times in steps.items() if times}, manifest["seconds"],
                    work_of(now), work_of(whole))


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
