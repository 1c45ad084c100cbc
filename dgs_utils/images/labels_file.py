"""Labels files: the class of each image, from a table or text beside the images or above them."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dgs_utils.images.classes import imagenet_names
from dgs_utils.images.folder_roles import SPLITS, is_role
from dgs_utils.images.pixels import image_suffixes
from dgs_utils.images.scan import FolderScan, suffix_of, to_nfc
from dgs_utils.runtime.table_io import TABLE_SUFFIXES, plain_heading, read_table, row_label
from dgs_utils.store.filenames import check_name, check_relative

# Headings of file names and of classes, as `plain_heading` has them.
FILE_HEADINGS = ("filename", "file", "path", "imagepath", "filepath", "imagefile", "imagename", "imagefilename",
                 "imgpath", "imgname", "fname", "image", "img", "imageid", "id")
CLASS_HEADINGS = ("class", "label", "classname", "category", "categoryname", "labelname", "classlabel", "labels",
                  "target", "breed", "species")
SEVERAL = "and an image has one class here; leave such rows out"


# ---- Which file ------------------------------------------------------------------------------------------------------

def find_labels_file(scan: FolderScan) -> str:
    """Return the one labels file directly in a folder, such as labels.csv, whatever its name; "" for none.

    Raises:
        ValueError: there are several.
    """
    names, files = _known_names(scan), []
    for file in (name for name in scan.others if "/" not in name):
        if suffix_of(file) in TABLE_SUFFIXES and not file.lower().startswith("sample_submission"):
            table = _plain_headings(read_table(scan.root / file, everything=True))
            labelled = "file_name" in table and ({"class", "label"} & set(table) or _one_hot_columns(table))
            files += [file] if labelled and _names_image(table["file_name"][:20], names) else []
        elif suffix_of(file) == ".txt":
            files += [file] if _read_text(scan.root / file) is not None else []
    if len(files) > 1:
        raise ValueError(f"{scan.root} holds several lists of images ({', '.join(files)}); keep one, called "
                         f"metadata.csv")
    return "".join(files)


def _known_names(scan: FolderScan) -> set[str]:
    """Return the names of all images, with and without folder and suffix."""
    last = {name.rpartition("/")[2] for name in scan.images}
    return {*scan.images, *last, *(Path(name).stem for name in last)}


def _names_image(cells: Iterable[str], known: set[str]) -> bool:
    """Return whether a cell is the name of an image, but for its suffix: tables of classes have id and label, too."""
    forms = (name.replace("\\", "/") for name in cells if name)
    return any({form, form.rpartition("/")[2], Path(form).stem} & known for form in forms)


def check_unread_table(classes: set[str], scan: FolderScan) -> None:
    """Raise ValueError where one folder alone holds images and a table names them, but has no known headings."""
    for file in (name for name in scan.others if len(classes) == 1 and suffix_of(name) in TABLE_SUFFIXES):
        if "/" in file:
            continue
        table = read_table(scan.root / file, everything=True)
        cells = [str(cell) for cell in [*table, *table[:20].to_numpy().ravel()]]
        if _names_image([cell for cell in cells if suffix_of(cell) in image_suffixes()], _known_names(scan)):
            raise ValueError(f"{scan.root} holds images in {min(classes)} alone, and {file}, which names them, has no "
                             f"columns file_name and class, but {', '.join(map(str, list(table)[:8]))}; call two of "
                             f"them so, or take it away")


# ---- Its rows --------------------------------------------------------------------------------------------------------

def read_labels_file(file: str, scan: FolderScan) -> pd.DataFrame:
    """Return file_name, class and further columns of the labels file of a folder, with names as the images have them.

    Raises:
        ValueError: a missing column, or a row that names no image, one twice, no class or several; the sentence names
            the row.
    """
    path = scan.root / file
    text = _read_text(path) if path.suffix.lower() == ".txt" else None
    table = _plain_headings(read_table(path, (*FILE_HEADINGS, *CLASS_HEADINGS))) if text is None else text
    if table.empty:
        raise ValueError(f"{path} lists no images; add a row for each, or remove that file")
    if "file_name" not in table:
        raise ValueError(f"{path} has no column file_name, but {', '.join(map(str, table.columns))}; add one with each "
                         f"image's path relative to the folder")
    images, aliases = set(scan.images), _aliases(scan.images, path.stem != "metadata")
    names = [_resolve(name, images, aliases, row_label(path, row), scan) for row, name in enumerate(table["file_name"])]
    table = table.assign(file_name=names)
    doubled = table.index[table["file_name"].duplicated()]
    if len(doubled):
        raise ValueError(f"{row_label(path, doubled[0])} lists {names[doubled[0]]} again; keep one row of each image")
    table = _with_split(table, path)
    if not {"class", "label"} & set(table) and _one_hot_columns(table):
        table = _class_from_one_hot(table, path)
    table = add_class(table, path)
    _check_single_labels(table, path)
    for name in table["class"].unique():
        check_name(name, f"{path}: a class")
    return table


def _read_text(path: Path) -> pd.DataFrame | None:
    """Return a text in which every line begins with an image's name and its class, as Tiny ImageNet's; else None.

    More fields may follow, such as boxes, where the class is no number; numbers may be several labels.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip("\n") for line in file if line.strip()]
    fields = [line.split("\t" if "\t" in lines[0] else None) for line in lines]
    rows = [(parts[0].strip(), parts[1].strip()) for parts in fields if len(parts) > 1]
    if not rows or len(rows) < len(lines) or any(suffix_of(name) not in image_suffixes() for name, _ in rows):
        return None
    if len({len(parts) for parts in fields}) > 1 or (len(fields[0]) > 2 and re.fullmatch(r"-?[\d.]+", rows[0][1])):
        return None
    return pd.DataFrame(rows, columns=["file_name", "label"])


