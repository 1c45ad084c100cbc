"""Stage 04: thresholds and transformed difficulties of both sets, class by class (Eqs. 7–9).

The logarithm and the search are in `dgs_utils.selection.thresholds`.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dgs_utils.artifacts.files import atomic, write_csv
from dgs_utils.artifacts.run import Run
from dgs_utils.params import TransformParams
from dgs_utils.selection.score_tables import first_of_class, in_order, read_scores
from dgs_utils.selection.targets import scale_counts
from dgs_utils.selection.thresholds import Scale, Thresholds, apply_scale, fit_scale, search_thresholds

# ---- The stage -------------------------------------------------------------------------------------------------------

class Sets(NamedTuple):
    """The scores that stage 04 works on: one row an image, with the same classes in both.

    Attributes:
        pool: file_name, class, label, score of the pool's first ipc × pool_factor images a class.
        originals: the same of the originals' training images.
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
