"""Class tables: which classes a data set has, in which order, and what other models call them."""

import re
from functools import cache
from pathlib import Path

import pandas as pd

from dgs_utils.artifacts.names import check_name
from dgs_utils.images.tables import one_form, read_table, row_at
from dgs_utils.params.subsets import SUBSETS

IMAGENET = Path(__file__).with_name("imagenet_classes.csv")  # wnid, index, name; indices are in the order of wnids
TWICE = {"cardigan", "crane", "maillot"}  # dog and jacket, bird and machine, two bathing suits


@cache
def imagenet_names() -> dict[str, str]:
    """Return the name of each of ImageNet's 1,000 classes by its WordNet id."""
    table = read_table(IMAGENET, ["wnid"])
    return dict(zip(table["wnid"], table["name"], strict=True))


@cache
def _imagenet_indices() -> dict[str, int]:
    table = read_table(IMAGENET, ["wnid"])
    names = dict(zip(map(_plain, table["name"]), table["index"], strict=True))
    names |= {_plain(name): index for rows in SUBSETS.values() for _, index, name in rows}
    return dict(zip(table["wnid"], table["index"], strict=True)) | names


def imagenet_index(name: str) -> int | None:
    """Return ImageNet's index of a class that is called by its WordNet id or its name; None for any other name.

    In names, small and capital letters, blanks, hyphens and underscores are alike.

    Raises:
        ValueError: two of ImageNet's classes have that name.
    """
    if _plain(name) in TWICE:
        raise ValueError(f"class {name} may be two of ImageNet's classes; call its folder by the WordNet id, or give "
                         f"prepare.class_index, a CSV file with the columns class and index")
    return _imagenet_indices().get(name, _imagenet_indices().get(_plain(name)))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def read_class_index(path: Path) -> dict[str, int]:
    """Return the output of a pre-trained model that stands for each class, from a table with class and index.

    Raises:
        ValueError: no such file, a missing column, a class or an index that stands twice, or an index that is no whole
            number from 0; the sentence names the row and the value.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"prepare.class_index is {path}, which {what}; give a CSV with class and index")
    table = read_table(path, ["index"]).rename(columns=str.lower)
    if not {"class", "index"} <= set(table.columns):
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}; it needs class and index")
    found: dict[str, int] = {}
    owners: dict[int, str] = {}
    for place, (name, text) in enumerate(zip(table["class"], table["index"], strict=True)):
        name, where = one_form(name.strip()), row_at(path, place)
        if not name:
            raise ValueError(f"{where} names no class; fill it in, or remove the row")
        if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
            raise ValueError(f"{where}: the index of class {name} is {text!r}; give a whole number from 0")
        index = int(text)
        if name in found:
            raise ValueError(f"{where} gives class {name} again, with index {index} after {found[name]}; keep one row")
        if index in owners:
            raise ValueError(f"{where}: class {name} has index {index}, which class {owners[index]} has already; give "
                             f"each class an index of its own")
        found[name], owners[index] = index, name
    return found


def read_classes(prepare: Path) -> pd.DataFrame:
    """Return a 00 folder's class table: label, class (folder name), index (in the difficulty classifier's output),
    condition (label of the diffusion model), name.

    Raises:
        ValueError: a class's name cannot be that of a folder.
    """
    table = read_table(prepare / "classes.csv")
    for name in table["class"]:
        check_name(name, f"{prepare / 'classes.csv'}: a class")
    return table