def _plain_headings(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its columns called file_name, class, label and split, however they are written."""
    columns = {plain_heading(column): column for column in reversed(list(table))}
    renamed = {columns[name]: name for name in ("label", "split") if name in columns}
    for column, headings in (("file_name", FILE_HEADINGS), ("class", ("class", *CLASS_HEADINGS[2:]))):
        other = next((columns[name] for name in headings if name in columns), None)
        renamed |= {other: column} if other is not None else {}
    return table.rename(columns=renamed)


def _aliases(images: list[str], short: bool) -> dict[str, str]:
    """Return other names of images that no two share: with accents in one form, and short ones without folder or
    suffix.
    """
    pairs = [(to_nfc(name), name) for name in images]
    if short:
        last = [(name.rpartition("/")[2], image) for name, image in pairs]
        pairs += [pair for pair in last if "/" in pair[1]] + [(Path(name).stem, image) for name, image in last]
    counts = Counter(name for name, _ in pairs)
    return {name: image for name, image in pairs if counts[name] == 1}


def _resolve(name: str, images: set[str], aliases: dict[str, str], row: str, scan: FolderScan) -> str:
    """Return the image that a row names."""
    if name in images:
        return name
    if not name:
        raise ValueError(f"{row} names no file; fill in file_name, or remove the row")
    windows = name.replace("\\", "/")
    name = check_relative(windows if windows in images else name, f"{row}: a file").as_posix()
    if name in images or to_nfc(name) in aliases:
        return name if name in images else aliases[to_nfc(name)]
    if (scan.root / name).is_file():
        raise ValueError(f"{row} lists {name}, which is no image in {scan.root}; restore it, or remove the row")
    alike = [image for image in scan.images if name in (image.rpartition("/")[2], Path(image).stem)]
    raise ValueError(f"{row} lists {name}, which may be {alike[0]} or {alike[1]} in {scan.root}; write the whole name"
                     if len(alike) > 1 else
                     f"{row} lists {name}, which does not exist in {scan.root}; restore it, or remove the row")


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


# ---- Its classes -----------------------------------------------------------------------------------------------------

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


def _one_hot_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of a table in which each class is one, of 0 (or -1) and 1; [] where it is no such table."""
    others = [name for name in table if name not in ("file_name", "split")]
    values = {str(value).strip().removesuffix(".0") for name in others for value in table[name].unique()}
    return others if len(others) > 1 and {"1"} <= values <= {"0", "1", "-1"} else []


def _class_from_one_hot(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    columns = _one_hot_columns(table)
    marks = table[columns].astype(float).to_numpy() == 1
    for row in (marks.sum(1) != 1).nonzero()[0][:1]:
        names = [column for column, mark in zip(columns, marks[row], strict=True) if mark]
        raise ValueError(f"{row_label(path, row)}: {table['file_name'].iloc[row]} has "
                         f"{'the classes ' + ', '.join(names[:5]) if names else 'no class'} among the columns of 0 and "
                         f"1, {SEVERAL}, or write a column class")
    return table.drop(columns=columns).assign(**{"class": [columns[index] for index in marks.argmax(1)]})


def _check_single_labels(table: pd.DataFrame, path: Path) -> None:
    """Raise ValueError for a label of several classes between commas, semicolons or bars, all of which others name."""
    pieces = {name: _pieces(name, r"[,;|]") for name in sorted(table["class"].unique())}
    counts = Counter(piece for found in pieces.values() for piece in set(found))
    for name, parts in pieces.items():
        if len(parts) > 1 and all(counts[part] > 1 for part in parts):
            row = int((table["class"] == name).to_numpy().argmax())
            raise ValueError(f"{row_label(path, row)}: {table['file_name'].iloc[row]} has the label {name!r}, which "
                             f"names several classes, {SEVERAL}")


def joined_labels_warning(table: pd.DataFrame) -> list[str]:
    """Return a sentence about labels that may name several classes, where they are no folders or names of ImageNet."""
    names, known = sorted(table["class"].unique()), set(imagenet_names().values())
    labels = {piece for name in names for piece in _pieces(name, r"$")}
    doubtful = [name for name in names if re.search(r"[;|]|^[\[({].*[,\s]", name) or any(
        len(parts := _pieces(name, mark)) > 1 and set(parts) <= labels for mark in (r"\s", r"[_+&/-]", r"\band\b"))]
    doubtful = [name for name in doubtful if name.replace("_", " ") not in known and not all(
        f"/{name}/" in f"/{file}" for file in table.loc[table["class"] == name, "file_name"])]
    if not doubtful:
        return []
    others = f" ({len(doubtful) - 1} others alike)" if doubtful[1:] else ""
    return [f"the label {doubtful[0]!r} is taken for one class{others}; if it names several, leave such rows out, "
            f"since an image has one class here"]


def _pieces(label: str, separators: str) -> list[str]:
    """Return the parts of a label between separators, in small letters, without brackets and quotes."""
    parts = (part.strip("[](){} ").strip("'\" ").casefold() for part in re.split(separators, label.strip("[](){} ")))
    return [part for part in parts if part]
