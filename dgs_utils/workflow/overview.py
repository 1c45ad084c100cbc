"""The table of a plan: what is done, running, failed, stale or missing, and how long the rest will take."""

import os
import statistics
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

from dgs_utils.runtime.terminal import format_table
from dgs_utils.runtime.units import format_duration, format_size
from dgs_utils.store.node import Node
from dgs_utils.store.paths import display_path
from dgs_utils.store.status import (
    Status,
    cached_manifest,
    failure,
    manifest_fault,
    node_status,
    seconds_by_stage,
    stale_lines,
)
from dgs_utils.workflow.notebook import format_failure


def overview(nodes: list[Node], disk: bool = False) -> list[str]:
    """Return the table of a plan, and a line for each failed, damaged, incomplete or stale result.

    Args:
        nodes: the plan.
        disk: whether the table has the size of each stage's results.
    """
    statuses: dict[str, str] = {node.key: node_status(node) for node in nodes}
    stages: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        stages[node.stage].append(node)
    earlier = seconds_by_stage(nodes)
    rows = [["stage", "nodes", *Status, "spent", "to come", *(["disk"] if disk else [])]]
    for stage, group in stages.items():
        counts = Counter(statuses[node.key] for node in group)
        size = [format_size(sum(folder_size(node.folder) for node in group))] if disk else []
        spent, to_come = format_duration(sum(earlier[stage])), _expected(len(group) - counts["done"], earlier[stage])
        rows.append([stage, str(len(group)), *(str(counts[name] or "·") for name in Status), spent, to_come, *size])
    failed = [format_failure(node, failure(node)) for node in nodes if statuses[node.key] == "failed"]
    return [*format_table(rows, left=["stage"]), *failed, *fault_lines(nodes), *_incomplete_lines(nodes, statuses),
            *stale_lines(nodes, statuses)]


def fault_lines(nodes: list[Node]) -> list[str]:
    """Return a line for each node that counts as missing although its folder has a manifest."""
    faults = filter(None, map(manifest_fault, nodes))
    return [f"Counts as missing: {fault.rsplit('; ', 1)[0]}; it is made anew by the next run" for fault in faults]


def _incomplete_lines(nodes: list[Node], statuses: dict[str, str]) -> list[str]:
    """Return a line for each growing result that has fewer images or trainings than are asked for."""
    manifests = [(node, cached_manifest(node.folder)) for node in nodes if statuses[node.key] == "missing"]
    return [f"{display_path(node.folder)} has {manifest['count']} of the {node.count} that are asked for; the rest is "
            f"made by the next run" for node, manifest in manifests if manifest and manifest["key"] == node.key]


def _expected(left: int, earlier: list[float]) -> str:
    """Return the time that so many runs of a stage take: "?" where that is unknown, "·" for none."""
    return "·" if not left else format_duration(left * statistics.median(earlier)) if earlier else "?"


def folder_size(folder: Path | str) -> int:
    """Return the bytes of all files below a folder; what cannot be read counts 0."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += folder_size(entry.path)
            elif entry.is_file():
                total += entry.stat(follow_symlinks=False).st_size
    return total
