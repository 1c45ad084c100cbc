"""Cores and threads of a process."""

import os

from dgs_utils.runtime import threads


def test_threads_follow_the_affinity_mask_and_the_share_of_a_job(monkeypatch):
    assert threads.reader_threads(3) == 3
    monkeypatch.delenv(threads.CORE_BUDGET, raising=False)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert threads.reader_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert threads.reader_threads() == len(allowed)
    monkeypatch.setenv(threads.CORE_BUDGET, "1")
    assert threads.reader_threads() == 1
    monkeypatch.setenv(threads.CORE_BUDGET, str(10 * len(allowed)))
    assert threads.reader_threads() == len(allowed)


def test_notebooks_that_run_at_a_time_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)))
    names = {*threads.LIBRARY_THREADS, threads.CORE_BUDGET}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert threads.core_budget(1) == {}
    for jobs, cores in ((4, "3"), (5, "2"), (50, "1")):
        assert threads.core_budget(jobs) == dict.fromkeys(names, cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # of the user
    assert set(threads.core_budget(4)) == names - {"OMP_NUM_THREADS"}
