"""Notebook 04: the clipped logarithm that balances difficulty, and the search for its two thresholds (Eqs. 7–9).

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
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from dgs_utils.artifacts import Run, atomic, write_csv
from dgs_utils.params import TransformParams
from dgs_utils.selection.histograms import check_scores, divergence, edges, histogram
from dgs_utils.selection.score_tables import first_of_class, in_order, read_scores
from dgs_utils.selection.targets import scale_counts

EPSILON = 1e-4
Reading = Literal["code", "paper"]


class Thresholds(NamedTuple):
    """Result of `search_thresholds`.

    Attributes:
        bottom: number of easiest scores clipped.
        top: number of hardest scores clipped.
        objective: float64 array of shape (limit, limit) in bits, indexed [bottom, top]; inf where the pair cannot be
            used or the transformed histogram has an empty bin.
    """

    bottom: int
    top: int
    objective: np.ndarray


class Scale(NamedTuple):
    """One logarithmic scale: what Eqs. 7–8 become once the thresholds have turned into bounds.

    Attributes:
        lo: smallest score inside the window; in reading "code" 1e-4 where that score is 0.
        hi: largest score inside the window.
        least: min P′ of Eq. 8, whose transformed value is 0.
        reading: "code" or "paper".
    """

    lo: float
    hi: float
    least: float
    reading: Reading


def log_transform(scores, bottom: int, top: int, reading: Reading = "code") -> np.ndarray:
    """Clip the scores of one class at both ends and stretch them logarithmically onto [0, 1] (Eqs. 7–8).

    With lo the (bottom + 1)-th smallest and hi the (top + 1)-th largest score, the reading "code" gives
    ln(min(max(x, lo), hi) / lo) / ln(hi / lo), floored at 1e-4, where a lo of exactly 0 is replaced by 1e-4.

    Scores without spread (hi ≤ lo) have no such scale: they are returned as they are, floored at 1e-4, with a
    `UserWarning`.

    Args:
        scores: shape (N,), difficulties of one class, each in [0, 1].
        bottom: number of easiest scores to clip, ≥ 0.
        top: number of hardest scores to clip, ≥ 0; bottom + top < N.
        reading: "code" (published code) or "paper" (Eqs. 7–8); see the module's table.

    Returns:
        float64 array of shape (N,), in the order of ``scores``, in [1e-4, 1].

    Raises:
        ValueError: a score that is NaN or outside [0, 1], thresholds that are negative or cross.
    """
    return apply_scale(scores, fit_scale(scores, bottom, top, reading))


def fit_scale(scores, bottom: int, top: int, reading: Reading = "code") -> Scale:
    """Return the scale of one class's scores (arguments and errors of `log_transform`)."""
    ordered = np.sort(_as_published(check_scores(scores)))
    _check_reading(reading)
    if bottom < 0 or top < 0:
        raise ValueError(f"thresholds are ({bottom}, {top}); both must be at least 0")
    if bottom + top >= len(ordered):
        raise ValueError(f"thresholds ({bottom}, {top}) cross: they clip all of {len(ordered)} scores; lower the limit")
    lo, hi = float(ordered[bottom]), float(ordered[len(ordered) - 1 - top])
    if reading == "code":
        lo = lo or EPSILON
        return Scale(lo, hi, lo, reading)
    clipped = ordered[0] < lo or ordered[-1] > hi  # by value, so that equal scores stay equal
    return Scale(lo, hi, EPSILON if clipped else lo + EPSILON, reading)


def apply_scale(scores, scale: Scale) -> np.ndarray:
    """Transform scores by a scale, their own or another set's (see `log_transform`)."""
    scores = _as_published(check_scores(scores))
    lo, hi, least, reading = scale
    if reading == "code":
        values, most = np.clip(scores, lo, max(lo, hi)), hi
    else:
        values, most = np.where((scores >= lo) & (scores <= hi), scores + EPSILON, EPSILON), hi + EPSILON
    if most <= least:
        warnings.warn("the scores have no spread between their bounds, so they are kept untransformed", stacklevel=3)
        return np.clip(scores, EPSILON, 1)
    return np.maximum(np.log(values / least) / np.log(most / least), EPSILON)


