"""Class tables: the classes of a data set in label order, and their indices in other models."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from dgs_utils.images.scan import to_nfc
from dgs_utils.params.subsets import IMAGENET, SUBSETS
from dgs_utils.runtime.table_io import read_table, row_label
from dgs_utils.store.filenames import check_name
from dgs_utils.store.lineage import input_folder
from dgs_utils.store.manifest import MANIFEST, read_manifest
from dgs_utils.store.session import Run

INDEX_COLUMNS = ("index", "condition")  # a class's number in the scorer's output, and in the diffusion model
START = "start"  # what the row of a class begins with that the diffusion model does not know; see `read_class_index`
NEAREST, NULL, SCRATCH = "nearest", "null", "scratch"  # beside names, joined by +
NEW_ROWS = (": a number, or for a new label what it begins with: names of known classes joined by +, nearest, null, or "
            "scratch")
AMBIGUOUS = {"cardigan", "crane", "maillot"}  # dog and jacket, bird and machine, two bathing suits


@cache
def imagenet_names() -> dict[str, str]:
    """Return the name of each of ImageNet's 1,000 classes by its WordNet id."""
    table = read_table(IMAGENET, ["wnid"])
    return dict(zip(table["wnid"], table["name"], strict=True))


@cache
def _imagenet_indices() -> dict[str, int]:
    """Return ImageNet's index of each class, by WordNet id and by plain name."""
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
    if _plain(name) in AMBIGUOUS:
        raise ValueError(f"class {name} may be two of ImageNet's classes; call its folder by the WordNet id, or give "
                         f"its number in the scorer (index) and the diffusion model (condition) in "
                         f"prepare.class_index, a CSV file with class and these columns")
    return _imagenet_indices().get(name, _imagenet_indices().get(_plain(name)))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def read_class_index(path: Path) -> dict[str, dict[str, Any]]:
    """Return the indices of classes in models from a user's table: by column (`INDEX_COLUMNS`), by class.

    The table has a column class, and index, condition or both; an empty cell gives no index. A condition in words
    stands under `START`: it says what a new label of the diffusion model begins with, ``null``, ``scratch``,
    ``nearest``, or names of its classes, joined by + (`diffusion.label_rows`).

    Raises:
        ValueError: no such file, a missing column, a class or an index twice, or an index that is neither a whole
            number from 0 nor such words; the sentence names the row and the value.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"prepare.class_index is {path}, which {what}; give a CSV with class and index")
    table = read_table(path, INDEX_COLUMNS).rename(columns=str.lower)
    columns = [column for column in INDEX_COLUMNS if column in table]
    if "class" not in table or not columns:
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}; it needs class and index (the output of "
                         f"the scorer), condition (the label of the diffusion model), or both")
    indices: dict[str, dict[str, Any]] = {column: {} for column in columns}
    first_rows: dict[str, int] = {}
    for row, name in enumerate(to_nfc(name.strip()) for name in table["class"]):
        where = row_label(path, row)
        if not name:
            raise ValueError(f"{where} names no class; fill it in, or remove the row")
        if first_rows.setdefault(name, row) != row:
            raise ValueError(f"{where} gives class {name} again, after "
                             f"{row_label(path, first_rows[name]).rpartition(', ')[2]}; keep one row")
        for column in columns:
            text = table[column][row].strip()
            if column == "condition" and re.search(r"[^\W\d_]|\d\s*\+\s*\d", text):
                indices.setdefault(START, {})[name] = to_nfc(text)
                continue
            if text and not re.fullmatch(r"[0-9]{1,9}", text):
                raise ValueError(f"{where}: the {column} of class {name} is {text!r}; give a whole number from 0")
            owner = next((other for other, index in indices[column].items() if text and index == int(text)), None)
            if owner:
                raise ValueError(f"{where}: class {name} has {column} {text}, which class {owner} has already; give "
                                 f"each class one of its own")
            indices[column] |= {name: int(text)} if text else {}
    return indices


# ---- Classes in models -----------------------------------------------------------------------------------------------

def model_indices(model: str, classes: Sequence[str], count: int, known: Sequence[str] = (), *, column: str = "index",
                  given: Mapping[str, int] | None = None, cure: str = "") -> list[int]:
    """Return the index of each class in a model: the output of a scorer, the label of a diffusion model.

    It is the user's, or follows from the model's own names, or, in a model of ImageNet's 1,000 classes without names,
    from the class's WordNet id or ImageNet's name of it.

    Args:
        model: its name in an error.
        classes: names of folders.
        count, known: number of its classes (0 = not yet known, and not checked) and their names, if it has any.
        column, given: of `INDEX_COLUMNS`, in which the user can give the index; his indices by class.
        cure: end of the sentence about an unknown class; "" where the user can give a table.

    Raises:
        ValueError: a class that the model does not know, an index that it does not have, or two classes with one.
    """
    given, indices = given or {}, list[int]()
    named = match_class_names(classes, known or default_class_names(count or len(imagenet_names())), set(given))
    for name in classes:
        number = given.get(name, named.get(name))
        size = f"{count:,} classes" if count else "ImageNet's classes"
        if number is None:
            some = f" (such as {', '.join(known[:3])})" if known else ""
            cure = cure or (f"give its {column} there in prepare.class_index, a CSV file with the columns class and "
                            f"{column}{NEW_ROWS if column == 'condition' else ''}")
            raise ValueError(f"class {name} is not known by its name to {model}, which has {size}{some}; {cure}")
        if count and number >= count:
            raise ValueError(f"class {name} has {column} {number}, but {model} has only {size}; correct "
                             f"prepare.class_index")
        if number in indices:
            raise ValueError(f"the classes {classes[indices.index(number)]} and {name} have the same {column} {number} "
                             f"in {model}; give each one of its own in prepare.class_index")
        indices.append(number)
    return indices


def default_class_names(count: int) -> Sequence[str]:
    """Return the class names of a model without names of its own: ImageNet's for 1,000 classes, else ()."""
    return tuple(imagenet_names()) if count == len(imagenet_names()) else ()


