"""Image folders: the files and classes of a stage folder or of any data set, as one table.

Read are, also below folders that hold nothing else:

* class folders, each with its images at any depth, as torchvision's ``ImageFolder`` takes them;
* a labels file (``metadata`` or another .csv, .tsv, .jsonl or .parquet) with file_name and class or label, beside the
  images or above them, as Hugging Face's image folders have it; of another name only where folders are no classes;
* any of these in ``train`` with ``val``, ``validation`` or ``test`` beside it.

Without a meaning, or with several, an error of one sentence names the folder's content and the layouts that work.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dgs_utils.images.folder_roles import SPLITS, check_class_names, is_role, no_classes_error, show_no_class
from dgs_utils.images.labels_file import (
    add_class,
    check_unread_table,
    find_labels_file,
    joined_labels_warning,
    read_labels_file,
)
from dgs_utils.images.scan import ARCHIVES, FolderScan, format_counts, scan_folder, suffix_of, to_nfc
from dgs_utils.params.types import SOFT_LABEL_KINDS, soft_labels_file
from dgs_utils.runtime.table_io import TABLE_SUFFIXES, read_table
from dgs_utils.store.filenames import check_all_relative, check_name, links_outside
from dgs_utils.store.manifest import MANIFEST, read_manifest, read_run_inputs
from dgs_utils.store.node import image_root
from dgs_utils.store.paths import resolve_path

SOFT_LABELS = [soft_labels_file(kind) for kind in SOFT_LABEL_KINDS]  # beside a published set; stage 06 reads them


@dataclass(frozen=True)
class ImageListing:
    """What an image folder holds."""

    root: Path  # folder that file names start from
    # file_name (relative, ``/`` between parts) and class, one row an image; also split (train, val or test) and label
    # (int, from 0) where the folder has them, and further columns of a labels file.
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)  # sentences about skipped files and links to images elsewhere


def find_images(folder: Path, classes: list[str] | None = None) -> ImageListing:
    """Return what a stage folder or any image folder holds, in no particular order.

    Of class folders only ``classes`` are scanned, if any are given, so that ten of a thousand are quick to list.

    Raises:
        ValueError: no folder, no images, several meanings, a labels file that is wrong, or a class or file whose name
            leads out of the folder; the sentence names the file and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        packed = folder.is_file() and folder.name.lower().endswith(ARCHIVES)
        raise ValueError(f"{folder} is {'an archive; unpack it and' if packed else 'not a folder;'} give the folder "
                         f"that holds one sub-folder of images per class")
    if (folder / "originals.csv").exists():
        return _read_originals(folder)
    if (folder / MANIFEST).exists() and (folder / "metadata.csv").exists():
        return _read_stage(folder)
    for name in classes or []:
        check_name(name, "a class")
    return _read_any(folder, list(classes or []))


def missing_class_error(name: str, folder: Path) -> ValueError:
    """Return the error that a class has no images in a folder, with the names of the classes that have."""
    names = sorted(set(find_images(folder).table["class"]))
    some = f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
    return ValueError(f"class {name} has no images in {folder}, where classes are called {some}; add some, rename one, "
                      f"or leave the class out of prepare.classes")


# ---- Folders of the kit ----------------------------------------------------------------------------------------------

def _read_originals(folder: Path) -> ImageListing:
    """Open a 00 folder: its images are in it, or where its parameters say."""
    root, path = folder / json.loads((folder / "dataset.json").read_text())["root"], folder / "originals.csv"
    inside = root.absolute().is_relative_to(folder.absolute())
    elsewhere = None if inside else image_root(read_run_inputs(folder) or {})
    return _checked(elsewhere or root, read_table(path), path)


def _read_stage(folder: Path) -> ImageListing:
    """Open a finished pool or distilled set. A pool of one folder that exists already only lists its images."""
    path, manifest = folder / "metadata.csv", read_manifest(folder)
    table, params = read_table(path), manifest.get("params", {})
    if "class" not in table:
        table = add_class(table, path)
    if manifest["stage"] == "02_pool" and params.get("generator") == "folder" and not (folder / "images").exists():
        return _checked(image_root(manifest) or resolve_path(params["root"]), table, path)
    return _checked(folder, table, path)


def _checked(root: Path, table: pd.DataFrame, source: Path, notes: list[str] | None = None) -> ImageListing:
    """Return a listing whose classes and files have names that later stages can write as paths, or raise ValueError."""
    for name in table["class"].unique():
        check_name(name, f"{source}: a class")
    files = table["file_name"].tolist()
    check_all_relative(files, f"{source}: a file")
    outside = links_outside(root, files)
    links = [f"{len(outside)} images of {root} are links to elsewhere, such as {outside[0]}; make sure that these may "
             f"be read and passed on"] if outside else []
    return ImageListing(root, table, [*(notes or []), *links])


