"""How tests wait for other processes: as long as it takes, on any machine."""

import cProfile
import pstats
import time
from collections.abc import Callable

HANG = 900  # seconds after which something counts as hanging: ten times and more what anything here takes


def wait_for(condition: Callable):
    """Return what a condition returns as soon as that is true."""
    deadline = time.monotonic() + HANG
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def calls(function: Callable, *arguments) -> int:
    """Return how many functions a function calls, which tells its cost on any machine, however busy."""
    profile = cProfile.Profile()
    profile.runcall(function, *arguments)
    return pstats.Stats(profile).total_calls
