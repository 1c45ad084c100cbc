"""Tables of images with scores, as stages 03 to 05 hand them on, and what must hold for them."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.tables import natural_key, read_table
from dgs_utils.methods import DYNAMIC

COLUMNS = ("file_name", "class", "label", "score")


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
    missing = [name for name in COLUMNS if name not in table]
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


def with_score(table: pd.DataFrame, score: str, where: Path) -> pd.DataFrame:
    """Return a score table whose column score is another of its measures.

    Args:
        table: a 03 folder's scores.
        score: a name of `dgs_utils.methods.SCORES`; "" leaves the table as it is.
        where: where the table stands, for the error.

    Raises:
        ValueError: the table has no such measure.
    """
    if not score:
        return table
    if score not in table and score in DYNAMIC:
        raise ValueError(f"{where} has no column {score}, since nothing was kept of the judge's training; set "
                         f"prepare.dynamics to true and run notebooks 00 and 03 again, or choose another sample.score")
    if score not in table:
        raise ValueError(f"{where} has no column {score}, since its scores are published ones or older; run notebook "
                         f"03 again, with difficulty.published_scores off, or leave sample.score empty")
    return table.assign(score=1 - table[score] if score == "confidence" else table[score])


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table ordered by label, then naturally by file name, so that nothing depends on the order on disk."""
    table = table.assign(order=table["file_name"].map(natural_key)).sort_values(["label", "order"])
    return table.drop(columns="order").reset_index(drop=True)


def first_of_class(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the first ``count`` rows of each class (0 = all); pools nest, so that is the pool of that size."""
    return table.groupby("label", sort=False).head(count).reset_index(drop=True) if count else table


def keep_classes(images: ImageSet, classes: pd.DataFrame, warn: Callable[[str], None] = print) -> ImageSet:
    """Return the images of the originals' classes, with their labels.

    Classes that the originals lack are left out with a warning, since nothing tells their target.

    Args:
        images: any images with class names.
        classes: class table of 00 (label, class).
        warn: takes one sentence.

    Raises:
        ValueError: a class of the originals has no images.
    """
    labels = classes.set_index("class")["label"]
    known = images.table["class"].isin(labels.index)
    for name in sorted(set(images.table.loc[~known, "class"]), key=natural_key):
        warn(f"class {name} of {images.root} is not among the originals, so its images are left out")
    present = set(images.table["class"])
    for name in labels.index:
        if name not in present:
            raise ValueError(f"class {name} has no images in {images.root}; generate some, or leave the class out "
                             f"of prepare.classes")
    table = images.table[known]
    return ImageSet(images.root, in_order(table.assign(label=table["class"].map(labels))))


def check_names(table: pd.DataFrame, where: Path) -> None:
    """Raise ValueError where a file name stands twice in a table."""
    doubled = table["file_name"][table["file_name"].duplicated()]
    if len(doubled):
        raise ValueError(f"{doubled.iloc[0]} is listed twice in {where}; keep one row of its list")