# ---- Other folders ---------------------------------------------------------------------------------------------------

def _read_any(folder: Path, classes: list[str]) -> ImageListing:
    """Find the layout of a folder and read it."""
    scan = scan_folder(folder, classes)
    top = _find_top(scan, classes)
    splits = _find_splits(scan, top)
    labels_file = _metadata_file(scan, top)
    if not labels_file and splits and not any(_has_classes(scan, part) for part in splits):
        labels_file = find_labels_file(scan.below(top))  # of all splits at once
    parts = splits if splits and not labels_file else {top: ""}
    unlabelled = [part for part, split in parts.items() if split == "test" and not _has_classes(scan, part)
                  and not find_labels_file(scan.below(part))]  # as in competitions
    tables, labels_files = [], set()
    for part in (part for part in parts if part not in unlabelled):
        table, used = _read_part(scan.below(part), classes, labels_file or _metadata_file(scan, part))
        table = table.assign(file_name=f"{part}/" + table["file_name"]) if part else table
        tables.append(table.assign(split=parts[part]) if parts[part] else table)
        labels_files |= {_join(part, used)} if used else set()
    table = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    if parts is splits:
        _check_shared_classes(folder, table)
    elif splits:
        folders = table["file_name"].map(lambda name: next((p for p in splits if name.startswith(f"{p}/")), ""))
        table = table.assign(split=folders.map(splits)) if (folders != "").all() else table
    notes = [] if "split" in table else _unread_splits(scan, top)
    if not (labels_file or classes):
        notes += _empty_folders(scan, [part for part, split in splits.items() if split == "train"] or [top], table)
    notes += joined_labels_warning(table)
    if "label" in table:  # from 0 on, whatever the numbers were
        known = table["label"].notna().all()
        table = table.assign(label=table["label"].rank(method="dense").astype(int) - 1) if known else table.drop(
            columns="label")
    skipped = scan.skipped.copy()
    skipped.update(suffix_of(name) for name in scan.others if name not in (*labels_files, *SOFT_LABELS))
    skipped["test images without classes"] = sum(len(scan.below(part).images) for part in unlabelled)
    unused = len(scan.images) - len(table) - skipped["test images without classes"]
    skipped["images not in the list" if labels_files else "images outside class folders"] = unused
    if skipped.total():
        notes.insert(0, f"{folder}: {len(table)} images used, {format_counts(skipped)}")
    return _checked(folder, table, folder, notes)


def _find_top(scan: FolderScan, classes: list[str], folder: str = "") -> str:
    """Return the folder that holds the class folders, the labels file, or ``train``: others may be around it.

    Beside one that leads to ``train``, or is called ``images``, there may be folders without images, as ImageNet's
    Annotations.
    """
    part = scan.below(folder)
    folders = part.folders[""]
    if _metadata_file(scan, folder) or set(folders) & set(classes) or _has_train(folders):
        return folder
    filled = {name.split("/")[0] for name in part.images if "/" in name}
    candidates = folders if len(folders) == 1 else sorted(filled)
    if len(candidates) != 1:
        return folder
    [name] = candidates
    child, inner = _join(folder, name), _find_top(scan, classes, _join(folder, name))
    if len(folders) == 1:
        if not (scan.folders[child] or _metadata_file(scan, child)):
            return folder
        return folder if is_role(name) and find_labels_file(part) else inner
    if _has_train(scan.folders[inner]):
        return inner
    return inner if is_role(name) and scan.folders[inner] and not find_labels_file(part) else folder


def _find_splits(scan: FolderScan, top: str) -> dict[str, str]:
    """Return the split of each folder that is one; a class may be called "train", too."""
    folders = scan.folders[top]
    splits = {_join(top, name): SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}
    has_classes = any(_has_classes(scan, part) for part, split in splits.items() if split == "train")
    return splits if has_classes or ("train" in splits.values() and len(splits) == len(folders)) else {}


def _has_classes(scan: FolderScan, folder: str) -> bool:
    """Return whether a folder has class folders or a metadata file of its own."""
    return not all(map(is_role, scan.folders[folder])) or bool(_metadata_file(scan, folder))


def _has_train(folders: list[str]) -> bool:
    return any(SPLITS.get(name.lower()) == "train" for name in folders)


