"""The status of a node, from its folder alone: which it is, for what reasons, and what it costs to make results again.

A runner holds `LOCK` in the folder while it works, and the session a lock of its own (`store.lock`); the system frees
them when these processes end, however they end.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from dgs_utils.params.base import sorted_json
from dgs_utils.runtime.units import format_duration
from dgs_utils.store.atomic import read_json
from dgs_utils.store.code_fingerprint import code_hashes
from dgs_utils.store.hashing import insert_rows, is_stable, select_rows, stat_signature
from dgs_utils.store.lock import LOCK, is_locked, shard_of
from dgs_utils.store.manifest import (
    MANIFEST,
    REQUEST,
    SHARDS,
    entry_counts,
    has_at_least,
    prefix_hash,
    read_manifest,
    read_run_inputs,
)
from dgs_utils.store.node import Node, downstream, read_class_folders
from dgs_utils.store.paths import display_path, outputs_root

FAILURE = "failure.json"
CACHED_FIELDS = ("stage", "key", "label", "content", "inputs", "seconds", "code", "later_code", "count", "chain",
                 "given", "decisive")


class Status(StrEnum):
    """What has become of a node."""

    DONE = "done"  # a readable manifest with the node's key
    RUNNING = "running"  # another process has locked it
    FAILED = "failed"  # its last run ended with an error
    STALE = "stale"  # done, but an input was made anew with another content
    MISSING = "missing"  # none of these


def node_status(node: Node) -> Status:
    """Return the status of a node."""
    if manifest := node_manifest(node):
        return Status.STALE if changed_inputs(manifest) else Status.DONE
    folder = node.folder
    if not folder.is_dir():
        return Status.MISSING
    if any(is_locked(file) for file in folder.glob(f"{LOCK}*")):
        return Status.RUNNING
    return Status.FAILED if (folder / FAILURE).exists() else Status.MISSING


# ---- Manifests -------------------------------------------------------------------------------------------------------

_manifests: dict[str, tuple] = {}  # by path: what shows that it is the same, `CACHED_FIELDS` of it, what is wrong
_seen: dict[str, dict[str, Any] | None] | None = None  # by path, while `one_look` lasts


@contextmanager
def one_look(nodes: Iterable[Node] = ()) -> Iterator[None]:
    """Look at each manifest once while a table is made, which asks for each of them many times.

    Those of ``nodes`` are not checked again where they are as they were when they were checked last. That is noted
    beside the hashes of the user's files; the same signs show a change (see `hashing`).
    """
    global _seen
    before, _seen = _seen, {}
    try:
        new = [path for node in nodes if (path := f"{node.folder}/{MANIFEST}") not in _manifests]
        asked = "signature = ? and path in (select value from json_each(?))", MANIFEST, json.dumps(new)
        for path, _, text in select_rows(*asked) if new and outputs_root().is_dir() else ():
            with suppress(ValueError, TypeError):  # a row of somebody else's
                checks, signature, kept = from_json(text, cache_strings="all")
                if checks == _checks():
                    _manifests[path] = tuple(signature), kept, ""
        noted = {path: _manifests[path][0] for path in new if path in _manifests}
        rows = [(path, MANIFEST, json.dumps([_checks(), *_manifests[path][:2]])) for path in new
                if cached_manifest(os.path.dirname(path)) and (signature := _manifests[path][0]) != noted.get(path)
                and is_stable(signature[:3])]
        if rows:
            insert_rows(rows)
        yield
    finally:
        _seen = before


def node_manifest(node: Node) -> dict[str, Any] | None:
    """Return `cached_manifest` of a node's finished result.

    None where it is unfinished, damaged or another node's, or has fewer images a class or trainings than are asked for.
    """
    manifest = cached_manifest(node.folder)
    return manifest if manifest and manifest["key"] == node.key and has_at_least(manifest, node.count) else None


def cached_manifest(folder: Path | str) -> dict[str, Any] | None:
    """Return `CACHED_FIELDS` of a folder's manifest, with its size (`size_key`), the number of files of each entry and
    the class folders that count; None where there is no readable one.
    """
    path = f"{folder}/{MANIFEST}"
    seen = {} if _seen is None else _seen
    if path not in seen:
        seen[path] = _current_manifest(path)
    return seen[path]


@cache
def _checks() -> str:
    """Return a hash of the code that checks manifests."""
    files = [file for room in ("params", "store") for file in (Path(__file__).parents[1] / room).glob("*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:12]


def _current_manifest(path: str) -> dict[str, Any] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    signature = *stat_signature(status), status.st_ino
    if path not in _manifests or _manifests[path][0] != signature:
        try:
            manifest = read_manifest(Path(path).parent)
            kept = {name: manifest[name] for name in CACHED_FIELDS} | {
                "size": size_key(manifest["identity"], manifest["params"]),
                "entries": entry_counts(manifest),
                "class_folders": sorted(read_class_folders(manifest)) if manifest["given"] else []}
            _manifests[path] = signature, kept, ""
        except ValueError as error:
            _manifests[path] = signature, None, str(error)
    return _manifests[path][1]


def size_key(identity: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may decide how long a result takes: what decides it, as a hash, its IPC, trainings or pool images."""
    text = sorted_json({name: value for name, value in identity.items() if name != "seed"})
    return {"hash": hashlib.sha256(text.encode()).hexdigest()[:12], "ipc": identity.get("ipc", 0),
            "count": params.get("repeats", params.get("images_per_class", 0))}


def manifest_fault(node: Node) -> str:
    """Return why a node whose folder has a manifest counts as missing, in a sentence; "" where it does not."""
    if manifest := cached_manifest(node.folder):
        return "" if manifest["key"] == node.key else f"{node.folder / MANIFEST} is that of another result"
    cached = _manifests.get(f"{node.folder}/{MANIFEST}")
    return cached[2] if cached and (node.folder / MANIFEST).exists() else ""


