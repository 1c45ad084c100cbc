"""Both sets of one class on logarithmic scales: thresholds searched on one, applied to both (Eqs. 7–9).

The logarithm and the search are in `dgs_utils.selection.thresholds`; here the originals join the pool.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dgs_utils.selection.histograms import check_scores
from dgs_utils.selection.thresholds import Objective, Scale, Thresholds, apply_scale, fit_scale, search_thresholds


class TransformedClass(NamedTuple):
    """Result of `transform_class`."""

    thresholds: Thresholds  # of the set that was searched
    on_originals: tuple[int, int]  # (bottom, top) as applied to the originals
    pool: np.ndarray  # transformed scores, in the order of the argument
    originals: np.ndarray  # transformed scores, in the order of the argument


def default_limit(ipc: int, limit: int = 0) -> int:
    """Return the count below which thresholds are searched: one's own, or half the IPC as published."""
    return limit or max(ipc // 2, 1)


def transform_class(pool: ArrayLike, originals: ArrayLike, limit: int, weight: float = 0.5,
                    objective: Objective = "code", bins: int = 10, search_on: Literal["pool", "originals"] = "pool",
                    shared_scale: bool = False) -> TransformedClass:
    """Search one class's thresholds and transform its pool and its originals.

    As published, both sets are clipped by the same counts and stretched over their own bounds. On a set too small for
    the counts, the same fraction of it is clipped instead, with a `UserWarning`.

    Args:
        pool: difficulties of the class's pool, shape (N,), each in [0, 1].
        originals: of its originals, shape (M,).
        limit: thresholds tried are below this (see `default_limit`).
        weight: λ in [0, 1].
        objective: "code", "paper" or "none" (see `dgs_utils.selection.thresholds`).
        bins: number of equal bins of the search's histograms.
        search_on: the set that thresholds are searched on, "pool" or "originals".
        shared_scale: both sets use the pool's bounds.

    Raises:
        ValueError: bad scores or arguments; the sentence names the set.
    """
    if search_on not in ("pool", "originals"):
        raise ValueError(f"search_on is {search_on!r}; choose 'pool' or 'originals'")
    pool, originals = check_scores(pool, "pool"), check_scores(originals, "originals")
    searched = pool if search_on == "pool" else originals
    with prefix_warnings(search_on, warn):
        thresholds = search_thresholds(searched, limit, weight, objective, bins)
    return apply_thresholds(pool, originals, thresholds, objective, search_on, shared_scale)


def apply_thresholds(pool: np.ndarray, originals: np.ndarray, thresholds: Thresholds, objective: Objective = "code",
                     search_on: Literal["pool", "originals"] = "pool", shared_scale: bool = False) -> TransformedClass:
    """Transform one class's pool and its originals by thresholds of the set ``search_on`` (see `transform_class`)."""
    searched = pool if search_on == "pool" else originals

    def transform(scores: np.ndarray, scale: Scale | None = None) -> tuple[np.ndarray, tuple[int, int], Scale]:
        counts = _fitting_counts(thresholds, len(searched), len(scores))
        scale = scale or fit_scale(scores, *counts, objective)
        return apply_scale(scores, scale), counts, scale

    with prefix_warnings("pool", warn):
        on_pool, _, scale = transform(pool)
    with prefix_warnings("originals", warn):
        on_originals, counts, _ = transform(originals, scale if shared_scale else None)
    return TransformedClass(thresholds, counts, on_pool, on_originals)


def _fitting_counts(thresholds: Thresholds, searched: int, size: int) -> tuple[int, int]:
    if thresholds.bottom + thresholds.top < size:
        return thresholds.bottom, thresholds.top
    counts = thresholds.bottom * size // searched, thresholds.top * size // searched
    warn(f"thresholds ({thresholds.bottom}, {thresholds.top}) would clip all {size} images, so the same fraction as of "
         f"the set they were searched on is clipped: {counts}")
    return counts


def warn(sentence: str) -> None:
    """Give a `UserWarning`."""
    warnings.warn(sentence, stacklevel=2)


@contextmanager
def prefix_warnings(name: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Pass warnings on, and let errors through, with a name in front."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for warning in caught:
        warn(f"{name}: {warning.message}")
