"""The clipped logarithm that balances difficulty, and the search for its two thresholds (Eqs. 7–9).

Two readings of the method exist, and both are here. "code" is what produced the published numbers; "paper" is what
Eqs. 7–9 say. They differ in this [F §7.2]:

=====================  ========================================  =================================================
step                   "code"                                    "paper"
=====================  ========================================  =================================================
Eq. 7, outside window  winsorised: the easiest become the lower  both ends become ε, so the hardest clipped images
                       bound, the hardest the upper one          get transformed difficulty 0 like the easiest
ε = 1e-4               replaces a lower bound of exactly 0       is added to every score inside the window
Eq. 8, minimum         the lower bound, an order statistic       ε as soon as one score is clipped
Eq. 9, direction       KL(P_X ‖ f) and KL(U ‖ f)                 KL(f ‖ P_X) and KL(f ‖ U)
Eq. 9, empty bins      infinite where f has an empty bin         one image added to each bin (additive smoothing)
=====================  ========================================  =================================================

In both, the KL divergences (in bits) are between histograms of scores in equal bins, P_X is the histogram of the
untransformed scores, and U is uniform. The result is floored at 1e-4 in both.

A third, "none", is no objective but the control that shows what the logarithm adds: scores stay as they are.
"""

import warnings
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from dgs_utils.selection.histograms import check_scores, divergence, edges, histogram

EPSILON = 1e-4


Objective = Literal["code", "paper", "none"]


class Thresholds(NamedTuple):
    """Result of `search_thresholds`."""

    bottom: int  # number of easiest scores clipped
    top: int  # number of hardest scores clipped
    # Float64 array of shape (limit, limit) in bits, indexed [bottom, top]; inf where the pair cannot be used or the
    # transformed histogram has an empty bin.
    objective: np.ndarray


class Scale(NamedTuple):
    """One logarithmic scale: what Eqs. 7–8 become once the thresholds have turned into bounds."""

    lo: float  # smallest score inside the window; in objective "code" 1e-4 where that score is 0
    hi: float  # largest score inside the window
    least: float  # min P′ of Eq. 8, whose transformed value is 0.
    objective: Objective  # "code", "paper" or "none"


def log_transform(scores: ArrayLike, bottom: int, top: int, objective: Objective = "code") -> np.ndarray:
    """Clip the scores of one class at both ends and stretch them logarithmically onto [0, 1] (Eqs. 7–8).

    With lo the (bottom + 1)-th smallest and hi the (top + 1)-th largest score, the objective "code" gives
    ln(min(max(x, lo), hi) / lo) / ln(hi / lo), floored at 1e-4, where a lo of exactly 0 is replaced by 1e-4.

    Scores without spread (hi ≤ lo) have no such scale: they are returned as they are, floored at 1e-4, with a
    `UserWarning`.

    Args:
        scores: shape (N,), difficulties of one class, each in [0, 1].
        bottom: number of easiest scores to clip, ≥ 0.
        top: number of hardest scores to clip, ≥ 0; bottom + top < N.
        objective: "code" (published code), "paper" (Eqs. 7–8) or "none"; see the module's table.

    Returns:
        float64 array of shape (N,), in the order of ``scores``, in [1e-4, 1].

    Raises:
        ValueError: a score that is NaN or outside [0, 1], thresholds that are negative or cross.

    >>> log_transform([0.001, 0.01, 0.1, 0.5, 1.0], bottom=1, top=1).round(2).tolist()
    [0.0, 0.0, 0.59, 1.0, 1.0]
    """
    return apply_scale(scores, fit_scale(scores, bottom, top, objective))


def fit_scale(scores: ArrayLike, bottom: int, top: int, objective: Objective = "code") -> Scale:
    """Return the scale of one class's scores (arguments and errors of `log_transform`)."""
    ordered = np.sort(_as_published(check_scores(scores)))
    _check_objective(objective)
    if bottom < 0 or top < 0:
        raise ValueError(f"thresholds are ({bottom}, {top}); both must be at least 0")
    if bottom + top >= len(ordered):
        raise ValueError(f"thresholds ({bottom}, {top}) cross: they clip all of {len(ordered)} scores; lower the limit")
    if objective == "none":
        return Scale(0.0, 1.0, 0.0, objective)
    lo, hi = float(ordered[bottom]), float(ordered[len(ordered) - 1 - top])
    if objective == "code":
        lo = lo or EPSILON
        return Scale(lo, hi, lo, objective)
    clipped = ordered[0] < lo or ordered[-1] > hi  # by value, so that equal scores stay equal
    return Scale(lo, hi, EPSILON if clipped else lo + EPSILON, objective)


def apply_scale(scores: ArrayLike, scale: Scale) -> np.ndarray:
    """Transform scores by a scale, their own or another set's (see `log_transform`)."""
    scores = _as_published(check_scores(scores))
    lo, hi, least, objective = scale
    if objective == "none":
        return np.maximum(scores, EPSILON)
    if objective == "code":
        values, most = np.clip(scores, lo, max(lo, hi)), hi
    else:
        values, most = np.where((scores >= lo) & (scores <= hi), scores + EPSILON, EPSILON), hi + EPSILON
    if most <= least:
        warnings.warn("the scores have no spread between their bounds, so they are kept untransformed", stacklevel=3)
        return np.clip(scores, EPSILON, 1)
    return np.maximum(np.log(values / least) / np.log(most / least), EPSILON)