def changed_inputs(manifest: dict[str, Any]) -> list[str]:
    """Return the input folders that hold another content now than a finished result was made from."""
    root = str(outputs_root())
    return [source["folder"] for source in manifest["inputs"]
            if source["content"] and (now := cached_manifest(os.path.join(root, source["folder"])))
            and prefix_hash(now, source.get("count", 0)) != source["content"]]


def made_by_other_code(node: Node) -> bool:
    """Return whether a result, or what there is of it, was made or begun by another version of the stage's own code."""
    made = node_manifest(node) or read_run_inputs(node.folder)
    return made is not None and any(
        code != _current_code(node.stage) for code in (made["code"], *made["later_code"]))


@cache
def _current_code(stage: str) -> dict[str, str]:
    return code_hashes(stage)


# ---- Other files of a node's folder ----------------------------------------------------------------------------------

def failure(node: Node) -> str:
    """Return the error of a node's last, failed run; "" where there is none."""
    path = node.folder / FAILURE
    match read_json(path):
        case {"error": str(error)}:
            return error
    return f"{path} is damaged, so that the reason is lost; run again" if path.exists() else ""


def requested_by(folder: Path) -> tuple[str, ...]:
    """Return the command that asked for a result: the experiment file, and what --set changed; () for one by hand."""
    match read_json(folder / REQUEST):
        case {"command": [*words]}:
            return tuple(map(str, words))
    return ()  # also where it is damaged


def notebook_dir(node: Node) -> Path:
    """Return where the executed notebook and its log are."""
    return node.folder / SHARDS / shard_of(node.params) if shard_of(node.params) else node.folder


# ---- Reasons and costs -----------------------------------------------------------------------------------------------

def why_stale(node: Node) -> str:
    """Return one sentence on why a stale node is made again, the same for all nodes with this reason."""
    source = next(iter(changed_inputs(node_manifest(node) or {"inputs": []})), "an input")
    return (f"{display_path(outputs_root() / source)} holds another content than before; what was made from it is made "
            f"again")


def fault_lines(nodes: list[Node]) -> list[str]:
    """Return a line for each node that counts as missing although its folder has a manifest."""
    faults = filter(None, map(manifest_fault, nodes))
    return [f"Counts as missing: {fault.rsplit('; ', 1)[0]}; it is made anew by the next run" for fault in faults]


def reason_lines(nodes: list[Node], statuses: Mapping[str, str]) -> list[str]:
    """Return a line for each reason why finished results are not those that are asked for now, damaged ones first.

    Results whose inputs hold another content now are made again by the next run; what was made from them follows where
    they turn out different. Those that another version of their own code made are kept. ``statuses`` are by key.
    """
    reasons: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        if statuses[node.key] == Status.STALE:
            reasons[why_stale(node)].append(node)
    partial = [(node, manifest) for node in nodes if statuses[node.key] == Status.MISSING
               and (manifest := cached_manifest(node.folder)) and manifest["key"] == node.key]
    lines = [*fault_lines(nodes), *(
        f"{display_path(node.folder)} has {manifest['count']} of the {node.count} that are asked for; the rest is made "
        f"by the next run" for node, manifest in partial)]
    for reason, group in reasons.items():
        below = [node for node in downstream(nodes, [node.folder for node in group])
                 if statuses[node.key] == Status.DONE]
        follows = f"; if it comes out different, {count_by_stage(below)} too" if below else ""
        lines.append(f"{reason} by the next run: {count_by_stage(group)}{follows}")
    lines += changed_external_data([node for node in nodes if statuses[node.key] != Status.DONE])
    old = [node for node in nodes if statuses[node.key] == Status.DONE and made_by_other_code(node)]
    if old:
        lines.append(f"Made by another version of the code, and kept: {count_by_stage(old)}. To make them anew, use "
                     f"--force STAGE, or --force stale for all of them.")
    return lines


def count_by_stage(nodes: list[Node]) -> str:
    """Return how many nodes of each stage there are, and how long they took when they were made."""
    counts = Counter(node.stage for node in nodes)
    seconds = sum(manifest["seconds"] for node in nodes if (manifest := node_manifest(node)))
    return f"{', '.join(f'{count} of {stage}' for stage, count in counts.items())} (took {format_duration(seconds)})"


def changed_external_data(missing: list[Node]) -> list[str]:
    """Return a line for each file or folder of the user's that holds another content than when it was used last.

    Keys of the ``missing`` nodes, which are to be run, follow the content, so that earlier results stay beside them.
    """
    wanted = {(node.stage, name, str(entry)): (node, entry) for node in missing if not node_manifest(node)
              for name, entry in node.external_files.items()}
    written = outputs_root().glob(f"[0-9]*/*/{MANIFEST}") if wanted else ()
    results = {folder: manifest for folder in sorted((path.parent for path in written), key=finished_at)
               if (manifest := cached_manifest(folder)) and manifest["given"]}
    lines = []
    for (_, name, _), (node, entry) in wanted.items():
        earlier = [folder for folder, manifest in results.items()
                   if manifest["stage"] == node.stage and (before := manifest["given"].get(name))
                   and manifest["class_folders"] == sorted({*node.params.class_folders()})
                   and before["path"] == entry["path"] and before["content"] != entry["content"]]
        if earlier:
            paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
            lines.append(f"{node.stage[3:]}.{name} ({', '.join(paths)}) holds another content than when "
                         f"{display_path(earlier[-1])} was made; what depends on it is made again")
    return list(dict.fromkeys(lines))


def finished_at(folder: Path) -> float:
    """Return when a result was finished, as a time; 0 where another process has just removed it."""
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0
