"""Which GPU a notebook may use: one at a time each, agreed upon by file locks."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dgs_utils.params import StageParams

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
def leased_gpu(params: StageParams, per_gpu: int = 1, places: Path | None = None) -> Iterator[str]:
    """Give a stage a GPU that is free, waiting for one, by ``CUDA_VISIBLE_DEVICES`` of the processes started inside.

    Nothing happens where the stage uses no GPU or names its own, where there is none, and inside a cluster's job, whose
    scheduler has assigned one.

    Args:
        params: the stage's parameters.
        per_gpu: how many may share a GPU.
        places: folder of the lock files; the machine's temporary folder by default, since GPUs belong to a machine.

    Yields:
        The GPU's name, or "".
    """
    wants = getattr(params, "device", "cpu") in ("auto", "cuda")
    gpus = candidates() if wants and not any(name in os.environ for name in SCHEDULERS) else []
    if not gpus:
        yield ""
        return
    places = places or Path(tempfile.gettempdir()) / f"dgs-gpus-{os.getuid()}"
    places.mkdir(exist_ok=True)
    gpu, lock = _first_free(gpus, per_gpu, places)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = gpu
    try:
        yield gpu
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
        lock.release()


def _first_free(gpus: list[str], per_gpu: int, places: Path) -> tuple[str, FileLock]:
    while True:
        for place in range(per_gpu):  # an empty GPU before a shared one
            for gpu in gpus:
                lock = FileLock(places / f"{gpu.strip().replace('/', '-')}.{place}.lock", timeout=0)
                try:
                    lock.acquire()
                    return gpu.strip(), lock
                except Timeout:
                    continue
        time.sleep(1)
