"""How much of real features a pool covers: precision, recall, density and coverage (Naeem et al. 2020).

Each number means little alone: on few images recall is high for any set, and all four move with the number of rows. So
each stands beside the same number of *real* rows, as many, drawn many times from images that the reference is without.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from dgs_utils.runtime.seeds import numpy_rng

NEAREST = 5  # neighbours that a radius reaches, as in the paper
DRAWS = 20  # of real rows, for the yardstick
MAX_REAL = 1_000  # real rows a class that are compared with
MEASURES = ("precision", "recall", "density", "coverage")


def coverage_measures(real: ArrayLike, pool: ArrayLike, nearest: int = NEAREST) -> dict[str, float]:
    """Return precision, recall, density and coverage of real features by a pool's.

    A ball around each row reaches its ``nearest``-th neighbour among *different* rows of its set, so that doubled rows
    do not shrink it to nothing; doubled real rows count once.

    Args:
        real: shape (N, D), more than ``nearest`` different rows.
        pool: shape (M, D), likewise.
        nearest: neighbours that a radius reaches.

    Returns:
        precision: share of the pool inside any real ball; recall: share of real rows inside any ball of the pool;
        density: real balls that a pool row lies in, over ``nearest``; coverage: share of real balls with a pool row.

    Raises:
        ValueError: a set with too few different rows.

    >>> real = np.arange(20.0)[:, None]
    >>> coverage_measures(real, real[::2] + 0.01, nearest=2)["coverage"]
    1.0
    """
    real, pool = np.asarray(real, dtype=np.float64), np.asarray(pool, dtype=np.float64)
    return _measures(cdist(real, pool), cdist(real, real), cdist(pool, pool), nearest)


def _measures(between: np.ndarray, within_real: np.ndarray, within_pool: np.ndarray, nearest: int) -> dict[str, float]:
    """Return `coverage_measures` from the distances of real rows to the pool's, and within both."""
    real_radii, different = _radii(within_real, nearest, "real")
    pool_radii, between = _radii(within_pool, nearest, "pool")[0], between[different]
    in_real = between < real_radii[different, None]
    return {"precision": float(in_real.any(0).mean()),
            "recall": float((between < pool_radii).any(1).mean()),
            "density": float(in_real.sum() / (nearest * between.shape[1])),
            "coverage": float(in_real.any(1).mean())}


def _radii(within: np.ndarray, nearest: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each row to its ``nearest``-th neighbour among the different rows, and which these are."""
    different = _different(within)
    if len(different) <= nearest:
        raise ValueError(f"the {name} features have {len(different)} different rows, and neighbour {nearest} is wanted "
                         f"of each; give more images, or a smaller nearest")
    return np.partition(within[:, different], nearest, axis=1)[:, nearest], different


def _different(within: np.ndarray) -> np.ndarray:
    """Return the indices of rows that no row before them equals, by the distances of all."""
    return np.flatnonzero((within == 0).argmax(1) == np.arange(len(within)))


def coverage_beside_real(real: ArrayLike, pool: ArrayLike, name: str = "") -> pd.DataFrame:
    """Return each measure of a pool beside what as many real rows reach, over draws of both.

    In each draw, n rows of the pool and n real rows are compared with the other real rows; n is the size of the pool,
    at most half of the real rows. Of these `MAX_REAL` are looked at, of the pool twice as many.

    Args:
        real: shape (N, D).
        pool: shape (M, D).
        name: of the class; it names the draws.

    Returns:
        One row a measure: measure, images (n), pool (mean over the draws), real_low, real, real_high (5 % quantile,
        median and 95 % quantile of the real rows). No rows where either has too few different images for a radius.
    """
    real, pool = np.asarray(real, dtype=np.float64), np.asarray(pool, dtype=np.float64)
    rng = numpy_rng("checkup", "coverage", name)
    real = real[np.sort(rng.permutation(len(real))[:MAX_REAL])]
    if len(pool) > 2 * MAX_REAL:  # a table of all distances of a large pool takes gigabytes
        pool = pool[np.sort(numpy_rng("checkup", "coverage", name, "pool").permutation(len(pool))[: 2 * MAX_REAL])]
    size, rows = min(len(pool), len(real) // 2), []
    columns = ["measure", "images", "pool", "real_low", "real", "real_high"]
    between, within_real, within_pool = cdist(real, pool), cdist(real, real), cdist(pool, pool)
    for _ in range(DRAWS):
        order, picked = rng.permutation(len(real)), rng.permutation(len(pool))[:size]
        sample, reference = order[:size], order[size:]
        references, samples = (within_real[np.ix_(part, part)] for part in (reference, sample))
        chosen = within_pool[np.ix_(picked, picked)]
        if min(len(_different(within)) for within in (references, samples, chosen)) <= NEAREST:
            return pd.DataFrame(columns=columns)
        rows.append([_measures(between[np.ix_(reference, picked)], references, chosen, NEAREST),
                     _measures(within_real[np.ix_(reference, sample)], references, samples, NEAREST)])
    found, usual = (pd.DataFrame([pair[side] for pair in rows])[list(MEASURES)] for side in (0, 1))
    low, middle, high = (usual.quantile(share) for share in (0.05, 0.5, 0.95))
    return pd.DataFrame({"measure": MEASURES, "images": size, "pool": found.mean().to_numpy(),
                         "real_low": low.to_numpy(), "real": middle.to_numpy(), "real_high": high.to_numpy()})
