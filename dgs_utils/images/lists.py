"""Lists of images: which file is of which class, as a table that somebody wrote beside the images tells."""

from collections import Counter
from pathlib import Path

import pandas as pd

from dgs_utils.artifacts.names import check_name, check_relative
from dgs_utils.images.tables import LISTS, one_form, read_table, row_at
from dgs_utils.images.trees import Tree, kind_of

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "testing": "test"}
FILE = ("file_name", "filename", "file", "path", "image_path", "image_file", "image")  # columns of lists
CLASS = ("class", "label", "class_name", "category")


def other_lists(top: Path, files: list[str]) -> list[str]:
    """Return the one list of another name, such as labels.csv, that tells files and classes.

    Raises:
        ValueError: there are several.
    """
    found = []
    for file in files:
        if kind_of(file) in LISTS:
            columns = {str(column).lower() for column in read_table(top / file, everything=True)}
            found += [file] if columns & set(FILE) and columns & set(CLASS) else []
    if len(found) > 1:
        raise ValueError(f"{top} holds several lists of images ({', '.join(found)}); keep one, called metadata.csv")
    return found


def read_list(path: Path, tree: Tree) -> tuple[pd.DataFrame, Counter]:
    """Read a list, and match it with the images below its folder."""
    table = _plain_headings(read_table(path, (*FILE, *CLASS)))
    if "file_name" not in table:
        raise ValueError(f"{path} has no column file_name, but {', '.join(map(str, table.columns))}; add one with each "
                         f"image's path relative to the folder")
    images, names, known = set(tree.images), [], _short_names(tree.images, path.stem != "metadata")
    for place, name in enumerate(table["file_name"]):
        if not name:
            raise ValueError(f"{row_at(path, place)} names no file; fill in file_name, or remove the row")
        if name not in images:
            forward = name.replace("\\", "/")  # Windows has the others
            name = check_relative(forward if forward in images else name, f"{path}: a file").as_posix()
            name = name if name in images else known.get(one_form(name), name)
        if name not in images:
            raise ValueError(f"{row_at(path, place)} lists {name}, which {_missing(path.parent, name, tree.images)}")
        names.append(name)
    table = table.assign(file_name=names)
    doubled = table.index[table["file_name"].duplicated()]
    if len(doubled):
        raise ValueError(f"{row_at(path, doubled[0])} lists {names[doubled[0]]} again; keep one row of each image")
    skipped = tree.skipped + Counter(kind_of(name) for name in tree.others if name != path.name)
    skipped["images not in the list"] += len(images) - len(names)
    table = with_class(_with_split(table, path), path)
    for name in table["class"].unique():
        check_name(name, f"{path}: a class")
    return table, skipped


def _plain_headings(table: pd.DataFrame) -> pd.DataFrame:
    """Return a list with its columns called file_name, class, label and split, whatever the case they came in."""
    found = {str(column).lower(): column for column in reversed(list(table))}
    renamed = {found[name]: name for name in ("label", "split") if name in found}
    for column, names in (("file_name", FILE), ("class", ("class", *CLASS[2:]))):
        other = next((found[name] for name in names if name in found), None)
        renamed |= {other: column} if other is not None else {}
    return table.rename(columns=renamed)


def _short_names(images: list[str], shorter: bool) -> dict[str, str]:
    """Return the images by other names that lists may have for them: with letters and accents stored apart, and of
    lists from elsewhere without folder, or without suffix.
    """
    names = [(one_form(name), name) for name in images]
    if shorter:
        tails = [(name.rpartition("/")[2], image) for name, image in names]
        names += [pair for pair in tails if "/" in pair[1]] + [(Path(tail).stem, image) for tail, image in tails]
    often = Counter(name for name, _ in names)
    return {name: image for name, image in names if often[name] == 1}


def _missing(folder: Path, name: str, images: list[str]) -> str:
    """Return why a listed name is no image, as the end of a sentence."""
    if (folder / name).is_file():
        return f"is no image in {folder}; restore it, or remove the row"
    alike = [image for image in images if name in (image.rpartition("/")[2], Path(image).stem)]
    if len(alike) > 1:
        return f"may be {alike[0]} or {alike[1]} in {folder}; write the whole name"
    return f"does not exist in {folder}; restore it, or remove the row"


def _with_split(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a list whose column split, where it has one, says train, val or test."""
    if "split" not in table:
        return table
    splits = table["split"].str.strip().str.lower().map(SPLITS)
    unknown = table.index[splits.isna()]
    if len(unknown):
        raise ValueError(f"{row_at(path, unknown[0])}: the split of {table['file_name'][unknown[0]]} is "
                         f"{table['split'][unknown[0]]!r}; write train, val or test, or leave out the column")
    return table.assign(split=splits)


def with_class(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Complete a list: the class is its own column, the label's text, or the file's folder.

    Numeric labels that go one to one with folders give the folders' order; where they do not, as with one folder
    ``train`` for all, folders tell no class and the label is it.
    """
    table = table.reset_index(drop=True)
    if "class" not in table and "label" not in table:
        parents = table["file_name"].map(lambda name: one_form(Path(name).parent.name))
        if (parents == "").any():
            raise ValueError(f"{path} tells no class: add a column class, or put the images into class folders")
        return table.assign(**{"class": parents})
    column = "class" if "class" in table else "label"
    empty = table.index[table[column].astype(str) == ""]
    if len(empty):
        raise ValueError(f"{row_at(path, empty[0])}: {table['file_name'][empty[0]]} has no {column}; fill it in, or "
                         f"remove the row")
    table = table.assign(**{column: table[column].map(one_form)}) if column == "class" else table
    if "label" not in table:
        return table
    numbers = pd.to_numeric(table["label"], errors="coerce")
    if not (numbers.notna() & (numbers % 1 == 0) & numbers.between(-2**53, 2**53)).all():
        kept = table["label"] if column == "label" else table["class"]
        return table.drop(columns="label").assign(**{"class": kept.map(one_form)})
    labels = numbers.astype(int)
    if column == "class":
        return _with_labels(table, labels, path)
    parents = table["file_name"].map(lambda name: one_form(Path(name).parent.name))
    pairs = pd.DataFrame({"folder": parents, "label": labels}).drop_duplicates()
    named = (parents != "").all() and pairs["folder"].is_unique and pairs["label"].is_unique
    return table.assign(**{"class": parents if named else labels.astype(str), "label": labels})


def _with_labels(table: pd.DataFrame, labels: pd.Series, path: Path) -> pd.DataFrame:
    """Check that labels and classes of a list go one to one."""
    seen: dict[str, int] = {}
    taken: dict[int, str] = {}
    for place, (name, label) in enumerate(zip(table["class"], labels, strict=True)):
        if seen.setdefault(name, label) != label or taken.setdefault(label, name) != name:
            raise ValueError(f"{row_at(path, place)}: class {name} has the label {table['label'][place]}, but other "
                             f"rows say otherwise; give every class one label of its own, or leave out the labels")
    return table.assign(label=labels)
