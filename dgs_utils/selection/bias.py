"""Pools of real images with a known bias: what a generator that prefers easy images would give, image quality aside."""

import numpy as np
from numpy.typing import ArrayLike


def biased_order(difficulty: ArrayLike, bias: float, rng: np.random.Generator) -> np.ndarray:
    """Draw images one after the other, each with probability ∝ exp(−β · difficulty) among those that are left.

    Adding a standard Gumbel draw to each log weight and sorting gives this order, so that the first n of it are a pool
    of n, and pools of one seed nest whatever their size.

    Args:
        difficulty: (N,), in [0, 1].
        bias: β; 0 draws evenly, above 0 prefers easy images, below 0 hard ones.
        rng: the only source of chance.

    Returns:
        (N,) int, all indices in the order of the draw.
    """
    difficulty = np.asarray(difficulty, dtype=np.float64)
    return np.argsort(bias * difficulty - rng.gumbel(size=len(difficulty)), kind="stable")
