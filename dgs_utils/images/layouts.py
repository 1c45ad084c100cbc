"""Layouts: what an image folder from anywhere means, as one table of files with their classes.

Read are, below at most some folders that hold nothing else:

* class folders, each with its images at any depth, as torchvision's ``ImageFolder`` takes them;
* a list (``metadata`` or another one .csv, .jsonl or .parquet) with file_name and class or label, beside the images or
  above them, as Hugging Face's image folders have it;
* images beside a file of the same name with ``.cls``, as unpacked webdatasets have them;
* any of these in ``train`` with ``val``, ``validation`` or ``test`` beside it.

Where there is no or more than one meaning, one sentence says what was found and what would work.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dgs_utils.artifacts.manifests import MANIFEST, read_begun, read_manifest
from dgs_utils.artifacts.names import check_all_relative, check_name, links_outside
from dgs_utils.artifacts.places import locate, outputs_root
from dgs_utils.images.lists import SPLITS, other_lists, read_list, with_class
from dgs_utils.images.tables import LISTS, one_form, read_table
from dgs_utils.images.trees import (
    ARCHIVES,
    Tree,
    count_files,
    count_images,
    entries,
    is_hidden,
    kind_of,
    listed,
    told,
    walk,
)

WANTED = ("one folder of images per class, train and val (or test) with such folders, or a metadata.csv with the "
          "columns file_name and class")


@dataclass(frozen=True)
class Listing:
    """What an image folder holds.

    Attributes:
        root: folder that file names start from.
        table: file_name (relative, ``/`` between parts) and class, one row an image; also split (train, val or test)
            and label (int, from 0) where the folder tells them, and what else a list holds.
        notes: sentences about what was left out, or lies elsewhere.
    """

    root: Path
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def find_images(folder: Path, classes: list[str] | None = None) -> Listing:
    """Return what a stage folder or any image folder holds; in a table of no order.

    Args:
        folder: the folder.
        classes: class folders to look into, so that ten of a thousand are quick to list; None or [] for all. Lists of
            images are returned whole.

    Raises:
        ValueError: no folder, no images, several meanings, a list that is wrong, or a class or file whose name leads
            out of the folder; the sentence names the file and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        packed = folder.is_file() and folder.name.lower().endswith(ARCHIVES)
        raise ValueError(f"{folder} is {'an archive; unpack it and' if packed else 'not a folder;'} give the folder "
                         f"that holds one sub-folder of images per class")
    if (folder / "originals.csv").exists():
        return _originals(folder)
    if (folder / MANIFEST).exists() and (folder / "metadata.csv").exists():
        return _stage(folder)
    for name in classes or []:
        check_name(name, "a class")
    return _search(folder, list(classes or []))


def no_images_of(name: str, folder: Path) -> ValueError:
    """Return the error that a class has no images in a folder, with what the classes there are called."""
    there = sorted(set(find_images(folder).table["class"]))
    others = f"{', '.join(there[:5])}{' …' if len(there) > 5 else ''}"
    return ValueError(f"class {name} has no images in {folder}, where classes are called {others}; add some, rename "
                      f"one, or leave the class out of prepare.classes")


# ---- Folders of the kit's own ----------------------------------------------------------------------------------------

def _originals(folder: Path) -> Listing:
    """Open a 00 folder: its images are in it, or where its stage was told to look for them."""
    root, path = folder / json.loads((folder / "dataset.json").read_text())["root"], folder / "originals.csv"
    inside = root.absolute().is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(outputs_root())
    notes = [] if inside or root == _root_given(folder) else [
        f"the images that {path} lists are not in its folder, nor where its stage was told, but in {root}"]
    return Listing(root, *_checked(read_table(path), root, path, notes))


def _root_given(folder: Path) -> Path | None:
    """Return the folder of images that a 00 folder was begun with, as far as it says so."""
    given = (read_begun(folder) or {}).get("given")
    root = given.get("root") if isinstance(given, dict) else None
    return locate(str(root.get("path"))) if isinstance(root, dict) else None


