"""How long a cell may take, in time that its runner was awake."""

import math
import os
import signal
import threading
import time
from contextlib import suppress

TICK = 0.5  # seconds between looks; a longer pause was sleep, of the machine or of the runner
PATIENCE = 15  # seconds in which a kernel that catches SIGTERM may write its checkpoint


class CellClock:
    """Ends a kernel whose cell takes longer than a limit.

    Time is counted in ticks: what passes between two of them beyond twice their length does not count, so that neither
    a laptop's lid nor ``kill -STOP`` makes a cell late.

    Args:
        minutes: the limit; 0 = none.

    Attributes:
        expired: whether a cell took longer.
    """

    def __init__(self, minutes: float):
        self.limit = minutes * 60 or math.inf
        self.expired = False
        self.kernel: int | None = None
        self._spent: float | None = None
        self._over = threading.Event()

    def __enter__(self) -> "CellClock":
        if self.limit < math.inf:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()

    def restart(self) -> None:
        """Note that a cell begins."""
        self._spent = 0.0

    def pause(self) -> None:
        """Note that no cell is running."""
        self._spent = None

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(min(TICK, self.limit)):
            now = time.monotonic()
            if self._spent is not None:
                self._spent += min(now - before, 2 * TICK)
                if self._spent > self.limit:
                    self._end()
                    return
            before = now

    def _end(self) -> None:
        self.expired = True
        if self.kernel is None:  # it ended before it was known
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(OSError):  # it has just ended by itself
                os.kill(self.kernel, number)
            if self._over.wait(PATIENCE):
                return
