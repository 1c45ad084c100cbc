"""The table of a plan: what is done, running, failed, stale or missing, and how long the rest will take."""

import os
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from dgs_utils.runtime.terminal import format_table
from dgs_utils.runtime.units import format_duration, format_size
from dgs_utils.store.manifest import find_manifest
from dgs_utils.store.node import Node
from dgs_utils.store.paths import display_path
from dgs_utils.store.status import Status, failure, node_manifest, node_status, one_look, reason_lines
from dgs_utils.workflow.durations import duration_group, expected_seconds, seconds_by_group
from dgs_utils.workflow.notebook import format_failure


def overview(nodes: list[Node], disk: bool = False) -> list[str]:
    """Return the table of a plan, with sizes on ``disk``, and a line for each failed, damaged or stale result."""
    with one_look(nodes):
        statuses: dict[str, str] = {node.key: node_status(node) for node in nodes}
        stages: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            stages[node.stage].append(node)
        earlier = seconds_by_group([node for node in nodes if statuses[node.key] != "done"])
        rows = [["stage", "nodes", *Status, "spent", "to come", *(["disk"] if disk else [])]]
        for stage, group in stages.items():
            counts = Counter(statuses[node.key] for node in group)
            spent = sum(manifest["seconds"] for node in group if (manifest := node_manifest(node)))
            left = Counter(duration_group(node) for node in group if statuses[node.key] != "done")
            size = [format_size(sum(folder_size(node.folder) for node in group))] if disk else []
            rows.append([stage, str(len(group)), *(str(counts[name] or "·") for name in Status), format_duration(spent),
                         _expected(left, earlier), *size])
        failed = [format_failure(node, failure(node)) for node in nodes if statuses[node.key] == "failed"]
        return [*format_table(rows, left=["stage"]), *failed, *reason_lines(nodes, statuses), *_namesake_lines(nodes)]


def _namesake_lines(nodes: list[Node]) -> list[str]:
    """Return a line for each folder of figures with the name of a planned one: when it was finished, what differs."""
    lines = []
    for node in (node for node in nodes if node.stage == "07_figures"):
        for folder in sorted(node.folder.parent.glob(f"{node.name}-*")):
            # One that is damaged is reported elsewhere, if it is part of a plan.
            if (manifest := find_manifest(folder)) and manifest["label"] == node.label:
                finished = manifest["finished"][:16].replace("T", " ")
                lines.append((finished, f"{display_path(folder)} of {finished}: {_difference(node, manifest)}"))
    return [line for _, line in sorted(lines)] if len(lines) > 1 else []


def _difference(node: Node, manifest: dict[str, Any]) -> str:
    """Return what an earlier result of a node's name was made from that the node is not."""
    if manifest["key"] == node.key:
        return "this plan's"
    keys = {name: {source["key"] for source in manifest["inputs"] if source["name"] == name}
            for name in {source["name"] for source in manifest["inputs"]} | set(node.input_keys)}
    now = {name: {key} if isinstance(key, str) else set(key) for name, key in node.input_keys.items()}
    others = [f"{len(keys[name] & now.get(name, set()))} of its {len(keys[name])} {name} are in this plan"
              for name in sorted(keys) if keys[name] != now.get(name, set())]
    identity, planned = manifest["identity"], node.fingerprint
    others += [f"{name} = {identity.get(name)!r}" for name in sorted({*identity, *planned})
               if identity.get(name) != planned.get(name)]
    return ", ".join(others) or "made earlier"


def _expected(left: Counter[str], earlier: dict[str, list[float]]) -> str:
    """Return the time that is left: ">1:02" where part of it is unknown, "?" where all of it is, "·" where none."""
    if not left:
        return "·"
    seconds, complete = expected_seconds(left, earlier)
    return format_duration(seconds) if complete else f">{format_duration(seconds)}" if seconds else "?"


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
