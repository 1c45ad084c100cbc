"""Difficulty histograms: which of the equal bins of [0, 1] a score belongs to.

The rule is that of `numpy.histogram` with ``range=(0, 1)``: the edges are the float64 numbers ``numpy.linspace(0, 1,
bins + 1)``; a bin holds its lower edge and not its upper one, the last bin holds both. Every score in [0, 1], exact
zeros and ones and values on an edge included, therefore belongs to exactly one bin. The number written 0.3 is a hair
below the third of ten edges (0.30000000000000004) and belongs to the bin below it, as it does in the published code.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr


def check_scores(scores: ArrayLike, name: str = "scores") -> np.ndarray:
    """Return difficulty scores as a float64 array of shape (N,), N ≥ 1, after checking that all lie in [0, 1].

    Raises:
        ValueError: empty, of another shape, NaN, or out of range; the sentence names ``name`` and the first bad entry.
    """
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 1 or checked.size == 0:
        raise ValueError(f"{name} has shape {checked.shape}; give one score per image, at least one")
    bad = np.flatnonzero(~((checked >= 0) & (checked <= 1)))  # catches NaN too
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {checked[bad[0]]}, and difficulty lies in [0, 1]; score that image "
                         f"again")
    return checked


def edges(bins: int) -> np.ndarray:
    """Return the ``bins + 1`` edges of equal bins of [0, 1], float64.

    Raises:
        ValueError: fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; a histogram needs at least one bin")
    return np.linspace(0, 1, bins + 1)


def bin_of(values: ArrayLike, bins: int = 10) -> np.ndarray:
    """Return the bin, from 0, of each value in [0, 1]: int64 array of the same shape."""
    return np.searchsorted(edges(bins)[1:-1], values, side="right")


def histogram(values: ArrayLike, bins: int = 10) -> np.ndarray:
    """Return how many of the values in [0, 1] each bin holds: int64 array of shape (bins,)."""
    return np.bincount(bin_of(values, bins), minlength=bins)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return KL(p ‖ q) in bits over the last axis; histograms need not be normalised."""
    p, q = (h / np.maximum(h.sum(axis=-1, keepdims=True), 1) for h in (p, q))
    return rel_entr(p, q).sum(axis=-1) / np.log(2)


def largest_remainder(shares: ArrayLike, total: int) -> np.ndarray:
    """Round shares to whole numbers that sum to ``total``, in integer arithmetic.

    Every entry gets the floor of its share; the units still missing go one each to the largest remainders, the lowest
    index first among equal ones. Shares are non-negative integers, shape (n,), with a positive sum; the result is
    int64, (n,).
    """
    shares = np.asarray(shares, dtype=np.int64)
    counts, remainders = np.divmod(shares * total, shares.sum())
    missing = total - counts.sum()
    counts[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return counts
