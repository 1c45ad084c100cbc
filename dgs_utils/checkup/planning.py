"""How many images to generate until each interval of difficulty has those that a target asks for."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from dgs_utils.selection.histograms import histogram
from dgs_utils.selection.targets import check_counts, class_target

CONFIDENCE = 0.95
UNKNOWN = "how many images to generate is not known, as those of a class have too few different difficulties"


class Plan(NamedTuple):
    """Images of one class to generate in all.

    Attributes:
        images: enough with 95 % probability, if the shares of the intervals are those of the pool.
        low, high: the same for the ends of the 95 % interval of each share; ``high`` is infinite where the pool has no
            image in an interval that is wanted.
    """

    images: float
    low: float
    high: float


def images_to_generate(pool_counts: ArrayLike, target: ArrayLike) -> Plan:
    """Return how many images of a class fill its target.

    Until n images have come that lie in an interval with share p of all, there are n plus a negative binomial number of
    others. Each interval that is wanted gets the same part of the error probability, so that all are filled together
    with a probability of at least `CONFIDENCE`. The shares are Jeffreys' estimates from the pool, (m + ½) / (M + 1),
    and the ends their central interval.

    Args:
        pool_counts: images of the pool in each interval of difficulty, shape (K,).
        target: images wanted in each, shape (K,).

    Returns:
        `Plan`.

    Raises:
        ValueError: counts that are not whole numbers, all zero, or of different intervals.

    >>> images_to_generate([90, 10], [5, 5])
    Plan(images=96, low=57, high=192)
    """
    counts, wanted = check_counts(pool_counts), check_counts(target)
    if counts.shape != wanted.shape:
        raise ValueError(f"the pool has {len(counts)} intervals and the target {len(wanted)}; count both in the same")
    asked = wanted > 0
    hits, misses, wanted = counts[asked] + 0.5, counts.sum() - counts[asked] + 0.5, wanted[asked]
    enough = 1 - (1 - CONFIDENCE) / len(wanted)
    ends = special.betaincinv(hits, misses, [[(1 - CONFIDENCE) / 2], [(1 + CONFIDENCE) / 2]])
    ends[0, counts[asked] == 0] = 0.0  # Jeffreys' own convention
    return Plan(*(_most(wanted, share, enough) for share in (hits / (hits + misses), ends[1], ends[0])))


def _most(wanted: np.ndarray, shares: np.ndarray, enough: float) -> float:
    """Return the largest of the quantiles of the numbers of images until each interval has what is wanted."""
    if (shares <= 0).any():
        return math.inf
    shares = np.minimum(shares, 1.0)
    others = np.ceil(special.nbdtrik(enough, wanted, shares))  # scipy.stats, which has it, takes a second to load
    others -= (others > 0) & (special.betainc(wanted, np.maximum(others, 1), shares) >= enough)  # rounded up
    return int((wanted + others).max())


def plan_classes(transformed: pd.DataFrame, ipc: int, distribution: str | Sequence[int] = "scale",
                 bins: int = 10) -> pd.DataFrame:
    """Return how many images of each class fill its target.

    Args:
        transformed: class, set ("pool", "original") and transformed, in [0, 1], as in stage 04's ``transformed.csv``.
        ipc: images per class of the distilled set.
        distribution: the target, as ``sample.distribution``.
        bins: equal intervals of difficulty.

    Returns:
        class, pool (images that it has), missing (images that its intervals lack), generate, low, high (see `Plan`).
        Where a pool that lacks images has fewer difficulties than its target has intervals, such as one image many
        times, so that it does not tell the shares, generate and high are infinite.
    """
    rows = []
    for name, part in transformed.groupby("class", sort=False):
        pool, real = (part["transformed"][part["set"] == kind].to_numpy() for kind in ("pool", "original"))
        target, counts = class_target(real, ipc, distribution, bins).counts, histogram(pool, bins)
        plan, missing = images_to_generate(counts, target), int(np.maximum(target - counts, 0).sum())
        if missing and len(np.unique(pool.round(6))) < max((target > 0).sum(), 2):
            plan = Plan(math.inf, plan.low, math.inf)
        rows.append({"class": name, "pool": len(pool), "missing": missing, "generate": plan.images, "low": plan.low,
                     "high": plan.high})
    return pd.DataFrame(rows)