def search_thresholds(scores, limit: int, weight: float = 0.5, objective: Reading = "code",
                      bins: int = 10) -> Thresholds:
    """Find the thresholds whose transformed scores are closest to uniform and to the untransformed ones (Eq. 9).

    All pairs of 0 … limit − 1 are tried. With h the histogram of the transformed scores, the reading "code" minimises
    weight · KL(P_X ‖ h) + (1 − weight) · KL(U ‖ h), "paper" the same with the arguments of both KL swapped. Among equal
    minima (to 1e-12) the smallest bottom wins, then the smallest top. Pairs that cannot be used (they cross, or leave
    no spread) count as infinite. Where every pair is infinite the result is (0, 0), the plain logarithm, with a
    `UserWarning`.

    Args:
        scores: shape (N,), difficulties of one class, each in [0, 1].
        limit: thresholds tried are below this; ≥ 0, where 0 means no clipping at all. Published: IPC // 2.
        weight: λ in [0, 1].
        objective: "code" (published code) or "paper" (Eqs. 7–9 with one image added to each bin).
        bins: number of equal bins, ≥ 2.

    Raises:
        ValueError: a score that is NaN or outside [0, 1], or an argument out of its range.
    """
    scores = np.sort(_as_published(check_scores(scores)))
    _check_reading(objective)
    if limit < 0 or bins < 2 or not 0 <= weight <= 1:
        raise ValueError(f"limit is {limit}, bins {bins}, weight {weight}; they must be ≥ 0, ≥ 2 and in [0, 1]")
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

    Published scores are multiples of 1e-4, and the reference numbers hold them as products. Read from text, 0.7 lies
    one rounding step below the bin edge 0.7000000000000001, while 7000 × 1e-4 lies on it: without this, the bin of such
    a score would depend on how it was stored.
    """
    products = np.rint(scores * 1e4) * 1e-4
    return np.where(np.abs(scores - products) <= 2.0**-52 * scores, products, scores)


def _check_reading(reading: str) -> None:
    if reading not in ("code", "paper"):
        raise ValueError(f"objective is {reading!r}; choose 'code' or 'paper'")


def _transformed_counts(ordered: np.ndarray, limit: int, reading: Reading, bins: int) -> np.ndarray:
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
    if reading == "code":
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


# ---- The stage -------------------------------------------------------------------------------------------------------

class Sets(NamedTuple):
    """The scores that stage 04 works on: one row a picture, with the same classes in both.

    Attributes:
        pool: file_name, class, label, score of the pool's first ipc × pool_factor images a class.
        originals: the same of the originals' training pictures.
    """

    pool: pd.DataFrame
    originals: pd.DataFrame


def read_sets(run: Run) -> Sets:
    """Read and check the scores of pool and originals.

    Raises:
        ValueError: bad scores, a class that the pool lacks, or one with fewer images than IPC.
    """
    params = run.params
    pool, originals = (read_scores(run.inputs[name]) for name in ("pool_scores", "original_scores"))
    labels = originals.drop_duplicates("class").set_index("class")["label"]
    for name in pool["class"].unique():
        if name not in labels.index:
            run.warn(f"class {name} of the pool is not among the originals, so it has no target and is left out")
    pool = pool[pool["class"].isin(labels.index)]
    pool = in_order(pool.assign(label=pool["class"].map(labels)))
    pool = first_of_class(pool, params.ipc * params.pool_factor)
    sizes = pool["class"].value_counts()
    for name in labels.index:
        size = int(sizes.get(name, 0))
        if size < params.ipc:
            raise ValueError(f"class {name} has {size} images in the pool for ipc {params.ipc}; "
                             f"generate a larger pool or lower the ipc")
        if size < params.ipc * params.pool_factor:
            run.warn(f"class {name} has {size} images in the pool, fewer than ipc × pool_factor = "
                     f"{params.ipc * params.pool_factor}; all of them are used")
    return Sets(pool, originals)


def transform_sets(run: Run, sets: Sets) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Carry out stage 04: search each class's thresholds, transform pool and originals, write what 05 reads.

    Written are ``thresholds.csv``, ``transformed.csv`` and ``objective.npz`` (one surface per class name).

    Returns:
        The thresholds (class, label, bottom, top, objective, pool and original images, bottom and top as used on the
        originals, and a note where the class needed a way out) and the transformed scores (set, file_name, class,
        label, score, transformed).
    """
    originals = dict(list(sets.originals.groupby("class", sort=False)))
    thresholds, transformed, surfaces = [], [], {}
    classes = list(sets.pool.groupby("class", sort=False))
    for name, pool in run.progress(classes, label="classes"):
        real, notes = originals[name], []
        with _naming(f"class {name}", notes.append):
            found = transform_class(pool["score"].to_numpy(), real["score"].to_numpy(), run.params)
        surface = found.thresholds.objective
        surfaces[name] = surface
        bottom, top = found.thresholds[:2]
        thresholds.append({
            "class": name, "label": pool["label"].iloc[0], "bottom": bottom, "top": top,
            "objective": surface[bottom, top], "pool_images": len(pool), "original_images": len(real),
            "original_bottom": found.on_originals[0], "original_top": found.on_originals[1],
            "note": "; ".join(note.removeprefix(f"class {name}: ") for note in notes)})
        for note in notes:
            run.warn(note)
        transformed += [pool.assign(set="pool", transformed=found.pool),
                        real.assign(set="original", transformed=found.originals)]
    columns = ["set", "file_name", "class", "label", "score", "transformed"]
    thresholds, transformed = pd.DataFrame(thresholds), pd.concat(transformed, ignore_index=True)[columns]
    write_csv(run.folder / "thresholds.csv", thresholds)
    write_csv(run.folder / "transformed.csv", transformed)
    with atomic(run.folder / "objective.npz") as partial, partial.open("wb") as stream:
        np.savez(stream, **surfaces)
    return thresholds, transformed


