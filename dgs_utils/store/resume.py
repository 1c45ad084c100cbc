"""Resuming: what of a stage folder counts when a session opens it, and what is removed.

Before any work, ``inputs.json`` says what the folder's work is made from: the content of its inputs, the parameters
that decide the result, the stage's own code. A later session, by hand or through a runner, resumes the partial results
in the folder only if they were made from the same inputs; else it removes them.
"""

import os
from pathlib import Path
from typing import Any

from dgs_utils.store.atomic import remove_path
from dgs_utils.store.code_fingerprint import code_hashes
from dgs_utils.store.integrity import RECORDS, damaged_files
from dgs_utils.store.lineage import input_unchanged
from dgs_utils.store.lock import LOCK, LOCK_INFO, lock_owner, locked_shards, shard_of
from dgs_utils.store.manifest import (
    MANIFEST,
    REQUEST,
    RUN_INPUTS,
    SHARDS,
    entry_counts,
    find_manifest,
    has_at_least,
    read_manifest,
    read_run_inputs,
    restore_records,
)
from dgs_utils.store.node import Node
from dgs_utils.store.records import write_record
from dgs_utils.store.status import cached_manifest

KEPT_FILES = {"notebook.ipynb", "log.txt", REQUEST, SHARDS}  # of the run that is just beginning


def resume_or_reset(node: Node, sources: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Keep what a folder holds if it was made from the same inputs, else remove it; the caller has locked the folder.

    ``sources`` are the inputs as they are now (`manifest.InputEntry`).

    Returns:
        The manifest where the folder is finished already from the same inputs, and stays as it is; None where there is
        work to do, from the beginning or from where it was left.

    Raises:
        ValueError: the folder was named by the user, and holds what no stage wrote.
    """
    folder = node.folder
    manifest = find_manifest(folder)
    begun, now = manifest or read_run_inputs(folder), code_hashes(node.stage)
    reason = _difference(node, sources, begun) if begun else _untracked_file(node)
    if reason:
        if shards := [other for other in locked_shards(folder) if other != shard_of(node.params)]:
            raise ValueError(f"{folder} holds {reason}, and {lock_owner(folder, shards[0])} is still at work on it; "
                             f"run this again when that has ended")
        empty(folder)
        print(f"{folder} held {reason}; it is removed, and {node.stage} starts over", flush=True)
        begun = manifest = None
    elif manifest and (damaged := damaged_files(folder, entry_counts(manifest))):
        if lost := [name for name in damaged if name not in RECORDS]:
            remove_damaged(node, lost)
            print(f"{folder}: {', '.join(lost)[:200]} is missing or damaged, and is made again", flush=True)
            manifest = None
        else:
            restore_records(folder, manifest)
    code = begun["code"] if begun else now
    if manifest and has_at_least(manifest, node.count):
        how = ("and by the same code; it is used as it is" if code == now else "but by another version of the code; it "
               f"is kept as it is. To make it anew, delete it or use dgs run --force {node.stage[3:]}")
        print(f"{folder} is finished already, from the same inputs {how}", flush=True)
        note_paths(node)
        return find_manifest(folder)
    later = begun["later_code"] if begun else []
    if code != now:
        print(f"{folder} was begun by another version of the code, and goes on from there", flush=True)
        later = [*later, *([now] if now not in later else [])]
    remove_path(folder / MANIFEST)
    write_record(folder / RUN_INPUTS, run_inputs(node, sources, code, later), durable=True)
    return None


def note_paths(node: Node) -> None:
    """Note in a finished result where the user's files and folders are now; the caller has locked the folder."""
    manifest = cached_manifest(node.folder)
    if manifest and manifest["key"] == node.key and manifest["given"] != node.external_files:
        finished = (node.folder / MANIFEST).stat()
        restore_records(node.folder, read_manifest(node.folder) | {"given": node.external_files})
        os.utime(node.folder / MANIFEST, ns=(finished.st_atime_ns, finished.st_mtime_ns))  # `verify.repair` goes by it


def run_inputs(node: Node, sources: list[dict], code: dict[str, str], later: list[dict]) -> dict[str, Any]:
    """Return what a folder's work is made from, as its ``inputs.json`` and its manifest say it."""
    return {"stage": node.stage, "key": node.key, "identity": node.fingerprint, "inputs": sources,
            "given": node.external_files, "code": code, "later_code": later}


def _difference(node: Node, sources: list[dict[str, Any]], begun: dict[str, Any]) -> str:
    """Return the first difference between what a folder was made from and what is asked for; "" if there is none."""
    if (begun["stage"], begun["key"]) != (node.stage, node.key):
        return f"{begun['stage']} with other parameters"
    for before in begun["inputs"]:
        same = [now for now in sources if (now["name"], now["key"]) == (before["name"], before["key"])]
        if not same:
            return f"work from another {before['name']}, {before['folder']}"
        if not any(input_unchanged(before, now) for now in same):
            return f"work from another content of {before['name']}, {before['folder']}"
    return "" if len(sources) == len(begun["inputs"]) else "work from other inputs"


def _untracked_file(node: Node) -> str:
    """Return a file in a folder without record of its inputs, as a phrase; "" where there is none."""
    left = [entry.name for entry in node.folder.iterdir()
            if entry.name not in KEPT_FILES | {"progress.json", "failure.json"} and not entry.name.startswith(".")]
    if left and node.params.output:
        raise ValueError(f"output: {node.folder} holds {left[0]}, which no stage wrote; give an empty or a new folder")
    return f"{left[0]}, without a record of what it was made from" if left else ""


def remove_damaged(node: Node, lost: list[str]) -> None:
    """Remove what is damaged, with all partial results beside it, except a pool's other images, which are costly."""
    remove_path(node.folder / MANIFEST)
    if node.stage != "02_pool":
        empty(node.folder, keep=KEPT_FILES | {RUN_INPUTS})
        return
    for name in lost:
        remove_path(node.folder / name)


def empty(folder: Path, keep: set[str] = KEPT_FILES) -> None:
    """Remove what earlier runs left in a stage folder, the manifest first; locks stay, and what is being written."""
    remove_path(folder / MANIFEST)
    for entry in folder.iterdir():
        if not entry.name.startswith((LOCK, LOCK_INFO)) and entry.name not in keep:
            remove_path(entry)
