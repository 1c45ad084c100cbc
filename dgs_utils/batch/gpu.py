"""Which GPUs a notebook may use, agreed upon by file locks."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout

from dgs_utils.runtime.parameters import StageParams

VISIBLE = "CUDA_VISIBLE_DEVICES"
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")  # set inside a cluster's job


def candidates() -> list[str]:
    """Return the GPUs to choose from: those in ``CUDA_VISIBLE_DEVICES`` if it is set, else all of nvidia-smi's."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []


@contextmanager
def leased_gpus(params: StageParams, per_gpu: int = 1, places: Path | None = None,
                tell: Callable[[str], None] = lambda sentence: None) -> Iterator[list[str]]:
    """Give a stage GPUs that are free, waiting for them, by ``CUDA_VISIBLE_DEVICES`` of the processes started inside.

    A stage gets one, or as many as its parameter ``processes`` says, if there are so many at all. Nothing happens where
    it runs no network or names its own GPU, where there is none, and inside a cluster's job that has been given one.
    The notebooks of a job that has several, by ``CUDA_VISIBLE_DEVICES``, spread over these.

    Args:
        params: the stage's parameters.
        per_gpu: how many notebooks may share a GPU.
        places: folder of the lock files; the machine's temporary folder by default, since GPUs belong to a machine.
        tell: called with what is waited for, and since when, if there is no free GPU; with "" when the wait is over.

    Yields:
        The GPUs' names.

    Raises:
        ValueError: no notebook may use a GPU, so that none would ever be free.
    """
    if per_gpu < 1:
        raise ValueError(f"per_gpu is {per_gpu}; give how many notebooks may share a GPU, 1 or more")
    wants = params.computes and getattr(params, "device", "") in ("auto", "cuda")
    job = next((os.environ[name] for name in SCHEDULERS if os.environ.get(name)), "")
    gpus = candidates() if wants and not (job and VISIBLE not in os.environ) else []
    if len(gpus) < (2 if job else 1):
        yield []
        return
    # Jobs on one machine may call different GPUs by the same number, so each has locks of its own.
    places = places or Path(tempfile.gettempdir()) / f"dgs-gpus-{os.getuid()}{'-' if job else ''}{job}"
    places.mkdir(exist_ok=True)
    count = min(max(getattr(params, "processes", 1), 1), len(gpus))
    waits = False
    while len(locks := _free(gpus, count, per_gpu, places)) < count:
        _release(locks)  # another notebook may be waiting for just these
        if not waits:
            waits = True
            tell(f"waiting since {time.strftime('%H:%M')} for {count} of the GPUs {', '.join(map(str.strip, gpus))}, "
                 f"which other notebooks use")
        time.sleep(1)
    if waits:
        tell("")
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(locks)
    try:
        yield list(locks)
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
        _release(locks)


def _free(gpus: list[str], count: int, per_gpu: int, places: Path) -> dict[str, FileLock]:
    """Lock up to ``count`` GPUs; an empty one before a shared one."""
    locks: dict[str, FileLock] = {}
    for place, gpu in product(range(per_gpu), map(str.strip, gpus)):
        if len(locks) < count and gpu not in locks:
            lock = FileLock(places / f"{gpu.replace('/', '-')}.{place}.lock", timeout=0)
            with suppress(Timeout):
                lock.acquire()
                locks[gpu] = lock
    return locks


def _release(locks: dict[str, FileLock]) -> None:
    for lock in locks.values():
        lock.release()