def _stage(folder: Path) -> Listing:
    """Open a finished pool or distilled set. A pool of one given folder only lists images, where they are."""
    path, manifest = folder / "metadata.csv", read_manifest(folder)
    table, params = read_table(path), manifest.get("params", {})
    if "class" not in table:
        table = with_class(table, path)
    if manifest["stage"] == "02_pool" and params.get("generator") == "folder" and not (folder / "images").exists():
        given = locate(params["root"])
        names = table["file_name"].map(lambda name: name.removeprefix(f"{given}/"))
        return Listing(folder, table, _checked(table.assign(file_name=names), given, path)[1])
    return Listing(folder, *_checked(table, folder, path))


def _checked(table: pd.DataFrame, root: Path, where: Path, notes: list[str] | None = None
             ) -> tuple[pd.DataFrame, list[str]]:
    """Return a table of images, whose classes and files have names that may become paths, and what is to be told.

    Raises:
        ValueError: one has not; data sets come from strangers, and later stages write folders of these names.
    """
    for name in table["class"].unique():
        check_name(name, f"{where}: a class")
    files = table["file_name"].tolist()
    check_all_relative(files, f"{where}: a file")
    outside = links_outside(root, files)
    told = [f"{len(outside)} images of {root} are links to elsewhere, such as {outside[0]}; make sure that these may "
            f"be read and passed on"] if outside else []
    return table, [*(notes or []), *told]


# ---- Folders from anywhere -------------------------------------------------------------------------------------------

def _search(folder: Path, classes: list[str]) -> Listing:
    """Find the layout of a folder and read it."""
    top = _top(folder, classes)
    folders, files = entries(top)
    splits, notes = _splits(top, folders), []
    lists = _lists(files)
    if not lists and splits and not any(_is_told(top / name) for name in splits):
        lists = other_lists(top, files)  # for all splits at once
    if splits and not lists:
        bare = [name for name, split in splits.items() if split == "test" and _has_no_classes(top / name)]
        parts = [(name, _part(top / name, classes, _lists(entries(top / name)[1]))) for name in splits
                 if name not in bare]
        found = [table.assign(file_name=f"{name}/" + table["file_name"], split=splits[name])
                 for name, (table, _) in parts if len(table)]
        table = pd.concat(found, ignore_index=True) if found else parts[0][1][0]
        skipped = sum((counts for _, (_, counts) in parts), Counter())
        rest = walk(top, [name for name in folders if name not in splits])
        skipped += rest.skipped + Counter(kind_of(name) for name in [*rest.images, *rest.others])
        for tree in (walk(top, [name]) for name in bare):
            skipped += tree.skipped + Counter(map(kind_of, tree.others))
            skipped["test images without classes"] += len(tree.images)
        skipped += _loose(top, files)
    else:
        table, skipped = _part(top, classes, lists)
        heads = table["file_name"].str.split("/").str[0]
        if splits and heads.isin(splits).all():
            table = table.assign(split=heads.map(splits))
    if not (lists or classes):
        notes += _hollow(top, [name for name, split in splits.items() if split == "train"] or [""], table)
    skipped += _around(folder, top)
    prefix = top.relative_to(folder).as_posix()
    if prefix != ".":
        table = table.assign(file_name=f"{prefix}/" + table["file_name"])
    if "label" in table:  # from 0 on, whatever the numbers were
        known = table["label"].notna().all()
        table = table.assign(label=table["label"].rank(method="dense").astype(int) - 1) if known else table.drop(
            columns="label")
    if skipped.total():
        notes.insert(0, f"{folder}: {len(table)} images used, {told(skipped)}")
    return Listing(folder, *_checked(table, folder, folder, notes))


