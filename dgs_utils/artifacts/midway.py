"""Long work that a process can be asked to leave at any moment, as at a job's walltime, and another takes up there.

Whoever works calls a `Midway` between any two steps. It writes the state once a minute, which is then the most that can
be lost, whatever happens; and when the process has been asked to end, it writes the state at once and ends it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.parts import is_whole, kept
from dgs_utils.runtime.signals import act_on, caught_signals

EVERY = 60.0  # seconds between two states on disk
STOPPED = "stopped; run again to continue from there"


class Midway:
    """Keeps the state of work in a file.

    Args:
        file: where; None keeps nothing, and signals act as they always do.
        every: seconds between two states.
    """

    def __init__(self, file: Path | None = None, every: float = EVERY):
        self.file, self.every = file, every
        self._caught: list[int] = []
        self._due = time.monotonic() + every

    def load(self) -> dict[str, Any] | None:
        """Return the state that is kept, its tensors on the CPU, or None where there is none or it is damaged."""
        import torch

        if self.file is None or not is_whole(self.file):
            return None
        return torch.load(self.file, map_location="cpu", weights_only=True)

    @contextmanager
    def watching(self) -> Iterator["Midway"]:
        """Catch signals inside the block, for the next call to act on."""
        if self.file is None:
            yield self
            return
        try:
            with caught_signals() as self._caught:
                yield self
        finally:
            caught, self._caught = self._caught, []
            act_on(caught, STOPPED)

    def __call__(self, state: Callable[[], dict[str, Any]]) -> None:
        """Note that work is between two steps.

        Args:
            state: returns all that another process needs to go on; tensors, numbers, strings, and lists and
                dictionaries of these.

        Raises:
            KeyboardInterrupt: the process has been asked to end.
        """
        if self.file and (self._caught or time.monotonic() >= self._due):
            self.save(state())
        if self._caught:
            raise KeyboardInterrupt(STOPPED)

    def save(self, state: dict[str, Any]) -> None:
        """Write a state, in one step."""
        import torch

        if self.file:
            with kept(self.file) as partial:
                torch.save(state, partial)
        self._due = time.monotonic() + self.every

    def done(self) -> None:
        """Remove the state of work that is finished, whose result is on disk."""
        if self.file:
            self.file.unlink(missing_ok=True)
