"""Batches that are made smaller where a GPU's memory turns out to be too small for them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class OomBackoff:
    """Works on things in batches, of half the size from each one on that does not fit; a single thing must fit.

    Only for work whose result does not depend on the batch. ``name`` is that of the parameter with the size.
    """

    def __init__(self, name: str, size: int, warn: Callable[[str], None]):
        self.name, self.size, self.warn = name, size, warn

    def __call__(self, work: Callable[[Any], Any], things: Sequence) -> list[Any]:
        """Return what ``work`` makes of each batch of some things, in their order."""
        results: list[Any] = []
        done = 0
        while done < len(things):
            batch = things[done : done + self.size]
            if self._fits(work, batch, results):
                done += len(batch)
        return results

    def _fits(self, work: Callable[[Any], Any], batch: Sequence, results: list[Any]) -> bool:
        try:
            results.append(work(batch))
            return True
        except torch.OutOfMemoryError:
            if len(batch) < 2:
                raise
        self.size = -(-len(batch) // 2)  # here, since the error holds the batch's tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.warn(f"{self.name} {len(batch)} does not fit into the GPU's memory; it is halved to {self.size}, which "
                  f"the results do not depend on")
        return False
