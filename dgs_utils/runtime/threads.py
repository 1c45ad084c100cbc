"""Cores and threads of a process; without importing torch, so that listing images stays fast."""

import os

CORE_BUDGET = "DGS_CORES"  # environment variable: how many cores a notebook may use, where several run at a time
LIBRARY_THREADS = ("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                   "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def available_cores() -> int:
    """Return how many cores this process may use: of its affinity mask, and of its budget."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    budget = os.environ.get(CORE_BUDGET, "")
    return max(min(allowed, int(budget)), 1) if budget.isdecimal() else allowed


def reader_threads(workers: int = 0) -> int:
    """Return the number of threads that read files: ``workers``, or one per available core for 0."""
    return workers or available_cores()


def core_budget(jobs: int) -> dict[str, str]:
    """Return the environment that gives each of ``jobs`` notebooks its part of the cores; {} for one notebook.

    Libraries read it when they are loaded. Variables that the user has set are left out.
    """
    if jobs < 2:
        return {}
    cores = str(max(available_cores() // jobs, 1))
    return {name: cores for name in (*LIBRARY_THREADS, CORE_BUDGET) if name not in os.environ}