def _metadata_file(scan: FolderScan, folder: str) -> str:
    """Return the name of the labels file called ``metadata`` in a folder, or ""."""
    names = (f"metadata{suffix}" for suffix in TABLE_SUFFIXES)
    return next((name for name in names if _join(folder, name) in scan.others), "")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _read_part(scan: FolderScan, classes: list[str], labels_file: str) -> tuple[pd.DataFrame, str]:
    """Return the table of a whole data set or of one split, and the labels file that was used, or ""."""
    if not labels_file and any(to_nfc(name) in classes for name in scan.folders[""]):
        return _by_folder(scan, 0), ""
    if not labels_file and show_no_class(scan.images):
        labels_file = find_labels_file(scan)
    if labels_file:
        return read_labels_file(labels_file, scan), labels_file
    depth = _class_depth(scan, classes)
    names = {name.split("/")[depth] for name in scan.images if name.count("/") > depth}
    check_class_names(names, scan)
    check_unread_table(names, scan)
    return _by_folder(scan, depth), ""


def _class_depth(scan: FolderScan, classes: list[str]) -> int:
    """Return the number of folder levels above the class folders.

    Raises:
        ValueError: no images, images without folders, or several meanings.
    """
    inside = [name.split("/")[:-1] for name in scan.images if "/" in name]
    if not inside:
        raise no_classes_error(scan)
    firsts, seconds = {path[0] for path in inside}, {path[1] for path in inside if len(path) > 1}
    if any(len(path) == 1 for path in inside) or len(seconds) <= 1 or len(firsts) == 1:
        return 0  # some images are directly in class folders, or these have one folder each, such as "images"
    if classes and set(classes) <= seconds:
        return 1
    examples = [next(name for name in scan.images if name.startswith(f"{first}/")) for first in sorted(firsts)[:2]]
    raise ValueError(f"{scan.root} holds images two folders deep ({', '.join(examples)}), and either folder may be the "
                     f"class; give one of its folders, all classes side by side, or a metadata.csv with file_name and "
                     f"class")


def _by_folder(scan: FolderScan, depth: int) -> pd.DataFrame:
    rows = [(name, name.split("/")[depth]) for name in scan.images if name.count("/") > depth]
    forms: dict[str, str] = {}
    for name in sorted({name for _, name in rows}):
        if forms.setdefault(to_nfc(name), name) != name:
            raise ValueError(f"{scan.root} holds two folders {to_nfc(name)}, whose names differ only in how accents "
                             f"are stored; put their images into one")
    return pd.DataFrame([(file, to_nfc(name)) for file, name in rows], columns=["file_name", "class"])


# ---- Warnings and errors about a layout ------------------------------------------------------------------------------

def _check_shared_classes(folder: Path, table: pd.DataFrame) -> None:
    """Raise ValueError for test images none of whose classes is one of the training images', as numbers for names."""
    train = set(table.loc[table["split"] == "train", "class"])
    for split, part in table[table["split"] != "train"].groupby("split", sort=False):
        if train and not train & set(part["class"]):
            example = folder / part["file_name"].iloc[0]
            raise ValueError(f"the {split} images of {folder}, such as {example}, are of classes such as "
                             f"{part['class'].iloc[0]}, which no training image has, but {min(train)}; name classes "
                             f"alike in both, or take those images away")


def _unread_splits(scan: FolderScan, top: str) -> list[str]:
    """Return a sentence about files outside the class folders that seem to list a split, which is not read."""
    files = [name for name in scan.others if suffix_of(name) in (*TABLE_SUFFIXES, ".txt", ".json")
             and (name.rpartition("/")[0] == top or not name.startswith(_join(top, "")))
             and set(re.findall(r"[a-z]+", Path(name).stem.lower())) & {"split", *SPLITS}]
    if not files:
        return []
    return [f"{scan.root}: {', '.join(files[:4])}{' …' if len(files) > 4 else ''} may list a split, which is not read: "
            f"all images are of one split; sort them into folders train and val, or set prepare.split to holdout"]


def _empty_folders(scan: FolderScan, tops: list[str], table: pd.DataFrame) -> list[str]:
    """Return a sentence about folders beside class folders that hold no images, as after a download that broke off."""
    files = table["file_name"]
    empty = [_join(top, name) for top in tops for name in scan.folders[top]
             if name.lower() not in SPLITS and not files.str.startswith(f"{_join(top, name)}/").any()]
    some = f"{', '.join(empty[:5])}{' …' if len(empty) > 5 else ''}"
    return [f"{len(empty)} folders of {scan.root} contain no images and are not classes: {some}"] if empty else []
