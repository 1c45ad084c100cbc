"""The lock of a stage folder: one session at a time, or one for each shard of a pool; freed when its process ends."""

import os
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dgs_utils.store.atomic import HOST_NAME, read_json, write_json

LOCK = ".lock"  # begins the names of all locks in a stage folder; a runner holds it, with the shard behind it
WORK_LOCK = f"{LOCK}.work"  # held by the session, with the shard behind it
OPEN_LOCK = f"{LOCK}.door"  # held while a session opens
LOCK_INFO = ".holder"  # who holds the work lock, with the shard behind it
LOCK_POLL_S = 0.2
PROBE_S = 0.05  # in which another process that only looks whether a lock is held has let go of it
OPENING_S = 1.0  # for which a command waits while a session opens, before it leaves the folder to that

_own_locks: "weakref.WeakValueDictionary[Path, FileLock]" = weakref.WeakValueDictionary()  # held by this process


def shard_of(params: Any) -> str:
    """Return which shard of a pool is made, as "1-4"; "" for all of it, and for all other stages."""
    return getattr(params, "shard", "").replace("/", "-")


def acquire(folder: Path, shard: str = "") -> FileLock:
    """Lock a folder for this process, waiting for another one that works there, whose id is printed.

    Sessions of different shards of a pool work side by side. A process that opens its own folder again gets the same
    lock.
    """
    path, printed = folder / f"{WORK_LOCK}{shard}", ""
    while True:
        with open_lock(folder):
            if not (owner := other_owner(folder, shard)):
                lock = _own_locks.get(path) or FileLock(path, thread_local=False)
                lock.acquire()  # at once, unless another process just looks whether it is held
                _own_locks[path] = lock
                write_json(folder / f"{LOCK_INFO}{shard}", {"process": os.getpid(), "host": HOST_NAME,
                                                            "since": time.strftime("%Y-%m-%d %H:%M:%S")})
                return lock
        if printed != owner:
            printed = owner
            print(f"{folder} is held by {owner}; waiting until it ends", flush=True)
        time.sleep(LOCK_POLL_S)


def release(folder: Path, lock: FileLock | None, shard: str = "") -> None:
    """Unlock a folder."""
    if lock is not None:
        (folder / f"{LOCK_INFO}{shard}").unlink(missing_ok=True)
        lock.release(force=True)


def runner_lock(folder: Path, shard: str = "") -> AbstractContextManager[str]:
    """Lock a folder, or a shard of it, for a runner, without waiting; return who works there, "" for nobody else."""
    return _owner_under(FileLock(folder / f"{LOCK}{shard}", timeout=0), folder, shard)


def emptying_lock(folder: Path, shard: str = "") -> AbstractContextManager[str]:
    """Keep sessions from opening a folder, which is to be emptied; return who works there, "" for nobody else."""
    return _owner_under(FileLock(folder / OPEN_LOCK, timeout=OPENING_S), folder, shard)


@contextmanager
def _owner_under(lock: FileLock, folder: Path, shard: str) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except Timeout:
            yield other_owner(folder, shard) or "another process"
            return
        yield other_owner(folder, shard)


def open_lock(folder: Path) -> FileLock:
    """Return the lock under which sessions of one folder open one after the other."""
    return FileLock(folder / OPEN_LOCK)


def other_owner(folder: Path, shard: str = "") -> str:
    """Return whose session keeps another one, of a shard or of the whole, from opening, as a phrase; "" for none."""
    others = [other for other in locked_shards(folder) if not (shard and other and shard != other)]
    return lock_owner(folder, others[0]) if others else ""


def locked_shards(folder: Path) -> list[str]:
    """Return the shards ("" is the whole) that other processes have locked."""
    files = [file for file in folder.glob(f"{WORK_LOCK}*") if file not in _own_locks and is_locked(file)]
    return [file.name.removeprefix(WORK_LOCK) for file in files]


def lock_owner(folder: Path, shard: str = "") -> str:
    """Return who has locked a folder, as a phrase."""
    match read_json(folder / f"{LOCK_INFO}{shard}"):
        case {"process": process, "host": host, "since": since}:
            return f"process {process} on {host} since {since}"
    return "another process"


def is_locked(file: Path) -> bool:
    """Return whether some process holds a lock."""
    try:
        with FileLock(file, timeout=PROBE_S, poll_interval=PROBE_S / 5):
            return False
    except Timeout:
        return True
    except OSError:  # read-only outputs, where no process works
        return False
