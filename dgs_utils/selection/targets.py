"""Which difficulties a distilled class should have: counts per bin, and the difficulties themselves.

A target distribution is an int array of counts per equal bin of transformed difficulty, bin 0 the easiest, summing to
IPC. It is the originals' own distribution scaled to IPC ("scale", §2.2), one of the paper's predefined shapes (§3.3,
Fig. 4), or a list of one's own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dgs_utils.selection.histograms import bin_of, check_scores, divergence, edges, histogram, largest_remainder
from dgs_utils.selection.permanent_numbers import check_keys, second_numbers, smallest

# Images per bin, by IPC [F §8.2].
PREDEFINED: dict[str, dict[int, tuple[int, ...]]] = {
    "hill": {10: (1, 0, 1, 0, 3, 3, 1, 0, 0, 1), 20: (1, 1, 1, 2, 5, 5, 2, 1, 1, 1),
             50: (1, 3, 5, 6, 10, 10, 6, 5, 3, 1)},
    "ground": {10: (1,) * 10, 20: (2,) * 10, 50: (5,) * 10},
    "slope": {10: (3, 3, 1, 1, 0, 0, 1, 1, 0, 0), 20: (5, 5, 2, 2, 1, 1, 1, 1, 1, 1),
              50: (10, 10, 6, 6, 5, 5, 3, 3, 1, 1)},
    "cliff": {10: (6, 3, 0, 1, 0, 0, 0, 0, 0, 0), 20: (9, 6, 1, 1, 1, 1, 1, 0, 0, 0),
              50: (20, 15, 3, 3, 2, 2, 2, 1, 1, 1)},
    "uniform": {10: (1,) * 10},
}


class Draw(NamedTuple):
    """Result of `draw`."""

    indices: np.ndarray  # int64 array of shape (IPC,), the drawn images, bin by bin from easy to hard, then the filler
    shortage: np.ndarray  # int64 array of shape (bins,), how many images each bin lacked


def scale_counts(transformed_scores: ArrayLike, ipc: int, bins: int = 10) -> np.ndarray:
    """Scale a distribution of transformed difficulty down to ``ipc`` images [F §8.1].

    Args:
        transformed_scores: shape (N,), each in [0, 1]; the originals' in the published method.
        ipc: images per class, ≥ 1.
        bins: number of equal bins.

    Returns:
        int64 array of shape (bins,), summing to ``ipc``: floors of ipc · n_k / N, then one more for the largest
        remainders, the lowest bin first among equal ones (integer arithmetic).

    >>> scale_counts([0.05, 0.15, 0.15, 0.95], ipc=4).tolist()
    [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    """
    check_ipc(ipc)
    return largest_remainder(histogram(check_scores(transformed_scores, "transformed_scores"), bins), ipc)


def predefined_counts(name: str, ipc: int) -> np.ndarray:
    """Return one of the predefined distributions of §3.3: hill, ground, slope, cliff; or uniform.

    Published are IPC 10, 20 and 50. For another IPC the table whose IPC is nearest (as a ratio) is resized by largest
    remainder, the lowest bin first among equal remainders.

    Returns:
        int64 array of shape (10,), easiest bin first, summing to ``ipc``.

    >>> predefined_counts("hill", ipc=10).tolist()
    [1, 0, 1, 0, 3, 3, 1, 0, 0, 1]
    """
    if name not in PREDEFINED:
        raise ValueError(f"distribution is {name!r}; the predefined ones are {', '.join(PREDEFINED)}")
    check_ipc(ipc)
    tables = PREDEFINED[name]
    nearest = min(tables, key=lambda published: (abs(np.log(published / ipc)), published))
    return largest_remainder(tables[nearest], ipc)


def draw(transformed_scores: ArrayLike, counts: ArrayLike, rng: np.random.Generator | int | None = None, *,
         keys: ArrayLike | None = None) -> Draw:
    """Draw images so that their difficulties follow ``counts`` [F §8.3].

    From the easiest bin to the hardest, the wanted number is drawn uniformly without replacement; a bin with fewer
    images gives all it has. The images still missing are drawn uniformly from all images left.

    Args:
        transformed_scores: shape (N,), each in [0, 1].
        counts: shape (bins,), images wanted per equal bin of [0, 1]; their number sets the number of bins.
        rng: `numpy.random.Generator`, or a seed for one: the only source of chance, from which keys are drawn.
        keys: shape (N,), instead of it: one random number an image, of which each bin takes the smallest. With the same
            keys (`permanent_numbers`), sets nest while counts grow, and while images join the pool.

    Raises:
        ValueError: fewer images than wanted, a bad score, count or key, or no source of chance.

    >>> draw([0.1, 0.2, 0.9, 0.95], counts=[1, 1], keys=[0.7, 0.3, 0.2, 0.5]).indices.tolist()
    [1, 2]
    """
    scores = check_scores(transformed_scores, "transformed_scores")
    counts = check_counts(counts)
    if len(scores) < counts.sum():
        raise ValueError(f"{counts.sum()} images are wanted of only {len(scores)}; "
                         f"generate a larger pool or lower the IPC")
    if rng is None and keys is None:
        raise ValueError("neither rng nor keys is given; give rng a seed, or keys a random number for each image")
    keys = np.random.default_rng(rng).random(len(scores)) if keys is None else check_keys(keys, len(scores))
    members = bin_of(scores, len(counts))
    shortage = np.maximum(counts - np.bincount(members, minlength=len(counts)), 0)
    chosen = [smallest(keys, np.flatnonzero(members == k), counts[k] - shortage[k])
              for k in np.flatnonzero(counts - shortage)]
    indices = np.concatenate([np.empty(0, dtype=np.int64), *chosen])
    rest = np.setdiff1d(np.arange(len(scores)), indices)
    return Draw(np.concatenate([indices, smallest(second_numbers(keys), rest, shortage.sum())]), shortage)


def quantiles_of_scores(transformed_scores: ArrayLike, ipc: int) -> np.ndarray:
    """Return the ``ipc`` difficulties that represent a distribution: its (j + ½)/IPC quantiles, float64, ascending."""
    check_ipc(ipc)
    scores = check_scores(transformed_scores, "transformed_scores")
    return np.quantile(scores, (np.arange(ipc) + 0.5) / ipc, method="hazen")


def quantiles_of_counts(counts: ArrayLike) -> np.ndarray:
    """Return the difficulties that represent counts per bin: each bin's images spread evenly over it, ascending."""
    counts = check_counts(counts)
    lower = np.repeat(edges(len(counts))[:-1], counts)
    within = np.concatenate([(np.arange(n) + 0.5) / n for n in counts if n])
    return lower + within / len(counts)


class Target(NamedTuple):
    """The difficulties that one class of the distilled set should have."""

    counts: np.ndarray  # images per bin of transformed difficulty, int64, summing to IPC
    quantiles: np.ndarray  # IPC difficulties, ascending
    reference: np.ndarray  # difficulties of any number whose distribution the target is, the originals' for "scale"


def class_target(originals: ArrayLike, ipc: int, distribution: str | Sequence[int] = "scale",
                 bins: int = 10) -> Target:
    """Return the target of a class, from the transformed difficulties of its originals, shape (N,).

    The distribution is "scale" (the originals' own, in so many bins), a name of `PREDEFINED`, or a list of images per
    bin, which is resized to ``ipc`` by largest remainder where it sums to something else.

    Raises:
        ValueError: an unknown distribution.
    """
    if distribution == "scale":
        return Target(scale_counts(originals, ipc, bins), quantiles_of_scores(originals, ipc), np.asarray(originals))
    if not isinstance(distribution, str):
        wanted = largest_remainder(check_counts(np.array(distribution, dtype=np.int64)), ipc)
    elif distribution in PREDEFINED:
        wanted = predefined_counts(distribution, ipc)
    else:
        raise ValueError(f"distribution is {distribution!r}; choose scale, {', '.join(PREDEFINED)}, or give a list of "
                         f"images per bin")
    return Target(wanted, quantiles_of_counts(wanted), quantiles_of_counts(wanted))


def target_report(chosen: ArrayLike, candidates: ArrayLike, target: Target, note: str = "") -> dict[str, Any]:
    """Compare the chosen images of a class with its target: transformed difficulties, shape (IPC,), and those of all
    candidates, shape (N,).

    Returns:
        target, found, shortage (images per bin, as texts such as "1 0 2", which `counts_of` reads), wasserstein (W1 of
        found difficulties to the target's), divergence (KL(found ‖ target) in bits, one image spread over the bins of
        each) and note (warnings).
    """
    bins = len(target.counts)
    found, available = histogram(np.asarray(chosen), bins), histogram(np.asarray(candidates), bins)
    shortage = np.maximum(target.counts - available, 0)
    notes = [note] if note else []
    if shortage.any():
        notes.append(f"the pool lacks {shortage.sum()} images in the bins that the target asks for")
    return {"target": counts_to_text(target.counts), "found": counts_to_text(found),
            "shortage": counts_to_text(shortage), "wasserstein": quantile_distance(chosen, target.quantiles),
            "divergence": divergence_to_target(found, target.counts), "note": "; ".join(notes)}


def counts_to_text(counts: np.ndarray) -> str:
    """Return images per bin as a text such as "1 0 2"."""
    return " ".join(map(str, counts))


def counts_of(column: Iterable[str]) -> np.ndarray:
    """Return texts of `counts_to_text` as an int64 array of shape (rows, bins)."""
    return np.array([[int(n) for n in text.split()] for text in column])


def quantile_distance(scores: ArrayLike, quantiles: ArrayLike) -> float:
    """Return the Wasserstein-1 distance between two sets of as many difficulties: the mean gap of sorted values."""
    # scipy.stats.wasserstein_distance, which integrates distribution functions, differs in the last digit, and
    # reports that exist would no longer be met; for as many values on either side this line is the definition.
    return float(np.abs(np.sort(scores) - np.sort(quantiles)).mean())


def difficulty_shift(pool: ArrayLike, originals: ArrayLike) -> float:
    """Return the Wasserstein-1 distance of a pool's difficulties from the originals', negative if the pool is easier.

    Args:
        pool: difficulties of one class's pool, shape (N,), each in [0, 1].
        originals: of its originals, shape (M,).
    """
    from scipy.stats import wasserstein_distance  # loading takes half a second, which notebook 05 is spared

    harder = np.asarray(pool).mean() >= np.asarray(originals).mean()
    return float(wasserstein_distance(pool, originals)) * (1 if harder else -1)


def divergence_to_target(found: ArrayLike, target: ArrayLike) -> float:
    """Return KL(found ‖ target) in bits of counts per bin, with one image spread evenly over the bins of each."""
    found, target = np.asarray(found), np.asarray(target)
    spread = 1 / len(target)
    return float(divergence(found + spread, target + spread))


def check_ipc(ipc: int) -> None:
    """Raise ValueError for an IPC below 1."""
    if ipc < 1:
        raise ValueError(f"ipc is {ipc}; at least one image per class is needed")


def check_counts(counts: ArrayLike) -> np.ndarray:
    """Return counts per bin as an int64 array after checking that they are whole, not negative, and not all zero."""
    checked = np.asarray(counts)
    if checked.ndim != 1 or not np.issubdtype(checked.dtype, np.integer) or (checked < 0).any() or not checked.any():
        raise ValueError(f"counts is {checked.tolist()}; give a whole number of images for each bin, not all zero")
    return checked.astype(np.int64)
