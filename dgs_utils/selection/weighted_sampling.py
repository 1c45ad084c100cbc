"""Draws by weight, one image after the other."""

import numpy as np
from numpy.typing import ArrayLike


def weighted_order(logarithms: ArrayLike, rng: np.random.Generator) -> np.ndarray:
    """Draw images one after the other, each in proportion to its weight among those that are left.

    Adding a standard Gumbel draw to each logarithm and sorting gives this order, so that the first n of it are a draw
    of n, and draws of one seed nest whatever their size.

    Args:
        logarithms: (N,), natural logarithms of the weights.
        rng: the only source of chance.

    Returns:
        (N,) int, all indices in the order of the draw.
    """
    logarithms = np.asarray(logarithms, dtype=np.float64)
    return np.argsort(-(logarithms + rng.gumbel(size=len(logarithms))), kind="stable")