def _top(folder: Path, classes: list[str]) -> Path:
    """Return where the class folders, the lists, or ``train`` and ``val`` lie: other folders may be put around them.

    Beside one that leads to ``train`` there may be folders without images, as ImageNet's Annotations.
    """
    while True:
        folders, files = entries(folder)
        if _lists(files) or set(folders) & set(classes) or _has_train(folders):
            return folder
        if len(folders) > 1:
            filled: list[str] = []
            for name in folders:  # two are enough to know
                filled += [name] if len(filled) < 2 and count_images(folder / name) else []
            inner = _top(folder / filled[0], classes) if len(filled) == 1 else folder
            return inner if _has_train(entries(inner)[0]) else folder
        if not folders:
            return folder
        inner_folders, inner_files = entries(folder / folders[0])
        if not (inner_folders or _lists(inner_files)):
            return folder
        folder = folder / folders[0]


def _has_train(folders: list[str]) -> bool:
    return any(SPLITS.get(name.lower()) == "train" for name in folders)


def _hollow(top: Path, places: list[str], table: pd.DataFrame) -> list[str]:
    """Return a sentence about folders beside class folders that hold no images, as where a download broke off."""
    notes = []
    for place in places:
        start = f"{place}/" if place else ""
        full = {name[len(start):].partition("/")[0] for name in table["file_name"] if name.startswith(start)}
        empty = [start + name for name in entries(top / place)[0] if name not in full and name.lower() not in SPLITS]
        if empty:
            some = f"{', '.join(empty[:5])}{' …' if len(empty) > 5 else ''}"
            notes.append(f"{len(empty)} folders of {top} hold no images, and so are no classes: {some}")
    return notes


def _lists(files: list[str]) -> list[str]:
    return [f"metadata{suffix}" for suffix in LISTS if f"metadata{suffix}" in files]


def _is_told(folder: Path) -> bool:
    """Return whether a folder tells the classes of its images itself: by folders or a list."""
    folders, files = entries(folder)
    return bool(folders or _lists(files) or any(kind_of(file) == ".cls" for file in files))


def _has_no_classes(folder: Path) -> bool:
    """Return whether nothing tells the classes of a folder's images, as in competitions' tests."""
    return not _is_told(folder) and not other_lists(folder, entries(folder)[1])


def _splits(top: Path, folders: list[str]) -> dict[str, str]:
    """Return the split that each folder is, where they are splits; a class may be called "train", too."""
    splits = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}
    if "train" not in splits.values():
        return {}
    told = any(_is_told(top / name) for name, split in splits.items() if split == "train")
    return splits if told or len(splits) == len(folders) else {}


def _loose(folder: Path, files: list[str]) -> Counter:
    """Count the files that lie directly in a folder, beside what is read, and the hidden ones there."""
    hidden = sum(count_files(entry) for entry in listed(folder) if is_hidden(entry.name))
    return Counter({"hidden": hidden}) + Counter(kind_of(name) for name in files)


def _around(folder: Path, top: Path) -> Counter:
    """Count what lies in the folders around the one that is read."""
    counts: Counter = Counter()
    while folder != top:
        folders, files = entries(folder)
        inner = top.relative_to(folder).parts[0]
        beside = walk(folder, [name for name in folders if name != inner])
        counts += beside.skipped + Counter(map(kind_of, beside.others)) + _loose(folder, files)
        folder = folder / inner
    return counts


def _part(top: Path, classes: list[str], lists: list[str]) -> tuple[pd.DataFrame, Counter]:
    """Return the table of one folder (of a split, or of all), with names from it, and what was skipped."""
    folders, files = entries(top)
    wanted = [name for name in folders if one_form(name) in classes]
    if not lists and wanted:
        tree = walk(top, wanted)
        tree.skipped += _loose(top, files)  # other classes were left out by whoever named these
        return _by_folder(top, tree, 0)
    tree = walk(top)
    if not lists and len({name.rpartition("/")[0] for name in tree.images}) == 1:  # so folders tell no class
        lists = other_lists(top, files)
    if lists:
        return read_list(top / lists[0], tree)
    if tree.images and all(f"{_stem(name)}.cls" in set(tree.others) for name in tree.images[:1]):
        return _by_sidecar(top, tree)
    return _by_folder(top, tree, _depth(top, tree, classes))


