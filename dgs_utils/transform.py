"""Stage 04: thresholds and transformed difficulties of both sets, class by class (Eqs. 7–9).

The logarithm and the search are in `dgs_utils.selection.thresholds`, a class's two sets in
`dgs_utils.selection.transforms`.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dgs_utils.images.classes import class_titles, pick_figure_classes
from dgs_utils.params import TransformParams
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.table_io import read_table
from dgs_utils.selection.score_tables import first_of_class, in_order, read_scores, sampling_panels, with_score
from dgs_utils.selection.targets import difficulty_shift, scale_counts
from dgs_utils.selection.transforms import TransformedClass, default_limit, prefix_warnings, transform_class, warn
from dgs_utils.store.atomic import atomic, write_csv
from dgs_utils.store.session import Run

# ---- Frames of scores ------------------------------------------------------------------------------------------------

class Sets(NamedTuple):
    """The scores that stage 04 works on: one row an image, with the same classes in both.

    Attributes:
        pool: file_name, class, label, score of the pool's images that may be chosen.
        originals: the same of the originals' training images.
    """

    pool: pd.DataFrame
    originals: pd.DataFrame


class Transformed(NamedTuple):
    """The results of stage 04.

    Attributes:
        thresholds: one row a class: class, label, bottom, top, objective, pool_images, original_images,
            original_bottom and original_top (as used on the originals), shift (see
            `targets.difficulty_shift`), and a note where the class needed a way out.
        scores: one row an image: set ("pool" or "original"), file_name, class, label, score, transformed; and
            prediction and confidence where both sets have them.
        surfaces: objective surfaces by class name, each (limit, limit), indexed [bottom, top].
    """

    thresholds: pd.DataFrame
    scores: pd.DataFrame
    surfaces: dict[str, np.ndarray]


def transform_scores(sets: Sets, limit: int, warn: Callable[[str], None] = warn, progress: Callable = no_progress,
                     **settings: Any) -> Transformed:
    """Search each class's thresholds and transform pool and originals.

    Args:
        sets: scores, each in [0, 1].
        limit: thresholds tried are below this (see `transforms.default_limit`).
        warn: called with a sentence for each class that falls back to the plain logarithm.
        progress: wraps the classes.
        settings: weight, objective, bins, search_on and shared_scale of `transforms.transform_class`.

    Raises:
        ValueError: bad scores or settings; the sentence names the class.
    """
    originals = dict(list(sets.originals.groupby("class", sort=False)))
    thresholds, scores, surfaces = [], [], {}
    for name, pool in progress(list(sets.pool.groupby("class", sort=False)), label="classes"):
        real, notes = originals[name], list[str]()
        with prefix_warnings(f"class {name}", notes.append):
            result = transform_class(pool["score"], real["score"], limit, **settings)
        for note in notes:
            warn(note)
        note = "; ".join(note.removeprefix(f"class {name}: ") for note in notes)
        bottom, top, surfaces[name] = result.thresholds
        thresholds.append({"class": name, "label": pool["label"].iloc[0], "bottom": bottom, "top": top,
                           "objective": surfaces[name][bottom, top], "pool_images": len(pool),
                           "original_images": len(real), "original_bottom": result.on_originals[0],
                           "original_top": result.on_originals[1],
                           "shift": difficulty_shift(pool["score"], real["score"]), "note": note})
        scores += [pool.assign(set="pool", transformed=result.pool),
                   real.assign(set="original", transformed=result.originals)]
    columns = ["set", "file_name", "class", "label", "score", "transformed"]
    columns += [name for name in ("prediction", "confidence") if name in sets.pool and name in sets.originals]
    return Transformed(pd.DataFrame(thresholds), pd.concat(scores, ignore_index=True)[columns], surfaces)


def _quietly(pool: pd.Series, originals: pd.Series, limit: int, settings: dict[str, Any]) -> TransformedClass:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return transform_class(pool, originals, limit, **settings)


def compare_readings(sets: Sets, limit: int, titles: Mapping[str, str] = {}, **settings: Any) -> pd.DataFrame:
    """Compare the two readings of the method on the same data, by the settings of `transforms.transform_class`.

    Returns:
        One row a class and reading ("code", "paper"): class, reading, bottom, top, and the mean transformed difficulty
        of pool and originals.
    """
    rows = []
    originals = dict(list(sets.originals.groupby("class", sort=False)["score"]))
    for name, pool in sets.pool.groupby("class", sort=False)["score"]:
        for reading in ("code", "paper"):
            result = _quietly(pool, originals[name], limit, settings | {"objective": reading})
            rows.append({"class": titles.get(name, name), "reading": reading, "bottom": result.thresholds.bottom,
                         "top": result.thresholds.top, "pool mean": result.pool.mean(),
                         "original mean": result.originals.mean()})
    return pd.DataFrame(rows)


def compare_scales(sets: Sets, titles: Mapping[str, str], ipc: int, limit: int, bins: int = 10,
                   **settings: Any) -> dict[str, pd.DataFrame]:
    """Return the target counts of some classes with each set's own bounds and with the pool's bounds for both, by the
    settings of `transforms.transform_class`; ``titles`` has the classes.

    Returns:
        By setting ("own bounds", "shared scale"): images per bin, a line a class, each summing to ``ipc``.
    """
    counts_by_setting: dict[str, dict[str, np.ndarray]] = {"own bounds": {}, "shared scale": {}}
    for name, title in titles.items():
        pool, originals = (part.loc[part["class"] == name, "score"] for part in sets)
        for setting, counts in counts_by_setting.items():
            shared = setting == "shared scale"
            transformed = _quietly(pool, originals, limit, settings | {"bins": bins, "shared_scale": shared})
            counts[title] = scale_counts(transformed.originals, ipc, bins)
    return {setting: pd.DataFrame(counts).T for setting, counts in counts_by_setting.items()}


# ---- The stage -------------------------------------------------------------------------------------------------------

def settings_of(params: TransformParams) -> dict[str, Any]:
    """Return the run's settings of `transforms.transform_class`."""
    names = ("weight", "objective", "bins", "search_on", "shared_scale")
    return {"limit": default_limit(params.ipc)} | {name: getattr(params, name) for name in names}