def read_surfaces(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return the objective surfaces of some classes from a 04 folder, each (limit, limit), indexed [bottom, top]."""
    with np.load(folder / "objective.npz", allow_pickle=False) as surfaces:
        return {name: surfaces[name] for name in names}


class TransformedClass(NamedTuple):
    """Result of `transform_class`.

    Attributes:
        thresholds: found on the set that was searched.
        on_originals: (bottom, top) as applied to the originals.
        pool: transformed scores, in the order given.
        originals: transformed scores, in the order given.
    """

    thresholds: Thresholds
    on_originals: tuple[int, int]
    pool: np.ndarray
    originals: np.ndarray


def limit_of(params: TransformParams) -> int:
    """Return the count below which thresholds are searched: the run's own, or half the IPC as published."""
    return params.limit or max(params.ipc // 2, 1)


def transform_class(pool: np.ndarray, originals: np.ndarray, params: TransformParams) -> TransformedClass:
    """Search one class's thresholds and transform its pool and its originals.

    As published, both sets are clipped by the same counts and stretched over their own bounds; with
    ``params.shared_scale`` both use the pool's bounds. On a set too small for the counts, the same fraction of it is
    clipped instead, with a `UserWarning`.
    """
    searched = pool if params.search_on == "pool" else originals
    with _naming(params.search_on, _warn):
        found = search_thresholds(searched, limit_of(params), params.weight, params.objective, params.bins)

    def transform(scores: np.ndarray, scale: Scale | None = None) -> tuple[np.ndarray, tuple[int, int], Scale]:
        counts = _fitting(found, len(searched), len(scores))
        scale = scale or fit_scale(scores, *counts, params.objective)
        return apply_scale(scores, scale), counts, scale

    with _naming("pool", _warn):
        on_pool, _, scale = transform(pool)
    with _naming("originals", _warn):
        on_originals, counts, _ = transform(originals, scale if params.shared_scale else None)
    return TransformedClass(found, counts, on_pool, on_originals)


def _fitting(found: Thresholds, searched: int, size: int) -> tuple[int, int]:
    if found.bottom + found.top < size:
        return found.bottom, found.top
    counts = found.bottom * size // searched, found.top * size // searched
    _warn(f"thresholds ({found.bottom}, {found.top}) would clip all {size} images, so the same fraction as of the set "
          f"they were found on is clipped: {counts}")
    return counts


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=2)


@contextmanager
def _naming(name: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Pass warnings on, and let errors through, with a name in front."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for warning in caught:
        warn(f"{name}: {warning.message}")


def compare_readings(sets: Sets, params: TransformParams) -> pd.DataFrame:
    """Return what the two readings of the method find on the same data.

    Returns:
        One row a class and reading: class, reading, bottom, top, and the mean transformed difficulty of pool and
        originals.
    """
    rows = []
    originals = dict(list(sets.originals.groupby("class", sort=False)["score"]))
    for name, pool in sets.pool.groupby("class", sort=False)["score"]:
        for reading in ("code", "paper"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                found = transform_class(pool.to_numpy(), originals[name].to_numpy(),
                                        params.model_copy(update={"objective": reading}))
            rows.append({"class": name, "reading": reading, "bottom": found.thresholds.bottom,
                         "top": found.thresholds.top, "pool mean": found.pool.mean(),
                         "original mean": found.originals.mean()})
    return pd.DataFrame(rows)


def compare_scales(sets: Sets, params: TransformParams, names: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return the target counts of some classes with each set's own bounds and with the pool's bounds for both.

    Returns:
        By class name, by setting ("own bounds", "shared scale"): images per bin, summing to ``params.ipc``.
    """
    found = {}
    for name in names:
        pool, originals = (part.loc[part["class"] == name, "score"].to_numpy() for part in sets)
        found[name] = {}
        for setting, shared in (("own bounds", False), ("shared scale", True)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                changed = params.model_copy(update={"shared_scale": shared})
                transformed = transform_class(pool, originals, changed).originals
            found[name][setting] = scale_counts(transformed, params.ipc, params.bins)
    return found