def _stem(name: str) -> str:
    """Return a file's name up to the first point of its last part, as webdatasets group files."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.split('.')[0]}"


def _depth(top: Path, tree: Tree, classes: list[str]) -> int:
    """Return how many folders lie above the class folders.

    Raises:
        ValueError: no images, images without folders, or several meanings.
    """
    parts = [name.split("/")[:-1] for name in tree.images]
    inside = [path for path in parts if path]
    if not inside:
        raise ValueError(_nothing(top, tree))
    seconds = {path[1] for path in inside if len(path) > 1}
    if any(len(path) == 1 for path in inside) or len(seconds) <= 1 or len({path[0] for path in inside}) == 1:
        return 0  # some images lie directly in class folders, or these hold one folder each, such as "images"
    if classes and set(classes) <= seconds:
        return 1
    first = [next(name for name in tree.images if name.startswith(f"{group}/"))
             for group in sorted({path[0] for path in inside})[:2]]
    raise ValueError(f"{top} holds images two folders deep ({', '.join(first)}), and either folder may be the class; "
                     f"give one of its folders, all classes side by side, or a metadata.csv with file_name and class")


def _nothing(top: Path, tree: Tree) -> str:
    """Return what was found instead of images in class folders, and what would work."""
    counts = Counter(map(kind_of, tree.others)) + tree.skipped
    among = f" among {told(counts).replace('skipped', 'other files')}" if counts.total() else ""
    if tree.images:
        return (f"{top} holds {len(tree.images)} images without class folders and no list of their classes{among}; it "
                f"needs {WANTED}")
    if any(name.lower().endswith(ARCHIVES) for name in tree.others):
        return f"{top} holds no images, but archives{among}; unpack them, so that there is {WANTED}"
    if ".parquet" in counts:
        return f"{top} holds no image files{among}; write the images that its .parquet files hold into {WANTED}"
    return f"{top} holds no images{among}; it needs {WANTED}"


def _by_folder(top: Path, tree: Tree, depth: int) -> tuple[pd.DataFrame, Counter]:
    rows = [(name, name.split("/")[depth]) for name in tree.images if name.count("/") > depth]
    forms: dict[str, str] = {}
    for name in sorted({name for _, name in rows}):
        if forms.setdefault(one_form(name), name) != name:
            raise ValueError(f"{top} holds two folders {one_form(name)}, whose names differ only in how accents are "
                             f"stored; put their images into one")
    table = pd.DataFrame([(file, one_form(name)) for file, name in rows], columns=["file_name", "class"])
    skipped = tree.skipped + Counter(map(kind_of, tree.others))
    skipped["images outside class folders"] += len(tree.images) - len(rows)
    return table, skipped


def _by_sidecar(top: Path, tree: Tree) -> tuple[pd.DataFrame, Counter]:
    """Read each image's class from the file beside it."""
    others, rows, owners = set(tree.others), list[tuple[str, str]](), dict[str, str]()
    for name in tree.images:
        beside = f"{_stem(name)}.cls"
        if beside in owners:
            raise ValueError(f"{top / beside} lies beside two images, {owners[beside]} and {name}; keep one of them")
        owners[beside] = name
        if beside not in others:
            raise ValueError(f"{top / name} has no {Path(beside).name} beside it, as other images there; add its class")
        rows.append((name, (top / beside).read_text(encoding="utf-8", errors="replace").strip()))
        others.discard(beside)
    table = pd.DataFrame(rows, columns=["file_name", "label"])
    return with_class(table, top), tree.skipped + Counter(map(kind_of, others))
