"""Score tables of stages 03 to 05, with their checks, and scores in the published form."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.images.image_set import ImageSet, in_order
from dgs_utils.methods import DYNAMICS_SCORES
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.runtime.table_io import natural_key, read_table, row_label
from dgs_utils.selection.permanent_numbers import permanent_numbers, smallest
from dgs_utils.selection.targets import draw, scale_counts
from dgs_utils.store.atomic import atomic

SCORE_COLUMNS = ("file_name", "class", "label", "score")


def read_scores(folder: Path) -> pd.DataFrame:
    """Return the ``scores.csv`` of a 03 folder, ordered by label and naturally by file name.

    Raises:
        ValueError: a missing file or column, a doubled file name, or a score outside [0, 1]; the sentence names the
            class and the image.
    """
    path = Path(folder) / "scores.csv"
    if not path.exists():
        raise ValueError(f"{path} does not exist; run notebook 03 for it")
    table = read_table(path)
    missing = [name for name in SCORE_COLUMNS if name not in table]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; run notebook 03 again")
    check_names(table, path)
    for name, rows in table.groupby("class", sort=False):
        wrong = rows[~rows["score"].between(0, 1)]
        if len(wrong):
            file, score = wrong[["file_name", "score"]].iloc[0]
            raise ValueError(f"class {name}: the score of {file} is {score}, and difficulty lies in [0, 1]; "
                             f"score that image again")
    return in_order(table)


def identities_of(table: pd.DataFrame) -> pd.Series:
    """Return the identity of each row of a class: its file's name without suffix, so that a copy in another format has
    it, too.

    Images of several generators have the generator's name in front. Where files of several folders share a name, the
    second is "name 1" and so on. Rows without file names are known by their place.

    Args:
        table: rows of one class in natural order, with file_name, or source for what was copied, and generator.
    """
    column = next((name for name in ("source", "file_name") if name in table), None)
    if column is None:
        return pd.Series(range(len(table)), table.index).astype(str)
    stems = table[column].str.rpartition("/")[2].str.replace(r"(?<=.)\.\w+$", "", regex=True)
    if "generator" in table and table["generator"].nunique() > 1:
        stems = table["generator"] + "/" + stems
    again = stems.groupby(stems).cumcount()
    return stems.where(again == 0, stems + " " + again.astype(str))


def with_score(table: pd.DataFrame, score: str, where: Path) -> pd.DataFrame:
    """Return a 03 folder's scores with another of their measures (`methods.SCORES`) as score, or with "" the same.

    Raises:
        ValueError: the table has no such measure.
    """
    if not score:
        return table
    if score not in table:
        reason = ("nothing was kept of the scorer's training; set prepare.dynamics to true and run notebooks 00 and 03 "
                  "again" if score in DYNAMICS_SCORES else
                  "one scorer alone has scored the images; name more in difficulty.scorers and run notebook 03 again"
                  if score == "mean_rank" else
                  "its scores are published ones or older; run notebook 03 again, with difficulty.published_scores off")
        raise ValueError(f"{where} has no column {score}, since {reason}, or choose another sample.score, "
                         f"or leave it empty")
    return table.assign(score=1 - table[score] if score == "confidence" else table[score])


def first_of_class(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the first ``count`` rows of each class (0 = all); pools nest, so that is the pool of that size."""
    return table.groupby("label", sort=False).head(count).reset_index(drop=True) if count else table


