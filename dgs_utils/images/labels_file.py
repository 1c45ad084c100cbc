"""Labels files: the class of each image, from a table ``metadata`` beside the images or above them."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from dgs_utils.images.folder_roles import SPLITS, is_role
from dgs_utils.images.scan import FolderScan, to_nfc
from dgs_utils.runtime.table_io import plain_heading, read_table, row_label
from dgs_utils.store.filenames import check_name, check_relative

HEADINGS = {"filename": "file_name", "class": "class", "label": "label", "split": "split"}  # by `plain_heading`


def read_labels_file(file: str, scan: FolderScan) -> pd.DataFrame:
    """Return file_name, class and further columns of the labels file of a folder, with names as the images have them.

    Raises:
        ValueError: a missing column, or a row that names no image, one twice, no class or several; the sentence names
            the row.
    """
    path = scan.root / file
    table = read_table(path, ("label", "image")).rename(columns=lambda name: HEADINGS.get(plain_heading(name), name))
    if table.empty:
        raise ValueError(f"{path} lists no images; add a row for each, or remove that file")
    if "file_name" not in table:
        raise ValueError(f"{path} has no column file_name, but {', '.join(map(str, table.columns))}; add one with each "
                         f"image's path relative to the folder")
    images = {to_nfc(name): name for name in scan.images} | {name: name for name in scan.images}
    names = [_resolve(name, images, row_label(path, row), scan.root) for row, name in enumerate(table["file_name"])]
    table = table.assign(file_name=names)
    doubled = table.index[table["file_name"].duplicated()]
    if len(doubled):
        raise ValueError(f"{row_label(path, doubled[0])} lists {names[doubled[0]]} again; keep one row of each image")
    table = add_class(_with_split(table, path), path)
    _check_single_labels(table, path)
    for name in table["class"].unique():
        check_name(name, f"{path}: a class")
    return table


def _resolve(name: str, images: dict[str, str], row: str, root: Path) -> str:
    """Return the image that a row names; ``images`` by their names, also with accents in one form."""
    if name in images:
        return images[name]
    if not name:
        raise ValueError(f"{row} names no file; fill in file_name, or remove the row")
    windows = name.replace("\\", "/")
    name = check_relative(windows if windows in images else name, f"{row}: a file").as_posix()
    image = images.get(name, images.get(to_nfc(name)))
    if image is None:
        reason = "is no image" if (root / name).is_file() else "does not exist"
        raise ValueError(f"{row} lists {name}, which {reason} in {root}; restore it, or remove the row")
    return image


def _with_split(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a table whose column split, if it has one, holds train, val or test."""
    if "split" not in table:
        return table
    splits = table["split"].str.strip().str.lower().map(SPLITS)
    unknown = table.index[splits.isna()]
    if len(unknown):
        raise ValueError(f"{row_label(path, unknown[0])}: the split of {table['file_name'][unknown[0]]} is "
                         f"{table['split'][unknown[0]]!r}; write train, val or test, or leave out the column")
    return table.assign(split=splits)


def add_class(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a table with a column class: its own, the text of its labels, or the file's folder.

    Numeric labels that go one to one with folders give the folders' order; where they do not, as with one folder
    ``train`` for all, folders are no classes and the label is the class.
    """
    table = table.reset_index(drop=True)
    folders = table["file_name"].map(lambda name: to_nfc(Path(name).parent.name))
    if "class" not in table and "label" not in table:
        if any(name == "" or is_role(name) for name in folders.unique()) or set(map(str.lower, folders)) <= set(SPLITS):
            raise ValueError(f"{path} has no class labels: add a column class, or put the images into class folders")
        return table.assign(**{"class": folders})
    column = "class" if "class" in table else "label"
    empty = table.index[table[column].astype(str) == ""]
    if len(empty):
        raise ValueError(f"{row_label(path, empty[0])}: {table['file_name'][empty[0]]} has no {column}; fill it in, or "
                         f"remove the row")
    table = table.assign(**{column: table[column].map(to_nfc)}) if column == "class" else table
    if "label" not in table:
        return table
    numbers = pd.to_numeric(table["label"], errors="coerce")
    if not (numbers.notna() & (numbers % 1 == 0) & numbers.between(-2**53, 2**53)).all():
        return table.drop(columns="label").assign(**{"class": table[column].map(to_nfc)})
    labels = numbers.astype(int)
    if column == "class":
        return _with_labels(table, labels, path)
    pairs = pd.DataFrame({"folder": folders, "label": labels}).drop_duplicates()
    named = (folders != "").all() and pairs["folder"].is_unique and pairs["label"].is_unique
    return table.assign(**{"class": folders if named else labels.astype(str), "label": labels})


def _with_labels(table: pd.DataFrame, labels: pd.Series, path: Path) -> pd.DataFrame:
    """Return a table with its labels as numbers, after checking that they and the classes go one to one."""
    table = table.assign(number=labels)
    pairs = table.drop_duplicates(["class", "number"])
    for row in pairs.index[pairs["class"].duplicated() | pairs["number"].duplicated()][:1]:
        raise ValueError(f"{row_label(path, row)}: class {table['class'][row]} has the label {table['label'][row]}, "
                         f"but other rows say otherwise; give every class one label of its own, or leave them out")
    return table.drop(columns="number").assign(label=labels)


def _check_single_labels(table: pd.DataFrame, path: Path) -> None:
    """Raise ValueError for a label of several classes between commas, semicolons or bars, all of which others name."""
    pieces = {name: [part.strip(" '\"[](){}").casefold() for part in re.split(r"[,;|]", name)]
              for name in sorted(table["class"].unique())}
    counts = Counter(piece for parts in pieces.values() for piece in set(parts))
    for name, parts in pieces.items():
        if len(parts) > 1 and all(part and counts[part] > 1 for part in parts):
            row = int((table["class"] == name).to_numpy().argmax())
            raise ValueError(f"{row_label(path, row)}: {table['file_name'].iloc[row]} has the label {name!r}, which "
                             f"names several classes, and an image has one class here; leave such rows out")
