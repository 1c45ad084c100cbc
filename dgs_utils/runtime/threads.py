"""How many threads read files; apart from devices, so that who only lists images need not load torch."""

import os

SHARE = "DGS_CORES"  # environment variable: how many cores a notebook may use, where several run at a time


def cores() -> int:
    """Return how many cores this process may use: of its affinity mask, and of the share that it has been given."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(SHARE, "")
    return max(min(allowed, int(share)), 1) if share.isdecimal() else allowed


def threads(workers: int = 0) -> int:
    """Return the number of threads that read files: ``workers``, or one per core that may be used for 0."""
    return workers or cores()
