"""Opening a stage's folder: one at a time, and only on work that was made from what its inputs hold now.

Before any work, ``inputs.json`` says what the folder is begun with: the content of its inputs, the parameters that
decide the result, the stage's own code. Whoever opens it later, by hand or through the runner, takes up what is there
only if it was begun with the same inputs. So score blocks, repeats, checkpoints and images of a run that was stopped
count exactly as long as what they were made from.
"""

import json
import os
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dgs_utils.artifacts.files import HOST, recover, write_json
from dgs_utils.artifacts.manifests import (
    BEGUN,
    MANIFEST,
    SHARES,
    covers,
    damaged,
    read_begun,
    read_manifest,
    same_source,
)
from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.own_code import code_hashes

LOCK = ".lock"  # begins the names of all locks in a stage folder
WORK = f"{LOCK}.work"  # held by whoever has opened the folder; with the share behind it
DOOR = f"{LOCK}.door"  # held for the moment of opening
HOLDER = ".holder"  # who holds it; with the share behind it
KEPT = {"notebook.ipynb", "log.txt", "asked.json", SHARES}  # of the run that is just beginning
PAUSE = 0.2  # seconds between looks at a folder where somebody else works

_held: "weakref.WeakValueDictionary[Path, FileLock]" = weakref.WeakValueDictionary()  # by this process


def share_of(params: Any) -> str:
    """Return which share of a pool is made, as "1-4"; "" for all of it, and for all other stages."""
    return getattr(params, "shard", "").replace("/", "-")


def take(folder: Path, share: str = "") -> FileLock:
    """Take a folder for this process, waiting for another that works there; who it is gets printed.

    Processes that make different shares of a pool work side by side. A process that opens its own folder again gets
    the same lock.
    """
    path, said = folder / f"{WORK}{share}", ""
    while True:
        with door(folder):
            if not (others := _others(folder, share)):
                lock = _held.get(path) or FileLock(path, thread_local=False)
                lock.acquire(timeout=0)
                _held[path] = lock
                write_json(folder / f"{HOLDER}{share}", {"process": os.getpid(), "host": HOST,
                                                         "since": time.strftime("%Y-%m-%d %H:%M:%S")})
                return lock
        if said != (who := who_works(folder, others[0])):
            said = who
            print(f"{folder} is held by {who}; waiting until it ends", flush=True)
        time.sleep(PAUSE)


def _others(folder: Path, share: str) -> list[str]:
    """Return the shares ("" = the whole) that other processes hold and that do not go together with this one."""
    return [other for other in _shares(folder) if not (share and other and share != other)]


def _shares(folder: Path) -> list[str]:
    """Return the shares that other processes hold."""
    files = [file for file in folder.glob(f"{WORK}*") if file not in _held and is_locked(file)]
    return [file.name.removeprefix(WORK) for file in files]


def door(folder: Path) -> FileLock:
    """Return the lock under which processes that make shares of one pool look at it one after the other."""
    return FileLock(folder / DOOR)


def is_locked(file: Path) -> bool:
    """Return whether some process holds a lock."""
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # read-only outputs: nobody works there
        return False


def who_works(folder: Path, share: str = "") -> str:
    """Return who has a folder, as the middle of a sentence."""
    try:
        found = json.loads((folder / f"{HOLDER}{share}").read_text())
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def worker(folder: Path, share: str = "") -> str:
    """Return who else has opened a folder so that it cannot be opened now, as `who_works` says it; "" for nobody."""
    others = _others(folder, share)
    return who_works(folder, others[0]) if others else ""


def release(folder: Path, lock: FileLock | None, share: str = "") -> None:
    """Give a folder back."""
    if lock is not None:
        (folder / f"{HOLDER}{share}").unlink(missing_ok=True)
        lock.release(force=True)