def share_of_class(table: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Return a share of the rows of each class, drawn by permanent numbers, in the table's order; 1 returns all.

    A sub-pool of a smaller share lies within that of a larger one. Its numbers are not those by which rules draw.

    Args:
        table: candidates with class, and file_name or source.
        share: above 0 to 1; ⌈share · N⌉ rows of a class stay.
        seed: selection seed.

    >>> table = pd.DataFrame({"class": ["cat"] * 10, "file_name": [f"{n}.png" for n in range(10)]})
    >>> [len(share_of_class(table, share, seed=0)) for share in (0.25, 1)]
    [3, 10]
    """
    if share == 1:
        return table
    kept = []
    for name, part in table.groupby("class", sort=False):
        numbers = permanent_numbers(seed, str(name), identities_of(part), "share")
        kept.append(part.index[smallest(numbers, np.arange(len(part)), math.ceil(round(share * len(part), 9)))])
    return table.loc[np.sort(np.concatenate(kept))].reset_index(drop=True)


def keep_classes(images: ImageSet, classes: pd.DataFrame, warn: Callable[[str], None] = print) -> ImageSet:
    """Return the images of the originals' classes, a 00 folder's table, with their labels; others are left out with a
    warning.

    Raises:
        ValueError: a class of the originals has no images.
    """
    names = list(classes.sort_values("label")["class"])
    for name in sorted(set(images.table["class"]) - set(names), key=natural_key):
        warn(f"class {name} of {images.root} is not among the originals, so its images are left out")
    return images.with_classes(names)


def check_names(table: pd.DataFrame, where: Path) -> None:
    """Raise ValueError for a file name that a table lists twice."""
    doubled = table["file_name"][table["file_name"].duplicated()]
    if len(doubled):
        raise ValueError(f"{doubled.iloc[0]} is listed twice in {where}; keep one row of its list")


# ---- Published scores ------------------------------------------------------------------------------------------------

def read_published_scores(images: ImageSet) -> pd.DataFrame:
    """Read scores in the published form: a ``metadata.jsonl`` beside each class's images [F §6].

    Its lines hold file_name (within the folder), label (ignored: classes come from the class table) and score.

    Returns:
        ``images.table`` with a column score.

    Raises:
        ValueError: a folder without the file, a damaged line, an image without score, or a score for no image.
    """
    scores: dict[str, float] = {}
    for parent in images.table["file_name"].str.rpartition("/")[0].unique():
        path = images.root / parent / "metadata.jsonl"
        if not path.exists():
            raise ValueError(f"{path} does not exist; score these images with a classifier, or add the file")
        table = read_table(path, ["score"])
        for column in ("file_name", "score"):
            if column not in table:
                raise ValueError(f"{path} has no {column} in any line; write the file again")
        for row, (file, score) in enumerate(zip(table["file_name"], table["score"], strict=True)):
            name, where = f"{parent}/{file}".removeprefix("/"), row_label(path, row)
            if not file or not score:
                raise ValueError(f"{where} has no {'score' if file else 'file_name'}; write the file again")
            if name in scores:
                raise ValueError(f"{path} lists {file} twice; keep one line of it")
            if not 0 <= pd.to_numeric(score, errors="coerce") <= 1:
                raise ValueError(f"{where}: the score of {file} is {score}, and difficulty lies in [0, 1]; score the "
                                 f"images again")
            scores[name] = float(score)
    column = images.table["file_name"].map(scores)
    if column.isna().any():
        raise ValueError(f"{images.root / images.table['file_name'][column.isna()].iloc[0]} has no score in its "
                         f"folder's metadata.jsonl; score the images again")
    others = scores.keys() - set(images.table["file_name"])  # of another split, or gone
    gone = [name for name in others if not (images.root / name).exists()]
    if gone:
        raise ValueError(f"{images.root / min(gone)} has a score and no image; restore it or remove its line")
    return images.table.assign(score=column)


def write_published_scores(folder: Path, scores: pd.DataFrame) -> None:
    """Write scores in the published form: ``folder/<class>/metadata.jsonl`` with file_name, label and score."""
    with atomic(folder) as unfinished:
        for name, rows in scores.groupby("class", sort=False):
            (unfinished / name).mkdir(parents=True)
            lines = [json.dumps({"file_name": file.rpartition("/")[2], "label": int(label), "score": float(score)})
                     for file, label, score in rows[["file_name", "label", "score"]].itertuples(index=False)]
            (unfinished / name / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def sampling_panels(scores: pd.DataFrame, titles: Mapping[str, str], ipc: int, bins: int = 10,
                    stage: str = "figures") -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return what the paper's Fig. 2 shows: sampling of some classes without and with the transform.

    Args:
        scores: class, set ("original", "pool"), score and transformed, both in [0, 1]: one row an image.
        titles: the classes, with their titles.
        ipc, bins: of the distilled set.
        stage: it begins the names of the draws.

    Returns:
        By title, row ("without transform", "with transform") and set (original, pool, distilled): scores. In each row
        the distilled set is drawn from that row's pool to that row's scaled distribution.
    """
    panels: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, title in titles.items():
        sets, rng = scores[scores["class"] == name].groupby("set"), numpy_rng(stage, "figure 2", name)
        for row, column in (("without transform", "score"), ("with transform", "transformed")):
            original, pool = (sets.get_group(which)[column].to_numpy() for which in ("original", "pool"))
            drawn = pool[draw(pool, scale_counts(original, ipc, bins), rng).indices]
            panels.setdefault(title, {})[row] = {"original": original, "pool": pool, "distilled": drawn}
    return panels
