"""How long the long stages will take on a GPU, by what ``tests/benchmarks/gpu.py`` measured on it."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.nodes import Node
from dgs_utils.batch.display import duration
from dgs_utils.batch.node import input_nodes
from dgs_utils.batch.state import state
from dgs_utils.classifiers.protocols import PROTOCOLS

CLASSES = 10  # where only the data tell


def estimates(nodes: list[Node], file: Path) -> list[str]:
    """Return a line a stage on what its nodes that are left will take, where the file of a benchmark says so.

    Args:
        nodes: the plan.
        file: the benchmark's ``gpu.json``.

    Raises:
        ValueError: it is not there, or is no such file.
    """
    try:
        found = json.loads(Path(file).read_bytes())
        parts = {name: part.get("rows", []) for name, part in found["parts"].items()}
        device, model = found["device"], found["model"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"--benchmark is {file}, which is no result of tests/benchmarks/gpu.py "
                         f"({type(error).__name__}); give its gpu.json") from None
    seconds: dict[str, float] = defaultdict(float)
    for node in nodes:
        if state(node) != "done" and (spent := _seconds(node, parts, model)):
            seconds[node.stage] += spent
    lines = [f"{stage}: about {duration(spent)} on {device}" for stage, spent in seconds.items()]
    return lines or [f"{file} says nothing about what is left of this experiment"]


def _seconds(node: Node, parts: dict[str, list[dict]], model: str) -> float:
    """Return what a node takes; 0 where that was not measured."""
    params: Any = node.params
    prepare: Any = next((one.params for one in input_nodes(node) if one.stage == "00_prepare"), None)
    classes = len(prepare.class_folders()) or CLASSES if prepare else CLASSES
    if node.stage in ("01_fine_tune", "02_pool") and (prepare is None or prepare.dit_size != model):
        return 0.0
    if node.stage == "01_fine_tune":
        rate = _rate(parts, "fine_tuning", "steps/s", params.precision, lambda row: row["way"] == "kit")
        return (params.sampled_step or params.steps) / rate if rate else 0.0
    if node.stage == "02_pool" and params.computes:
        cache = "" if params.cache == "none" else f", {params.cache} {params.cache_interval}/{params.cache_order}"
        end = f", {params.solver}, {params.steps} steps{cache}"
        rate = _rate(parts, "pool", "images/s", params.precision, lambda row: row["way"].endswith(end))
        return classes * params.images_per_class / rate if rate else 0.0
    if node.stage == "06_evaluate":
        rate = _rate(parts, "evaluation", "images/s", params.precision, lambda row: row["network"] == params.network)
        distilled = node.inputs.get("distilled")
        ipc = getattr(getattr(distilled, "params", None), "ipc", 0)
        return params.repeats * _epochs(params, ipc, classes) * ipc * classes / rate if rate else 0.0
    return 0.0


def _epochs(params: Any, ipc: int, classes: int) -> int:
    return params.epochs or PROTOCOLS[params.protocol].epochs(ipc, params.epoch_factor, classes)


def _rate(parts: dict[str, list[dict]], part: str, unit: str, precision: str, suits: Callable[[dict], bool]) -> float:
    """Return the best rate among a part's rows of a precision that suit; a batch that did not fit has NaN."""
    return max((row[unit] for row in parts.get(part, [])
                if row["precision"] == precision and suits(row) and row[unit] > 0), default=0.0)