def begin_on(node: Node, sources: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Settle what of a folder counts, and write down what it is begun with; the caller holds the folder.

    Args:
        node: what is to be made.
        sources: the inputs as they are now: name, folder, key, content, and count where only the first so many images a
            class are read.

    Returns:
        The manifest where the folder is finished already from the same inputs, and stays as it is; None where there is
        work to do, from the beginning or from where it was left.

    Raises:
        ValueError: the folder is one that somebody named, and holds what no stage wrote.
    """
    folder = node.folder
    recover(folder)
    manifest = _manifest(folder)
    begun, now = read_begun(folder) or manifest, code_hashes(node.stage)
    reason = _difference(node, sources, begun) if begun else _unknown(node)
    if reason:
        if shares := [other for other in _shares(folder) if other != share_of(node.params)]:
            raise ValueError(f"{folder} holds {reason}, and {who_works(folder, shares[0])} is still at work on it; "
                             f"run this again when that has ended")
        empty(folder)
        print(f"{folder} held {reason}; it is removed, and {node.stage} starts over", flush=True)
        begun = manifest = None
    elif manifest and (lost := damaged(folder, manifest)):
        drop_damaged(node, lost)
        print(f"{folder}: {', '.join(lost)[:200]} is missing or damaged, and is made again", flush=True)
        manifest = None
    code = begun.get("code") if begun else now
    other = code != now
    if manifest and covers(manifest, node.count):
        how = ("and by the same code; it is used as it is" if not other else "but by another version of the code; it "
               f"is kept as it is. To make it anew, delete it or use dgs run --force {node.stage[3:]}")
        print(f"{folder} is finished already, from the same inputs {how}", flush=True)
        return manifest
    if other:
        print(f"{folder} was begun by another version of the code, and goes on from there", flush=True)
    later = [*(begun or {}).get("later_code", []), *([now] if other else [])]
    (folder / MANIFEST).unlink(missing_ok=True)
    write_json(folder / BEGUN, _record(node, sources, code or now, later),
               durable=True)
    return None


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(folder)
    except ValueError:
        return None


def _record(node: Node, sources: list[dict], code: dict[str, str], later: list[dict]) -> dict[str, Any]:
    return {"stage": node.stage, "key": node.key, "identity": node.identity, "inputs": sources,
            "given": given_paths(node), "code": code,
            "later_code": [entry for n, entry in enumerate(later) if entry not in later[:n]],
            "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def given_paths(node: Node) -> dict[str, Any]:
    """Return path and content of each file or folder that the node's parameters name."""
    return {name: {"path": getattr(node.params, name), "content": content} for name, content in node.given.items()
            if "sha256:" in str(content)}


def _difference(node: Node, sources: list[dict], begun: dict[str, Any]) -> str:
    """Return what a folder was made from that its node is not, as the middle of a sentence; "" where all agrees."""
    if (begun.get("stage"), begun.get("key")) != (node.stage, node.key):
        return f"{begun.get('stage')} with other parameters"
    if begun.get("identity", node.identity) != json.loads(json.dumps(node.identity)):
        return "a result with other parameters"
    for before in begun["inputs"]:
        found = [now for now in sources if (now["name"], now["key"]) == (before["name"], before["key"])]
        if not found:
            return f"work from another {before['name']}, {before['folder']}"
        if not any(same_source(before, now) for now in found):
            return f"work from another content of {before['name']}, {before['folder']}"
    return "" if len(sources) == len(begun["inputs"]) else "work from other inputs"


def _unknown(node: Node) -> str:
    """Return what stands in a folder of which nobody knows what it was begun with; "" where nothing does."""
    left = [entry.name for entry in node.folder.iterdir() if entry.name not in KEPT | {"progress.json", "failure.json"}
            and not entry.name.startswith(".")]
    if left and node.params.output:
        raise ValueError(f"output: {node.folder} holds {left[0]}, which no stage wrote; give an empty or a new folder")
    return f"{left[0]}, of which nobody knows what it was made from" if left else ""


def drop_damaged(node: Node, lost: list[str]) -> None:
    """Remove what is damaged, with all part results beside it, but for a pool's other images, which are costly."""
    (node.folder / MANIFEST).unlink(missing_ok=True)
    if node.stage != "02_pool":
        empty(node.folder, keep=(BEGUN,))
        return
    for name in lost:
        path = node.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def empty(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove what earlier runs left in a stage folder, the manifest first; locks stay, and what is being written."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if not entry.name.startswith((LOCK, HOLDER)) and entry.name not in KEPT | set(keep):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)
