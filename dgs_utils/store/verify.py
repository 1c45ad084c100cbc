"""Verify: files of finished results compared with their manifests, and the repair of what differs.

`verify_nodes` reads every byte; before each run `changed_since_finish` reads only what has changed (see `integrity`).
"""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgs_utils.params import STAGES
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.units import format_size
from dgs_utils.store.integrity import RECORDS, checksums_of, damaged_files, hash_or_none
from dgs_utils.store.lock import LOCK, LOCK_INFO, emptying_lock, runner_lock, shard_of
from dgs_utils.store.manifest import CHECKSUMS, MANIFEST, RUN_INPUTS, damaged_records, read_manifest, restore_records
from dgs_utils.store.node import Node, downstream, input_nodes
from dgs_utils.store.paths import display_path
from dgs_utils.store.resume import empty, remove_damaged
from dgs_utils.store.status import count_by_stage, finished_at, manifest_fault, node_manifest, one_look

MAX_SHOWN_FILES = 5  # damaged files of one folder that are named

Entry = tuple[Path, str, set[str]]  # a folder, a name in it, the SHA-256 that are right for it


@dataclass
class VerifyReport:
    """What was checked, and what is wrong with it."""

    # By folder the names of files, or of subfolders, that differ from its manifest.
    damaged: dict[Path, list[str]] = field(default_factory=dict)
    missing: list[Node] = field(default_factory=list)  # results of the plan without a folder, or with an empty one
    unfinished: list[Node] = field(default_factory=list)  # results of the plan with files and without a manifest
    results: int = 0  # how many folders were checked
    files: int = 0  # how many files were read
    bytes: int = 0  # how large they are
    unpublished: int = 0  # files that a manifest names and a published folder does not have

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged, missing or unfinished."""
        return not (self.damaged or self.missing or self.unfinished)

    def add(self, folder: Path, names: list[str]) -> None:
        """Add damaged files of a folder, if there are any."""
        if names:
            self.damaged.setdefault(folder, []).extend(names)


# ---- Every byte ------------------------------------------------------------------------------------------------------

def verify_nodes(nodes: list[Node], progress: Callable = no_progress) -> VerifyReport:
    """Check the results of a plan; one whose manifest cannot be read is damaged, one without is not finished."""
    report, finished = VerifyReport(), []
    for node in nodes:
        if node_manifest(node):
            finished.append(node.folder)
        elif manifest_fault(node):
            report.results += 1
            report.add(node.folder, [MANIFEST])
        else:
            (report.unfinished if has_content(node.folder) else report.missing).append(node)
    return _check(finished, report, progress)


def has_content(folder: Path) -> bool:
    """Return whether a folder holds more than the locks that its runners left."""
    try:
        return any(not name.startswith((LOCK, LOCK_INFO)) for name in os.listdir(folder))
    except OSError:  # there is none, or it has just been removed
        return False


def verify_folders(root: Path, progress: Callable = no_progress) -> VerifyReport:
    """Check all folders below ``root`` that have manifests: results, or published ones such as ``outputs/evidence``.

    A published folder need not hold all that its manifest names. What it holds is as one of the manifests beside it
    says, since tables that are made from published rows have a manifest of their own.

    Raises:
        ValueError: there is no such folder.
    """
    folders = sorted({path.parent for path in root.rglob(MANIFEST)})
    if not folders:
        raise ValueError(f"{root} holds no {MANIFEST}; give an experiment file, or a folder of results")
    return _check(folders, VerifyReport(), progress)


def corrupt_files(folder: Path) -> list[str]:
    """Return the files of one finished result that are not what its stage wrote, after reading every byte."""
    return _check([folder], VerifyReport(), no_progress).damaged.get(folder, [])


def _check(folders: Iterable[Path], report: VerifyReport, progress: Callable) -> VerifyReport:
    """Add to a report what is wrong with some folders that have a manifest."""
    entries: list[Entry] = []
    for folder in folders:
        report.results += 1
        try:
            manifest = read_manifest(folder)
        except ValueError:
            report.add(folder, [MANIFEST])
            continue
        if folder.absolute().parent.name in STAGES:
            report.add(folder, damaged_records(folder, manifest))
            entries += [(folder, name, {right}) for name, right in checksums_of(folder, manifest)]
        else:
            published = _published_entries(folder, manifest)
            entries += [entry for entry in published if (folder / entry[1]).exists()]
            report.unpublished += sum(not (folder / name).exists() for _, name, _ in published)
    with ThreadPoolExecutor(max(os.cpu_count() or 1, 4)) as pool:
        hashes = pool.map(lambda entry: hash_or_none(entry[0] / entry[1]), entries)
        for (folder, name, right), result in zip(entries, progress(hashes, label="files", total=len(entries)),
                                                 strict=True):
            report.files += result.get("files", 1)
            report.bytes += result["bytes"]
            report.add(folder, [] if result["sha256"] in right else [name])
    return report


def _published_entries(folder: Path, manifest: dict[str, Any]) -> list[Entry]:
    """Return what the manifests in a published folder name, with all hashes that they have for it."""
    hashes = {name: {entry["sha256"]} for name, entry in manifest["files"].items()}
    for path in sorted(folder.glob("*.json")):
        with suppress(ValueError, OSError, AttributeError, TypeError, KeyError, RecursionError):
            files = json.loads(path.read_text())["files"] if path.name != MANIFEST else {}
            for name, value in [(name, entry["sha256"]) for name, entry in files.items()]:
                hashes.setdefault(name, set()).add(value)
    return [(folder, name, right) for name, right in hashes.items()]


# ---- What has changed since it was finished --------------------------------------------------------------------------

def changed_since_finish(nodes: list[Node]) -> VerifyReport:
    """Return which files of finished results, of a plan and of its inputs, are missing or not what they were."""
    report, asked = VerifyReport(), _with_inputs(nodes)
    with one_look(asked):
        for node in asked:
            if manifest := node_manifest(node):
                report.add(node.folder, damaged_files(node.folder, manifest["entries"]))
    return report


def _with_inputs(nodes: list[Node]) -> list[Node]:
    return list({node.key: node for one in nodes for node in (*input_nodes(one), one)}.values())


def corrupt_lines(report: VerifyReport) -> list[str]:
    """Return a line for each damaged result of `changed_since_finish`."""
    return [f"{display_path(folder / lost[0])}{f' and {len(lost) - 1} more files' if lost[1:] else ''} is missing or "
            f"changed since its stage finished; a run makes it again, and what was made from it meanwhile"
            for folder, lost in report.damaged.items()]


def mark_corrupt_for_rebuild(nodes: list[Node]) -> list[str]:
    """Make damaged results count as missing, so that this run makes them again; return a line for each."""
    report = changed_since_finish(nodes)
    repaired = repair(_with_inputs(nodes), report) if report.damaged else []
    return corrupt_lines(report) + [line for line in repaired if "left as it is" in line]


# ---- Repair ----------------------------------------------------------------------------------------------------------

def repair(nodes: list[Node], report: VerifyReport) -> list[str]:
    """Make what is damaged, and what may have been made from it, count as missing, so that the next run makes it again.

    Of a pool only the damaged images go. What was made from results before they were damaged stays: when that was is
    the file's change time, which no program can set. Records beside a manifest are written anew.

    Returns:
        A line for each folder.
    """
    since = {folder: min(map(_last_change, (folder / name for name in lost if name not in RECORDS)),
                         default=float("inf")) for folder, lost in report.damaged.items()}
    lines = [_mark_for_rebuild(node, report.damaged[node.folder], "") for node in nodes if node.folder in since]
    for node in nodes:
        begun = min((since.get(source.folder, float("inf")) for source in input_nodes(node)), default=float("inf"))
        if node.folder not in since and begun < (finished := finished_at(node.folder)) and node_manifest(node):
            since[node.folder] = finished
            lines.append(_mark_for_rebuild(node, [], ", since it was made after its input was damaged"))
    return lines


def _last_change(path: Path) -> float:
    times = []
    for file in [path, *path.rglob("*")]:
        with suppress(OSError):  # it is missing, or another process has just removed it
            times.append(file.stat().st_ctime)
    return max(times, default=float("inf"))  # no later stage has read what is missing


def _mark_for_rebuild(node: Node, lost: list[str], why: str) -> str:
    folder = node.folder
    part = shard_of(node.params)
    with runner_lock(folder, part) as runner, emptying_lock(folder, part) as session:
        if owner := runner or session:
            return f"{display_path(folder)} is left as it is: {owner} works there"
        if lost and set(lost) <= {CHECKSUMS, RUN_INPUTS}:
            restore_records(folder, manifest := read_manifest(folder))
            if not damaged_records(folder, manifest):
                return f"{display_path(folder)}: {', '.join(lost)} is written anew"
        if lost:
            remove_damaged(node, lost)
        else:
            empty(folder)
    return f"{display_path(folder)} is marked; the next run makes it again{why}"


def report_lines(report: VerifyReport, nodes: list[Node]) -> list[str]:
    """Return the lines of a report; ``nodes`` is the plan, for what depends on what is damaged, or empty."""
    lines = []
    for folder, lost in report.damaged.items():
        more = f", and {len(lost) - MAX_SHOWN_FILES} more" if len(lost) > MAX_SHOWN_FILES else ""
        lines.append(f"DAMAGED {display_path(folder)}: {', '.join(lost[:MAX_SHOWN_FILES])}{more}")
    if below := [node for node in downstream(nodes, report.damaged) if node_manifest(node)]:
        lines.append(f"Made from it: {count_by_stage(below)}")
    for lacking, what in ((report.missing, "missing"), (report.unfinished, "not finished (no manifest)")):
        if lacking:
            lines.append(f"{len(lacking)} of the plan's {len(nodes)} results {'is' if len(lacking) == 1 else 'are'} "
                         f"{what}, the first {display_path(lacking[0].folder)}")
    left = f"; {report.unpublished} files that the manifests name are not passed on" if report.unpublished else ""
    damaged = f", {len(report.damaged) or 'none'} damaged{left}" if report.results else ""
    lines.append(f"{report.files:,} files ({format_size(report.bytes)}) of {report.results} results checked{damaged}")
    return lines
