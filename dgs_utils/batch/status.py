"""What is finished, running, failed, stale or missing; what it took and what it will take."""

import os
import statistics
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

from dgs_utils.artifacts.nodes import Node
from dgs_utils.batch.changes import stale_lines
from dgs_utils.batch.display import duration, earlier_seconds
from dgs_utils.batch.node import failure_line, shown
from dgs_utils.batch.state import STATES, damage, failure, manifest, manifest_in, state


def overview(nodes: list[Node], disk: bool = False) -> list[str]:
    """Return what there is to tell of a plan: its table, and what is wrong with single nodes.

    Args:
        nodes: the plan.
        disk: whether the table tells what each stage's results take on the disk.
    """
    states = {node.key: state(node) for node in nodes}
    return [*_table(nodes, states, disk), *_details(nodes, states)]


def _table(nodes: list[Node], states: dict[str, str], disk: bool) -> list[str]:
    """Return a line a stage: nodes by state, time spent, time expected by earlier runs, and on request disk use."""
    stages: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        stages[node.stage].append(node)
    earlier = earlier_seconds(set(stages))
    header = [f"{name:>9}" for name in ("nodes", *STATES, "spent", "to come", *(["disk"] if disk else []))]
    lines = [f"{'stage':<14}" + "".join(header)]
    for stage, group in stages.items():
        counts = Counter(states[node.key] for node in group)
        spent = sum(found.get("seconds", 0) for node in group if (found := manifest(node)))
        to_come = len(group) - counts["done"]
        cells = [len(group), *(counts[name] or "·" for name in STATES), duration(spent),
                 _expected(earlier[stage], to_come), *([size(disk_use(group))] if disk else [])]
        lines.append(f"{stage:<14}" + "".join(f"{cell:>9}" for cell in cells))
    return lines


def _details(nodes: list[Node], states: dict[str, str]) -> list[str]:
    """Return a line for each failed node, and for what is stale: why, and what it would cost to renew it."""
    lines = [failure_line(node, failure(node)) for node in nodes if states[node.key] == "failed"]
    lines += fault_lines(nodes)
    short = [(node, manifest_in(node.folder)) for node in nodes if states[node.key] == "missing"]
    lines += [f"{shown(node.folder)} has {found['count']} of the {node.count} that are asked for; the rest is made by "
              f"the next run" for node, found in short if found and found["key"] == node.key]
    return lines + stale_lines(nodes, states)


def fault_lines(nodes: list[Node]) -> list[str]:
    """Return a line for each node that counts as missing although its folder has a manifest."""
    faults = filter(None, map(damage, nodes))
    return [f"Counts as missing: {fault.rsplit('; ', 1)[0]}; it is made anew by the next run" for fault in faults]


def _expected(seconds: list[float], nodes: int) -> str:
    if not nodes:
        return "·"
    return duration(statistics.median(seconds) * nodes) if seconds else "?"


def disk_use(nodes: list[Node]) -> int:
    """Return the bytes that nodes' folders hold."""
    return sum(folder_size(node.folder) for node in nodes)


def folder_size(folder: Path | str) -> int:
    """Return the bytes of all files below a folder; what goes meanwhile, or cannot be read, counts nothing."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += folder_size(entry.path)
            elif entry.is_file():
                total += entry.stat(follow_symlinks=False).st_size
    return total


def size(count: float) -> str:
    """Return a number of bytes as "12.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
