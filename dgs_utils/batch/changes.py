"""Why results have to be made again, and what that costs: inputs with another content, other data, another code."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.manifests import MANIFEST
from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.opening import given_paths
from dgs_utils.artifacts.places import outputs_root
from dgs_utils.batch.display import duration
from dgs_utils.batch.experiment import ORDER
from dgs_utils.batch.node import input_nodes, shown, stale_line
from dgs_utils.batch.state import made_by_other_code, manifest, manifest_in


def stale_lines(nodes: list[Node], states: dict[str, str]) -> list[str]:
    """Return a line for each reason why finished results are not those that are asked for now.

    Results whose inputs hold another content now are made again by the next run; what was made from them follows where
    they turn out different. Those that another version of their own code made are kept until somebody asks.

    Args:
        nodes: the plan.
        states: each node's state, by key (`state.state`).
    """
    reasons: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        if states[node.key] == "stale" and (found := manifest(node)):
            reasons[stale_line(node, found)].append(node)
    lines = []
    for reason, group in reasons.items():
        below = [node for node in dependents(nodes, [node.folder for node in group]) if states[node.key] == "done"]
        follows = f"; if it comes out different, {listed(below)} too" if below else ""
        lines.append(f"{reason} by the next run: {listed(group)}{follows}")
    lines += changed_data([node for node in nodes if states[node.key] != "done"])
    old = [node for node in nodes if states[node.key] == "done" and made_by_other_code(node)]
    if old:
        lines.append(f"Made by another version of the code, and kept: {listed(old)}. To make them anew, use --force "
                     f"STAGE, or --force stale for all of them.")
    return lines


def listed(nodes: list[Node]) -> str:
    """Return how many nodes of each stage there are, and how long they took when they were made."""
    counts = Counter(node.stage for node in nodes)
    seconds = sum(found["seconds"] for node in nodes if (found := manifest(node)))
    return f"{', '.join(f'{count} of {stage}' for stage, count in counts.items())} (took {duration(seconds)})"


def dependents(nodes: list[Node], folders: Iterable[Path]) -> list[Node]:
    """Return the finished nodes of a plan that were made from some folders, directly or by way of others."""
    touched, found = set(folders), []
    for node in nodes:  # inputs stand before what needs them
        if manifest(node) and any(source.folder in touched for source in input_nodes(node)):
            if node.folder not in touched:
                found.append(node)
            touched.add(node.folder)
    return found


def changed_data(left: list[Node]) -> list[str]:
    """Return a line for each file or folder of the user's that holds another content than when it was used last.

    Args:
        left: the nodes that are to be run; their keys follow the content, so that what was made before stands apart.
    """
    gifts = {(node.stage, name, str(gift)): gift for node in left if not manifest(node)
             for name, gift in given_paths(node).items()}
    made = {stage: _results(stage) for stage in {stage for stage, _, _ in gifts}}
    lines = []
    for (stage, name, _), gift in gifts.items():
        if before := [folder for folder, found in made[stage] if _is_other(found["given"], name, gift)]:
            last = max(before, key=lambda folder: (folder / MANIFEST).stat().st_mtime)
            paths = gift["path"] if isinstance(gift["path"], list) else [gift["path"]]
            lines.append(f"{stage[3:]}.{name} ({', '.join(paths)}) holds another content than when {shown(last)} was "
                         f"made; what depends on it is made again (took {duration(_seconds_from(last))})")
    return list(dict.fromkeys(lines))


def _is_other(known: Any, name: str, gift: dict[str, Any]) -> bool:
    """Return whether a manifest names the same place with another content."""
    found = known.get(name) if isinstance(known, dict) else None
    return isinstance(found, dict) and found.get("path") == gift["path"] and found.get("content") != gift["content"]


def _results(stage: str) -> list[tuple[Path, dict[str, Any]]]:
    folders = sorted((outputs_root() / stage).glob("*"))
    return [(folder, found) for folder in folders if (found := manifest_in(folder))]


def _seconds_from(folder: Path) -> float:
    """Return how long a result and all that was made from it took, whichever experiments asked for them."""
    touched, seconds = {folder.relative_to(outputs_root()).as_posix()}, 0.0
    for stage in ORDER:  # inputs stand before what needs them
        for path, found in _results(stage):
            name = f"{stage}/{path.name}"
            if name in touched or any(source["folder"] in touched for source in found["inputs"]):
                touched.add(name)
                seconds += found["seconds"]
    return seconds
