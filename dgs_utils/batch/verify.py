"""Every byte of finished results, compared with what their manifests say, and what to do where they differ."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dgs_utils.artifacts.manifests import MANIFEST, content_hash, entry_of, read_manifest, read_sums, together
from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.opening import drop_damaged, empty, share_of, worker
from dgs_utils.batch.changes import dependents, listed
from dgs_utils.batch.node import input_nodes, shown
from dgs_utils.batch.state import damage, lock_file, manifest
from dgs_utils.batch.status import size
from dgs_utils.params import STAGES
from dgs_utils.runtime.progress import silent

SHOWN = 5  # damaged files that are named of one folder

Entry = tuple[Path, str, set[str]]  # a folder, a name in it, the SHA-256 that are right for it


@dataclass
class Findings:
    """What was looked at, and what is wrong with it.

    Attributes:
        damaged: by folder, what differs from its manifest: names of files, or of subfolders.
        results: how many folders were looked at.
        files: how many files were read.
        bytes: how large they are.
        left_out: files that a manifest names and a published folder does not have.
    """

    damaged: dict[Path, list[str]] = field(default_factory=dict)
    results: int = 0
    files: int = 0
    bytes: int = 0
    left_out: int = 0


def verify_nodes(nodes: list[Node], progress: Callable = silent) -> Findings:
    """Check the finished results of a plan; one whose manifest cannot be read is damaged, too."""
    found = Findings({node.folder: [MANIFEST] for node in nodes if damage(node)})
    found.results, entries = len(found.damaged), []
    for node in nodes:
        if manifest(node):
            entries += _entries(node.folder, found)
    return _checked(entries, found, progress)


def verify_folders(root: Path, progress: Callable = silent) -> Findings:
    """Check all folders below ``root`` that have manifests: results, or what somebody passes on.

    What is passed on, such as ``outputs/evidence``, need not hold all that its manifest names. What it holds is as one
    of the manifests beside it says, since tables that are made from passed-on rows have a manifest of their own.

    Raises:
        ValueError: there is no such folder.
    """
    folders = sorted({path.parent for path in root.rglob(MANIFEST)})
    if not folders:
        raise ValueError(f"{root} holds no {MANIFEST}; give an experiment file, or a folder of results")
    found, entries = Findings(), []
    for folder in folders:
        try:
            entries += (_entries if folder.absolute().parent.name in STAGES else _passed_on)(folder, found)
        except ValueError:
            found.results += 1
            found.damaged[folder] = [MANIFEST]
    return _checked(entries, found, progress)


def _entries(folder: Path, found: Findings) -> list[Entry]:
    """Return each file of a result; a subfolder as a whole where its files' hashes are not known."""
    now = read_manifest(folder)
    found.results += 1
    if content_hash(now["stage"], now["key"], now["files"]) != now["content"]:
        found.damaged[folder] = [MANIFEST]
    return entries_of(folder, now)


def entries_of(folder: Path, now: dict[str, Any]) -> list[Entry]:
    """Return what a result's manifest names, as single files where their hashes are known."""
    sums, entries = read_sums(folder), []
    for name, entry in now["files"].items():
        inside = sums.get(name, {})
        if "files" in entry and _is_listing(inside, name, entry):
            entries += [(folder, file, {known["sha256"]}) for file, known in inside.items()]
        else:
            entries.append((folder, name, {entry["sha256"]}))
    return entries


def differing(folder: Path) -> list[str]:
    """Return what of one finished result is not as its manifest says."""
    found = Findings()
    return _checked(_entries(folder, found), found, silent).damaged.get(folder, [])


def _is_listing(inside: Any, name: str, entry: dict[str, Any]) -> bool:
    """Return whether checksums of single files are those that a subfolder's one checksum was made of."""
    with suppress(AttributeError, LookupError, TypeError):  # damaged as well
        return bool(inside) and together(inside, name)["sha256"] == entry["sha256"]
    return False


def _passed_on(folder: Path, found: Findings) -> list[Entry]:
    known: dict[str, set[str]] = {}
    for files in _listed_in(folder):
        for name, entry in files.items():
            known.setdefault(name, set()).add(entry["sha256"])
    found.results += 1
    found.left_out += sum(not (folder / name).exists() for name in known)
    return [(folder, name, hashes) for name, hashes in known.items() if (folder / name).exists()]


