"""GPUs for notebooks, leased by file locks."""

import os
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout

from dgs_utils.params.base import StageParams

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
JOB_ID_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")  # set inside a cluster's job


def visible_gpus() -> list[str]:
    """Return the GPUs to choose from: those in ``CUDA_VISIBLE_DEVICES`` if it is set, else all of nvidia-smi's."""
    if VISIBLE_GPUS in os.environ:
        return [name for name in os.environ[VISIBLE_GPUS].split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []


@contextmanager
def leased_gpus(params: StageParams, per_gpu: int = 1, lock_dir: Path | None = None,
                on_wait: Callable[[str], None] = lambda sentence: None,
                stopping: threading.Event | None = None) -> Iterator[list[str]]:
    """Lease free GPUs for a stage, waiting for them; its kernel sees them by ``CUDA_VISIBLE_DEVICES``.

    A stage gets one, or as many as its parameter ``processes`` says, if there are so many at all. It gets none where
    it runs no network, on a machine without GPUs, and inside a cluster's job that has one GPU.
    The notebooks of a job that has several, by ``CUDA_VISIBLE_DEVICES``, spread over these. Lock files are in the
    machine's temporary folder, since GPUs belong to a machine. If there is no free GPU, ``on_wait`` is called with what
    is waited for, and since when, and with "" when the wait is over, which ``stopping`` ends, too.

    Yields:
        The GPUs' names; [] where none is leased, or the wait was ended.
    """
    job = next((os.environ[name] for name in JOB_ID_VARIABLES if os.environ.get(name)), "")
    gpus = visible_gpus() if params.needs_gpu and not (job and VISIBLE_GPUS not in os.environ) else []
    if len(gpus) < (2 if job else 1):
        yield []
        return
    stopping, waits = stopping or threading.Event(), False
    count = min(max(getattr(params, "processes", 1), 1), len(gpus))
    while len(locks := _free(gpus, count, per_gpu, lock_dir or gpu_lock_folder(job))) < count:
        _release(locks)  # another notebook may be waiting for just these
        if not waits:
            waits = True
            on_wait(f"waiting since {time.strftime('%H:%M')} for {count} of the GPUs "
                    f"{', '.join(map(str.strip, gpus))}, which other notebooks use")
        if stopping.wait(1):
            yield []
            return
    if waits:
        on_wait("")
    try:
        yield list(locks)
    finally:
        _release(locks)


def gpu_lock_folder(job: str = "") -> Path:
    """Return this user's folder for locks of this machine's GPUs.

    It is in the temporary folder or, where another user has an entry of its name there, in the user's cache.
    Jobs of a cluster on one machine may call different GPUs by the same number, so each has locks of its own.
    """
    name = f"dgs-gpus-{os.getuid()}{'-' if job else ''}{job}"
    folder = Path(tempfile.gettempdir()) / name
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        folder = Path.home() / ".cache" / f"{name}-{socket.gethostname()}"
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _free(gpus: list[str], count: int, per_gpu: int, lock_dir: Path) -> dict[str, FileLock]:
    """Lock up to ``count`` GPUs; an empty one before a shared one."""
    locks: dict[str, FileLock] = {}
    for slot, gpu in product(range(per_gpu), map(str.strip, gpus)):
        if len(locks) < count and gpu not in locks:
            lock = FileLock(lock_dir / f"{gpu.replace('/', '-')}.{slot}.lock", timeout=0)
            with suppress(Timeout):
                lock.acquire()
                locks[gpu] = lock
    return locks


def _release(locks: dict[str, FileLock]) -> None:
    for lock in locks.values():
        lock.release()
