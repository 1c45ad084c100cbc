"""What has become of a node, told from its folder alone.

A runner holds `LOCK` in the folder while it works, and the notebook a lock of its own (`artifacts.opening`); the system
frees them when these processes end, however they end.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.manifests import INPUT, MANIFEST, SHARES, content_of, covers, read_manifest
from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.opening import LOCK, is_locked, share_of
from dgs_utils.artifacts.own_code import code_hashes
from dgs_utils.artifacts.places import outputs_root

FAILURE = "failure.json"
ASKED = "asked.json"
KEPT = ("stage", "key", "label", "content", "inputs", "seconds", "code", "later_code", "count", "chain", "given")
STATES = ("done", "running", "failed", "stale", "missing")


def state(node: Node) -> str:
    """Return one of `STATES`.

    done: a readable manifest with the node's key. stale: done, but an input was made anew with another content.
    running: another process holds it. failed: its last run ended with an error. missing: none of these.
    """
    found = manifest(node)
    if found:
        return "stale" if changed_inputs(found) else "done"
    folder = node.folder
    if not folder.is_dir():
        return "missing"
    if _is_held(folder):
        return "running"
    return "failed" if (folder / FAILURE).exists() else "missing"


def manifest(node: Node) -> dict[str, Any] | None:
    """Return the manifest of a node's finished result.

    None where it is unfinished, damaged or another node's, or has fewer images a class or trainings than are asked for.
    """
    found = manifest_in(node.folder)
    return found if found and found["key"] == node.key and covers(found, node.count) else None


def manifest_in(folder: Path | str) -> dict[str, Any] | None:
    """Return what `KEPT` names of a folder's manifest, or None where there is no readable one."""
    path = f"{folder}/{MANIFEST}"
    if _moment is None:
        return _manifest_at(path)
    if path not in _moment:
        _moment[path] = _manifest_at(path)
    return _moment[path]


_moment: dict[str, dict[str, Any] | None] | None = None  # within `one_moment`, what was found


@contextmanager
def one_moment() -> Iterator[None]:
    """Look at each manifest once within the block, which tells what thousands of results were at one moment."""
    global _moment
    _moment = {}
    try:
        yield
    finally:
        _moment = None


def _manifest_at(path: str) -> dict[str, Any] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    mark = status.st_mtime_ns, status.st_ino, status.st_size
    known = _manifests.get(path)
    if known is None or known[0] != mark:
        known = _manifests[path] = mark, *_read(Path(path).parent)
    return known[1]


def damage(node: Node) -> str:
    """Return why a node whose folder has a manifest counts as missing, in a sentence; "" where it does not."""
    found = manifest_in(node.folder)
    if found:
        return "" if found["key"] == node.key else f"{node.folder / MANIFEST} is that of another result"
    known = _manifests.get(f"{node.folder}/{MANIFEST}")
    return known[2] if known and (node.folder / MANIFEST).exists() else ""


_manifests: dict[str, tuple] = {}  # by path: what told that it is the same, what is kept of it, what is wrong with it


def _read(folder: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        found = read_manifest(folder)
    except ValueError as error:
        return None, str(error)
    except OSError as error:  # it has just been removed
        return None, f"{folder / MANIFEST} cannot be read ({error.strerror})"
    kept = {name: found.get(name) for name in KEPT}
    kept |= {name: tuple(found[name]) for name in ("later_code", "chain")}
    kept["inputs"] = [{name: sys.intern(source[name]) for name in INPUT} | _counted(source)
                      for source in found["inputs"]]
    counts = {name: entry.get("files", 1) for name, entry in found["files"].items()}
    held = {name: count if isinstance(count, int) else 1 for name, count in counts.items()}
    kept["held"] = _held.setdefault(repr(held), held)
    kept["given"] = kept["given"] or None  # mostly empty, and many are kept
    kept["code"] = _codes.setdefault(repr(found["code"]), found["code"])
    return kept, ""


def _counted(source: dict[str, Any]) -> dict[str, int]:
    return {"count": source["count"]} if isinstance(source.get("count"), int) else {}


_codes: dict[str, Any] = {}  # the few hashes of code that many thousand manifests name
_held: dict[str, dict[str, int]] = {}  # the few lists of entries that they have


def changed_inputs(found: dict[str, Any]) -> list[str]:
    """Return the input folders that hold another content now than a finished result was made from."""
    root = str(outputs_root())
    changed = []
    for source in found["inputs"]:
        now = manifest_in(os.path.join(root, source["folder"])) if source["content"] else None
        if now and now["key"] == source["key"] and content_of(now, source.get("count", 0)) != source["content"]:
            changed.append(source["folder"])
    return changed


def made_by_other_code(node: Node) -> bool:
    """Return whether a finished result, or part of it, was made by another version of the stage's own code."""
    found = manifest(node)
    return found is not None and any(code != _code(node.stage) for code in (found["code"], *found["later_code"]))


@cache
def _code(stage: str) -> dict[str, str]:
    return code_hashes(stage)


def failure(node: Node) -> str:
    """Return the error of a node's last, failed run; "" where there is none."""
    path = node.folder / FAILURE
    try:
        return str(json.loads(path.read_bytes())["error"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return f"{path} is damaged, so that the reason is lost; run again"


def asked_for(folder: Path) -> tuple[str, ...]:
    """Return the command that asked for a result: the experiment file, and what --set changed; () for one by hand."""
    try:
        words = json.loads((folder / ASKED).read_text())
        return tuple(map(str, words)) if isinstance(words, list) else ()
    except (OSError, ValueError):
        return ()


def share(node: Node) -> str:
    """Return which share of a pool a node generates, as "1-4"; "" for all of it, and for all other stages."""
    return share_of(node.params)


def lock_file(node: Node) -> Path:
    """Return the file that a node's runner holds; runners of different shares do not wait for each other."""
    return node.folder / f"{LOCK}{share(node)}"


def record_folder(node: Node) -> Path:
    """Return where the executed notebook and its log are."""
    return node.folder / SHARES / share(node) if share(node) else node.folder


def _is_held(folder: Path) -> bool:
    return any(is_locked(file) for file in folder.glob(f"{LOCK}*"))
