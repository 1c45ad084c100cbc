"""Draws by weight, one image after the other."""

import numpy as np
from numpy.typing import ArrayLike


def weighted_order(logarithms: ArrayLike, rng: np.random.Generator | None = None,
                   keys: np.ndarray | None = None) -> np.ndarray:
    """Draw images one after the other, each in proportion to its weight among those that are left.

    Adding a standard Gumbel draw to each logarithm and sorting gives this order, so that the first n of it are a draw
    of n, and draws of the same keys nest whatever their size. Equal weights give the order of the keys.

    ``logarithms`` (N,) are natural ones of the weights; ``keys`` (N,), uniform in [0, 1), make the Gumbel draws in
    place of the ``rng``. Returned are all indices, (N,) int, in the order of the draw.
    """
    logarithms = np.asarray(logarithms, dtype=np.float64)
    if keys is None:
        gumbel = np.random.default_rng(rng).gumbel(size=len(logarithms))
    else:
        gumbel = -np.log(np.maximum(-np.log1p(-keys), np.finfo(float).tiny))
    return np.argsort(-(logarithms + gumbel), kind="stable")
