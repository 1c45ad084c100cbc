"""A look at finished results before a run: whether any of their files was changed since they were finished.

A manifest is written last, and the checksums of single files before it, so what has changed later is what the system
says has changed since the older of both; only that is read. (A disk that forgets bits by itself is for ``dgs verify``,
which reads everything.)
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from dgs_utils.artifacts.contents import digest_of
from dgs_utils.artifacts.manifests import MANIFEST, SUMS, content_hash, read_manifest
from dgs_utils.artifacts.nodes import Node
from dgs_utils.batch.node import input_nodes, shown
from dgs_utils.batch.state import manifest
from dgs_utils.batch.verify import Findings, entries_of, read_entry, repair


def damage_since(nodes: list[Node], renew: bool = False) -> Findings:
    """Return which files of finished results, of a plan and of what it needs, are missing or not what they were.

    Args:
        nodes: the plan.
        renew: whether what was read and is as it was, such as a copied result, need not be read again next time.
    """
    found = Findings()
    for node in {node.key: node for one in nodes for node in (*input_nodes(one), one)}.values():
        if (known := manifest(node)) and (touched := _touched(node.folder, known["held"])):
            if lost := _differing(node.folder, touched):
                found.damaged[node.folder] = lost
            elif renew:
                _renew(node.folder)
    return found


def make_whole(nodes: list[Node]) -> list[str]:
    """Let damaged results count as missing, so that this run makes them again; return a line for each."""
    found = damage_since(nodes, renew=True)
    lines = [_line(folder, lost) for folder, lost in found.damaged.items()]
    repaired = repair([node for one in nodes for node in (*input_nodes(one), one)], found) if lines else []
    return lines + [line for line in repaired if "left as it is" in line]


def damage_lines(nodes: list[Node]) -> list[str]:
    """Return a line for each damaged result, which stays as it is."""
    return [_line(folder, lost) for folder, lost in damage_since(nodes).damaged.items()]


def _line(folder: Path, lost: list[str]) -> str:
    more = f" and {len(lost) - 1} more files" if len(lost) > 1 else ""
    return (f"{shown(folder / lost[0])}{more} is missing or changed since its stage finished; a run makes it again, "
            f"and what was made from it meanwhile")


def _touched(folder: Path, held: dict[str, int]) -> list[str]:
    """Return the entries of a stage folder of which files are missing or were changed since it was finished.

    Args:
        folder: the stage folder.
        held: the entries of its manifest, each with the number of its files.
    """
    try:
        finished = min(_times(f"{folder}/{MANIFEST}") + _times(f"{folder}/{SUMS}"))
        there = {name: _times(f"{folder}/{name}") for name in held}
    except (OSError, ValueError):  # while it is removed
        return []
    return [name for name, times in there.items() if len(times) < held[name] or max(times, default=0) > finished]


def _renew(folder: Path) -> None:
    """Have the system say of manifest and checksums that they are newer than all else, without changing them."""
    for name in (MANIFEST, SUMS):
        with suppress(OSError):  # another user's, or of an older kit
            status = os.stat(folder / name)
            os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))


def _differing(folder: Path, names: list[str]) -> list[str]:
    """Return what of some entries is not as the manifest says."""
    now, lost = read_manifest(folder), []
    if content_hash(now["stage"], now["key"], now["files"]) != now["content"]:
        return [MANIFEST]
    for _, name, right in entries_of(folder, now):
        path = folder / name
        if name.partition("/")[0] in names:
            have = digest_of(path) if path.is_file() else read_entry(path)["sha256"]
            lost += [] if have in right else [name]
    return lost


def _times(path: str) -> list[int]:
    """Return when each file at or below a path was changed last, hidden ones left out, in ns."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return []
    if not stat.S_ISDIR(status.st_mode):
        return [status.st_ctime_ns]
    shown = [entry.path for entry in os.scandir(path) if not entry.name.startswith(".") or entry.is_dir()]
    return [time for inside in shown for time in _times(inside)]