def _listed_in(folder: Path) -> Iterator[dict[str, Any]]:
    yield read_manifest(folder)["files"]
    for path in sorted(folder.glob("*.json")):
        with suppress(ValueError, OSError, AttributeError, TypeError, KeyError):
            files = json.loads(path.read_text())["files"]
            if path.name != MANIFEST and all("sha256" in entry for entry in files.values()):
                yield files


def _checked(entries: list[Entry], found: Findings, progress: Callable) -> Findings:
    with ThreadPoolExecutor(max(os.cpu_count() or 1, 4)) as pool:
        results = pool.map(lambda entry: read_entry(entry[0] / entry[1]), entries)
        for (folder, name, right), result in zip(entries, progress(results, label="files", total=len(entries)),
                                                 strict=True):
            found.files += result.get("files", 1)
            found.bytes += result["bytes"]
            if result["sha256"] not in right:
                found.damaged.setdefault(folder, []).append(name)
    return found


def read_entry(path: Path) -> dict[str, Any]:
    """Return SHA-256 and size of a file or a folder; no hash where it cannot be read."""
    try:
        return entry_of(path)
    except OSError:
        return {"sha256": "", "bytes": 0}


def suspects(nodes: list[Node], found: Findings) -> list[Node]:
    """Return those of the dependents that were finished after a file was damaged, and so may have been made from it.

    The time of a file's last change of state tells when that was, which nobody can set.
    """
    since = {folder: min(map(_changed, (folder / name for name in lost if name != MANIFEST)), default=float("inf"))
             for folder, lost in found.damaged.items()}
    suspicious = []
    for node in nodes:
        sources = [since[source.folder] for source in input_nodes(node) if source.folder in since]
        if node.folder not in since and manifest(node) and any(time < _finished(node) for time in sources):
            suspicious.append(node)
            since[node.folder] = _finished(node)
    return suspicious


def _changed(path: Path) -> float:
    """Return when a file's content or state was changed last; of a folder, the last such time in it."""
    times = [file.stat().st_ctime for file in [path, *path.rglob("*")] if file.exists()]
    return max(times, default=float("inf"))  # what is missing was read by nobody


def _finished(node: Node) -> float:
    return (node.folder / MANIFEST).stat().st_mtime


def repair(nodes: list[Node], found: Findings) -> list[str]:
    """Let what is damaged, and what may have been made from it, count as missing, so that the next run makes it again.

    Of a pool only the images that are damaged go. What was made from results before they were damaged stays.

    Returns:
        A line for each folder.
    """
    by_folder = {node.folder: node for node in nodes}
    marked = [(by_folder[folder], lost, "") for folder, lost in found.damaged.items()]
    marked += [(node, [], ", since it was made after its input was damaged") for node in suspects(nodes, found)]
    return [_marked(node, lost, why) for node, lost, why in marked]


def _marked(node: Node, lost: list[str], why: str) -> str:
    try:
        with FileLock(lock_file(node), timeout=0):
            if who := worker(node.folder, share_of(node.params)):
                return f"{shown(node.folder)} is left as it is: {who} works there"
            if lost:
                drop_damaged(node, lost)
            else:
                empty(node.folder)
    except Timeout:
        return f"{shown(node.folder)} is left as it is: another process works there"
    return f"{shown(node.folder)} is marked; the next run makes it again{why}"


def report(found: Findings, nodes: list[Node]) -> list[str]:
    """Return the lines that tell what was found; ``nodes`` is the plan, for what depends on it, or empty."""
    lines = []
    for folder, lost in found.damaged.items():
        more = f", and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        lines.append(f"DAMAGED {shown(folder)}: {', '.join(lost[:SHOWN])}{more}")
    if below := dependents(nodes, found.damaged):
        lines.append(f"Made from it: {listed(below)}")
    left = f"; {found.left_out} files that the manifests name are not passed on" if found.left_out else ""
    lines.append(f"{found.files:,} files ({size(found.bytes)}) of {found.results} results checked, "
                 f"{len(found.damaged) or 'none'} damaged{left}")
    return lines