def figure2_scores(run: Run, scores: pd.DataFrame) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return the scores of Figure 2 by title, row and set, for `plots.figure2`.

    The classes are those of ``figure_classes``, or the first two (`images.classes.pick_figure_classes`).
    """
    titles = {name: name for name in scores["class"].unique()} | class_titles(run)
    shown = pick_figure_classes(run.params.figure_classes, titles, run.warn)
    return sampling_panels(scores, shown, run.params.ipc, run.params.bins, "transform")


def read_sets(run: Run) -> Sets:
    """Read and check the scores of pool and originals (see `read_scored`)."""
    return read_scored(run.params, run.inputs["pool_scores"], run.inputs["original_scores"], run.warn)


def read_scored(params: TransformParams, pool_scores: Path, original_scores: Path,
                warn: Callable[[str], None] = warn) -> Sets:
    """Read and check the scores of pool and originals: of the pool the first ipc × pool_factor images a class.

    Raises:
        ValueError: bad scores, or a class that the pool lacks.
    """
    pool, originals = (with_score(read_scores(folder), params.score, folder)
                       for folder in (pool_scores, original_scores))
    labels = originals.drop_duplicates("class").set_index("class")["label"]
    for name in pool["class"].unique():
        if name not in labels.index:
            warn(f"class {name} of the pool is not among the originals, so it has no target and is left out")
    pool = pool[pool["class"].isin(labels.index)]
    pool = in_order(pool.assign(label=pool["class"].map(labels)))
    pool = first_of_class(pool, params.images_read_from("pool_scores"))
    sizes = pool["class"].value_counts()
    for name in labels.index:
        size = int(sizes.get(name, 0))
        if size == 0:
            raise ValueError(f"class {name} has no images in the pool; generate some, or leave the class out")
        if size < params.ipc * params.pool_factor:
            warn(f"class {name} has {size} images in the pool, fewer than ipc × pool_factor = "
                 f"{params.ipc * params.pool_factor}; all of them are used")
    return Sets(pool, originals)


def transform_sets(run: Run, sets: Sets) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Carry out stage 04: transform pool and originals, and write what 05 reads.

    Written are ``thresholds.csv``, ``transformed.csv`` and ``objective.npz`` (one surface per class name).

    Returns:
        thresholds and scores of `Transformed`.
    """
    if run.cached:
        return read_table(run.folder / "thresholds.csv"), read_table(run.folder / "transformed.csv")
    params = run.params
    result = transform_scores(sets, warn=run.warn, progress=run.progress, **settings_of(params))
    write_csv(run.folder / "thresholds.csv", result.thresholds)
    write_csv(run.folder / "transformed.csv", result.scores)
    with atomic(run.folder / "objective.npz") as partial, partial.open("wb") as stream:
        np.savez(stream, **dict[str, Any](result.surfaces))
    return result.thresholds, result.scores


def read_surfaces(run: Run, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the objective surfaces of some classes, each (limit, limit), indexed [bottom, top]."""
    with np.load(run.folder / "objective.npz", allow_pickle=False) as surfaces:
        return {name: surfaces[name] for name in names}