def match_class_names(classes: Sequence[str], known: Sequence[str], apart: Iterable[str] = ()) -> dict[str, int]:
    """Return the index of each class among a model's names, of those that match.

    Names match if they are the same, alike (see `imagenet_index`; also one of several, as in "tench, Tinca tinca"), or
    mean the same class of ImageNet. A name that two of the model's classes have matches neither; one that two of
    ImageNet's have is an error, unless it is among those that need not match (``apart``).
    """
    exact = _unique((to_nfc(name), index) for index, name in enumerate(known))
    parts = [(part, index) for index, name in enumerate(known) for part in {name, *name.split(",")}]
    alike = _unique((_plain(part), index) for part, index in parts)
    meant = _unique((_imagenet_indices().get(part, _imagenet_indices().get(_plain(part))), index)
                    for part, index in parts if _plain(part) not in AMBIGUOUS)
    matches: dict[str, int] = {}
    for name in classes:
        index = exact.get(name, alike.get(_plain(name)))
        if index is None and known and name not in apart and (imagenet := imagenet_index(name)) is not None:
            index = meant.get(imagenet)
        if index is not None:
            matches[name] = index
    return matches


def _unique(pairs: Iterable[tuple[Any, int]]) -> dict[Any, int]:
    """Return pairs as a dictionary without the keys that have several values."""
    values: dict[Any, set[int]] = {}
    for key, value in pairs:
        values.setdefault(key, set()).add(value)
    return {key: min(indices) for key, indices in values.items() if len(indices) == 1}


# ---- The class table of a stage folder -------------------------------------------------------------------------------

def read_classes(prepare: Path) -> pd.DataFrame:
    """Return a 00 folder's class table: label, class (whose name can be that of a folder), index (in the scorer's
    output), condition (label of the diffusion model), name.
    """
    table = read_table(prepare / "classes.csv")
    for name in table["class"]:
        check_name(name, f"{prepare / 'classes.csv'}: a class")
    return table


def display_names(classes: pd.DataFrame) -> dict[str, str]:
    """Return the readable name of each class of a class table; where two share one, as ImageNet's cranes, with both."""
    twice = classes["name"].duplicated(keep=False)
    names = classes["name"].where(~twice, classes["name"] + " (" + classes["class"] + ")")
    return dict(zip(classes["class"], names, strict=True))


def output_names(prepare: Path) -> dict[int, str]:
    """Return readable names of the outputs of a 00 folder's scorer, as far as they are known."""
    table, file = read_classes(prepare), prepare / "classifier" / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    names = config.get("classes") or default_class_names(config.get("num_classes", 0))
    words = imagenet_names()
    return {i: words.get(name, name) for i, name in enumerate(names)} | dict(
        zip(table["index"], display_names(table).values(), strict=True))


def class_titles(run: Run) -> dict[str, str]:
    """Return the readable name of each class that a stage works on; {} where its inputs have no class table."""
    prepare = run.inputs.get("prepare", run.folder)
    if "original_scores" in run.inputs:
        prepare = input_folder(read_manifest(run.inputs["original_scores"]), "prepare") or run.folder
    return display_names(read_classes(prepare)) if (prepare / "classes.csv").exists() else {}


def pick_figure_classes(asked: Sequence[str], titles: Mapping[str, str], warn: Callable[[str], None]) -> dict[str, str]:
    """Return which classes figures show, with their readable names (``titles``): those asked for, by folder or by
    readable name, or the first two; ``warn`` receives a sentence about unknown ones.
    """
    known = {title: name for name, title in titles.items()} | {name: name for name in titles}
    missing = [name for name in asked if name not in known]
    if missing:
        warn(f"figure_classes has {', '.join(missing)}, which is none of the classes {', '.join(titles)}; "
             f"{'the others' if len(missing) < len(asked) else 'the first two'} are shown")
    shown = dict.fromkeys(known[name] for name in asked if name in known) or list(titles)[:2]
    return {name: titles[name] for name in shown}


def class_names_of_model(model: Path) -> list[str]:
    """Return the names of the labels of a diffusion model that a stage 00 trained, in their order; [] of any other."""
    if not (model.parent / "classes.csv").is_file() or not (model.parent / MANIFEST).is_file():
        return []
    table = read_classes(model.parent).sort_values("condition")
    return list(table["class"]) if list(table["condition"]) == list(range(len(table))) else []