def search_thresholds(scores: ArrayLike, limit: int, weight: float = 0.5, objective: Objective = "code",
                      bins: int = 10) -> Thresholds:
    """Find the thresholds whose transformed scores are closest to uniform and to the untransformed ones (Eq. 9).

    All pairs of 0 … limit − 1 are tried. With h the histogram of the transformed scores, the objective "code" minimises
    weight · KL(P_X ‖ h) + (1 − weight) · KL(U ‖ h), "paper" the same with the arguments of both KL swapped. Among equal
    minima (to 1e-12) the smallest bottom wins, then the smallest top. Pairs that cannot be used (they cross, or leave
    no spread) count as infinite. Where every pair is infinite the result is (0, 0), the plain logarithm, with a
    `UserWarning`. With "none" nothing is searched.

    Args:
        scores: shape (N,), difficulties of one class, each in [0, 1].
        limit: thresholds tried are below this; ≥ 0, where 0 means no clipping at all. Published: IPC // 2.
        weight: λ in [0, 1].
        objective: "code" (published code), "paper" (Eqs. 7–9 with one image added to each bin) or "none".
        bins: number of equal bins, ≥ 2.

    Raises:
        ValueError: a score that is NaN or outside [0, 1], or an argument out of its range.

    >>> thresholds = search_thresholds(np.linspace(0, 1, 50), limit=10)
    >>> thresholds.bottom, thresholds.top, thresholds.objective.shape
    (7, 0, (10, 10))
    """
    scores = np.sort(_as_published(check_scores(scores)))
    _check_objective(objective)
    if limit < 0 or bins < 2 or not 0 <= weight <= 1:
        raise ValueError(f"limit is {limit}, bins {bins}, weight {weight}; they must be ≥ 0, ≥ 2 and in [0, 1]")
    if objective == "none":
        return Thresholds(0, 0, np.full((limit, limit), np.inf))
    counts = _transformed_counts(scores, limit, objective, bins)
    raw, uniform = histogram(scores, bins), np.ones(bins)
    if objective == "code":
        terms = divergence(raw, counts), divergence(uniform, counts)
    else:
        terms = divergence(counts + 1, raw + 1), divergence(counts + 1, uniform)
    surface = sum(w * term for w, term in zip((weight, 1 - weight), terms, strict=True) if w)  # 0 · inf is NaN
    surface = np.where(counts.any(axis=-1), surface, np.inf)
    if not np.isfinite(surface).any():
        if limit:
            warnings.warn("every pair of thresholds leaves a bin empty or has no spread, so nothing is clipped",
                          stacklevel=2)
        return Thresholds(0, 0, surface)
    bottom, top = np.argwhere(surface <= surface.min() + 1e-12)[0]
    return Thresholds(int(bottom), int(top), surface)


def _as_published(scores: np.ndarray) -> np.ndarray:
    """Return scores of four decimals as the float64 product k × 1e-4, others as they are.

    Published scores are multiples of 1e-4, and the reference numbers contain them as products. Read from text, 0.7 is
    one rounding step below the bin edge 0.7000000000000001, while 7000 × 1e-4 is on it: without this, the bin of such
    a score would depend on how it was stored.
    """
    products = np.rint(scores * 1e4) * 1e-4
    return np.where(np.abs(scores - products) <= 2.0**-52 * scores, products, scores)


def _check_objective(objective: str) -> None:
    if objective not in get_args(Objective):
        raise ValueError(f"objective is {objective!r}; choose 'code', 'paper' or 'none'")


def _transformed_counts(ordered: np.ndarray, limit: int, objective: Objective, bins: int) -> np.ndarray:
    """Return the histogram of the transformed scores for every pair of thresholds, zeros for pairs without a scale.

    Args:
        ordered: sorted scores, shape (N,).

    Returns:
        int64 array of shape (limit, limit, bins).
    """
    counts = np.zeros((limit, limit, bins), dtype=np.int64)
    rank = np.arange(min(limit, len(ordered)))
    lo, hi = ordered[rank][:, None], ordered[len(ordered) - 1 - rank][None, :]
    usable = rank[:, None] + rank < len(ordered)
    if objective == "code":
        lo = np.where(lo == 0, EPSILON, lo)
        numerator = np.log(np.maximum(ordered, lo) / lo)[:, None, :]
    else:
        inside = (ordered >= lo[..., None]) & (ordered <= hi[..., None])
        lo, hi = np.where(inside.all(axis=-1), ordered[0] + EPSILON, EPSILON), hi + EPSILON
        numerator = np.log(np.where(inside, ordered + EPSILON, EPSILON) / lo[..., None])
    usable &= hi > lo
    with np.errstate(divide="ignore", invalid="ignore"):  # in pairs that are not usable
        values = np.clip(numerator / np.log(hi / lo)[..., None], EPSILON, 1)
    below = [np.count_nonzero(values < edge, axis=-1) for edge in edges(bins)[1:-1]]
    within = np.diff(np.stack([np.zeros_like(below[0]), *below, np.full_like(below[0], len(ordered))], axis=-1))
    counts[: len(rank), : len(rank)] = np.where(usable[..., None], within, 0)
    return counts
