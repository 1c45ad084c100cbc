"""Checkpointing: save on SIGTERM and once a minute; resume in a new process.

A loop calls `Checkpointer.maybe_save` between any two steps. So a kill loses no more than a minute of work, and a
signal to end saves the state at once.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgs_utils.runtime.signals import defer_signals, reraise_signals
from dgs_utils.store.partial_results import verify_or_remove, write_verified

INTERVAL_S = 60.0  # seconds between two states on disk
STOPPED_MESSAGE = "stopped; run again to continue from there"


class Checkpointer:
    """Saves the state of work to a file; None saves nothing, and signals act as they always do."""

    def __init__(self, file: Path | None = None):
        self.file = file
        self._caught: list[int] = []
        self._due = time.monotonic() + INTERVAL_S

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, its tensors on the CPU; None where there is none or it is damaged."""
        import torch

        if self.file is None or not verify_or_remove(self.file):
            return None
        return torch.load(self.file, map_location="cpu", weights_only=True)

    @contextmanager
    def handle_signals(self) -> Iterator["Checkpointer"]:
        """Defer signals inside the block until the next `maybe_save`."""
        if self.file is None:
            yield self
            return
        try:
            with defer_signals() as self._caught:
                yield self
        finally:
            caught, self._caught = self._caught, []
            reraise_signals(caught, STOPPED_MESSAGE)

    def maybe_save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save the state where that is due, or where a signal has asked the process to end, with `KeyboardInterrupt`.

        ``state`` returns all that another process needs to resume: tensors, numbers, strings, lists and dictionaries.
        """
        if self.file and (self._caught or time.monotonic() >= self._due):
            self.save(state())
        if self._caught:
            raise KeyboardInterrupt(STOPPED_MESSAGE)

    def save(self, state: dict[str, Any]) -> None:
        """Write a state atomically."""
        import torch

        if self.file:
            with write_verified(self.file) as partial:
                torch.save(state, partial)
        self._due = time.monotonic() + INTERVAL_S

    def clear(self) -> None:
        """Remove the state, once the result is on disk."""
        if self.file:
            self.file.unlink(missing_ok=True)
