"""Data sets that Hugging Face's `datasets` reads: of the hub, parquet files that hold images, and webdataset archives.

Their images are written as files, byte for byte, below ``<split>/<class>``, with a ``metadata.csv`` that has classes,
labels and splits. Nothing is unpickled, and no script of a data set is fetched or run.
"""

import json
import os
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dgs_utils.images.archives import DAMAGE, archives_in, check_archive, unpack_all
from dgs_utils.images.classes import imagenet_names, match_class_names
from dgs_utils.images.folder_roles import SPLITS
from dgs_utils.images.pixels import image_suffixes, suffix_of_image
from dgs_utils.images.portable_names import portable_name
from dgs_utils.images.scan import count_images, scan_folder, to_nfc
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.table_io import plain_heading
from dgs_utils.store.atomic import write_csv, write_json
from dgs_utils.store.filenames import check_name
from dgs_utils.store.paths import HUB_DATASETS

ADDRESS = re.compile(rf"{HUB_DATASETS}(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@#]+))?(?:/(?P<folder>[^@#]+))?"
                     r"(?:#(?P<column>.+))?")
CODE = ("*.py", "*.pkl", "*.pickle")  # of a hub's repository, not fetched
TARS = (".tar", ".tar.gz")  # of webdatasets, as `datasets` finds them in a folder
SAVED = "state.json"  # in a folder that `datasets` saved
PINNED = "hub.json"  # in a stage folder: addresses with the revisions that were read
CLASS_COLUMNS = ("label", "cls", "class", "classname", "labels", "category", "target")
IMAGE_HEADINGS = {"image", "img", "jpg", "png", "picture", "photo"}  # of columns that hold an image's bytes untyped


class Column(NamedTuple):
    """The column of a data set that holds its classes, with their names in label order; () where it has no list."""

    name: str
    classes: Sequence[str]


# ---- Where they are --------------------------------------------------------------------------------------------------

def download(address: str, folder: Path | None = None) -> tuple[Path, str]:
    """Return the local copy of a data set of the hub, fetched into its cache, and the column of classes in the address.

    Args:
        address: ``hf://datasets/OWNER/NAME``; ``@REVISION``, ``/FOLDER`` in it and ``#COLUMN`` of its classes may
            follow, in this order.
        folder: a stage folder, which remembers the revision for a run that resumes; None for the newest one.

    Raises:
        ValueError: no such address, no network, or no access.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    file = folder / PINNED if folder else None
    known = json.loads(file.read_text()) if file and file.is_file() else {}
    parts = ADDRESS.fullmatch(known.get(address, address))
    if not parts:
        raise ValueError(f"{address} is no data set of the hub; write {HUB_DATASETS}OWNER/NAME, and if need be "
                         f"@REVISION, /FOLDER and #COLUMN of the classes behind it")
    name, inner = parts["name"], parts["folder"]
    try:
        root = Path(snapshot_download(name, repo_type="dataset", revision=parts["revision"], ignore_patterns=CODE,
                                      allow_patterns=[f"{inner}/*", "README.md"] if inner else None))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".: ")
        raise ValueError(f"{address} could not be downloaded from the hub ({reason}); fetch it by 'hf download {name} "
                         f"--repo-type dataset --local-dir {Path(name).name}', on another machine if need be, and give "
                         f"that folder") from None
    revision = f"{HUB_DATASETS}{name}@{root.name}{f'/{inner}' if inner else ''}"
    revision += f"#{parts['column']}" if parts["column"] else ""
    if file and address not in known:
        write_json(file, known | {address: revision})
    source = root / inner if inner else root
    if not source.is_dir():
        raise ValueError(f"{revision} has no folder {inner}; give one of those that it has")
    return source, parts["column"] or ""


def pinned(root: str | list[str], folder: Path) -> str | list[str]:
    """Return addresses of the hub with the revisions that a stage folder has read; paths stay as they are."""
    file = folder / PINNED
    known = json.loads(file.read_text()) if file.is_file() else {}
    return [known.get(one, one) for one in root] if isinstance(root, list) else known.get(root, root)


def holds_packed_images(root: Path) -> bool:
    """Return whether a file or folder has its images in parquet files, webdataset archives or what ``save_to_disk`` of
    `datasets` wrote, and none as a file.
    """
    if root.is_file():
        return root.suffix.lower() == ".parquet" or _is_webdataset(root)
    if count_images(root):
        return False
    files = [root / name for name in scan_folder(root).others]
    if any(file.name == SAVED for file in files):
        return True
    archives = [file for file in files if file.name.lower().endswith(TARS)]
    return any(map(_has_image_column, (file for file in files if file.suffix.lower() == ".parquet"))) or (
        bool(archives) and _is_webdataset(archives[0]))


def needs_writing(root: Path) -> bool:
    """Return whether images are in an archive or in tables, and so have to be written as files first."""
    return root.is_file() or (root.is_dir() and not count_images(root) and (
        holds_packed_images(root) or bool(archives_in(root))))


def write_files(root: Path, target: Path, wanted: Sequence[str], column: str, progress: Callable,
                warn: Callable[[str], None]) -> None:
    """Write the images of archives, of tables or of a data set of the hub into a folder (see `write_images`)."""
    archives = [root] if root.is_file() else [] if count_images(root) else archives_in(root)
    if archives and not holds_packed_images(root):
        unpack_all(list(progress(archives, label="archives")), target)
    else:
        write_images(root, target, wanted, column, progress, warn)


def _is_webdataset(archive: Path) -> bool:
    """Return whether a tar archive begins with an image and its label, which differ only in what follows the dot."""
    try:
        with tarfile.open(archive) as file:
            names = [Path(member.name) for member in islice((member for member in file if member.isreg()), 4)]
    except (*DAMAGE, OSError):
        return False
    stems = {name.with_suffix("") for name in names if name.suffix.lower() in image_suffixes()}
    return any(name.with_suffix("") in stems and name.suffix in (".cls", ".json", ".txt") for name in names)


def _has_image_column(file: Path) -> bool:
    """Return whether a parquet file has a column of images: a pair of bytes and path, or bytes under such a heading."""
    try:
        from pyarrow import ArrowException, parquet, types

        fields = parquet.read_schema(file)
    except ImportError:
        return True  # so that what is missing is named where it is read
    except (ArrowException, OSError):
        return False
    return any((types.is_binary(field.type) and field.name.lower() in IMAGE_HEADINGS) or (
        types.is_struct(field.type) and "bytes" in {inner.name for inner in field.type}) for field in fields)


# ---- What they hold --------------------------------------------------------------------------------------------------

def write_images(source: Path, target: Path, wanted: Sequence[str] = (), column: str = "",
                 progress: Callable = no_progress, warn: Callable[[str], None] = warnings.warn) -> None:
    """Write the images of a data set as files into a new folder, with their list ``metadata.csv``.

    Args:
        source: a folder that `datasets` reads, a parquet file, or a webdataset archive.
        target: the folder.
        wanted: classes to write, by name, or by WordNet id where the names are ImageNet's; () for all.
        column: that holds the classes; "" for the one that does.
        progress: wraps the images.
        warn: receives a sentence for a split that is left out, and for labels without names.

    Raises:
        ValueError: `datasets` is missing or cannot read it; no images, no classes, or a wanted class that it has not.
    """
    rows = list[dict[str, Any]]()
    for split, images in _open_splits(source).items():
        role = SPLITS.get(split.lower(), "train" if split == "default" else "")
        if not role:
            warn(f"{source}: the split {split} is left out, which is none of train, val and test")
            continue
        labels = _label_column(images, source, column)
        names = _names_of(labels, source, wanted, warn)
        for number, (data, value) in enumerate(progress(_pairs(images, labels.name, source), label=f"{split} images")):
            label = int(value) if re.fullmatch(r"\d{1,9}", str(value)) else -1
            name = names.get(label, "") if names else to_nfc(str(value).strip())
            if value in (None, -1, "") or not name or (wanted and name not in wanted):  # -1: of tests without labels
                continue
            if not (suffix := suffix_of_image(data)):
                raise ValueError(f"{source}, split {split}: image {number} cannot be read; remove its row")
            file = f"{role}/{portable_name(check_name(name, f'{source}: a class'))}/{number}{suffix}"
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes(data)
            rows.append({"file_name": file, "class": name, "label": label, "split": role})
    if not rows:
        raise ValueError(f"{source} holds no images with labels; it needs a column of images and one of classes")
    table = pd.DataFrame(rows)
    write_csv(target / "metadata.csv", table if (table["label"] >= 0).all() else table.drop(columns="label"))


def _open_splits(source: Path) -> dict[str, Any]:
    """Return a data set's splits as `datasets` streams them, after checking the paths in its archives."""
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{source} is read by the library datasets; install it with pip install 'dgs-utils[hub]', or "
                         f"write the images into one folder per class") from None
    files = [source] if source.is_file() else [file for file in source.rglob("*") if file.name.lower().endswith(TARS)]
    for file in sorted(files):
        if file.suffix.lower() != ".parquet":
            check_archive(file)
    try:
        if source.is_file():
            kind = "parquet" if source.suffix.lower() == ".parquet" else "webdataset"
            return dict(datasets.load_dataset(kind, data_files=[str(source)], streaming=True))
        if saved := sorted(file.parent for file in source.rglob(SAVED)):
            return {"train" if folder == source else folder.name: _load_saved(folder) for folder in saved}
        builder = datasets.load_dataset_builder(str(source))
        for file in (file for files in (builder.config.data_files or {}).values() for file in files):
            _check_inside(str(file), source)  # a card can name others
        return dict(builder.as_streaming_dataset())
    except Exception as error:  # each of its builders has errors of its own
        reason = " ".join(str(error).split())
        cure = ("add /FOLDER of one to the address" if "Config name is missing" in reason else
                "write its images into one folder per class")
        raise ValueError(f"{source} cannot be read by datasets ({reason[:300]}); {cure}") from None


def _load_saved(folder: Path) -> Any:
    import datasets

    for file in json.loads((folder / SAVED).read_text())["_data_files"]:
        _check_inside(str(folder / file["filename"]), folder)
    return datasets.load_from_disk(str(folder))


def _check_inside(file: str, source: Path) -> str:
    """Return the address of a file, also of one in an archive, after checking that it is one of the data set.

    Raises:
        ValueError: it is elsewhere.
    """
    outer = Path(os.path.normpath(file.rpartition("::")[2]))
    if not outer.is_relative_to(os.path.abspath(source)):
        raise ValueError(f"it names {file[:200]!r}, which is outside of {source}")
    return file


def _image_columns(images: Any) -> list[str]:
    import datasets

    features = images.features or {}
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return typed or [name for name, feature in features.items() if (
        isinstance(feature, dict) and "bytes" in feature) or plain_heading(name) in IMAGE_HEADINGS]


def _pairs(images: Any, column: str, source: Path) -> Iterator[tuple[bytes | None, Any]]:
    """Yield the bytes of each image, as they are stored, and what its column of classes holds."""
    import datasets
    import fsspec

    names = _image_columns(images)
    for name in names:
        if isinstance(images.features[name], datasets.Image):
            images = images.cast_column(name, datasets.Image(decode=False))
    for row in images:
        cell = next((row[name] for name in names if row[name] is not None), None)
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data is None and isinstance(cell, dict) and cell.get("path"):
            with fsspec.open(_check_inside(cell["path"], source)) as file:
                data = file.read()
        outer, _, inner = (column, "", "") if column in row else column.partition(".")
        yield data, (row[outer] or {}).get(inner) if inner else row[outer]


def _label_column(images: Any, source: Path, asked: str) -> Column:
    """Return the column of classes: the one asked for, the only list of classes, or the one with such a heading."""
    import datasets

    features = images.features or {}
    if not _image_columns(images):
        raise ValueError(f"{source} has the columns {', '.join(features) or 'of no kind'}, none of which holds images; "
                         f"give a data set of images")
    listed = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    headed = [name for heading in CLASS_COLUMNS for name in features
              if plain_heading(name) == heading and isinstance(features[name], datasets.Value | datasets.ClassLabel)]
    headed += [f"{name}.{inner}" for name, feature in features.items() if isinstance(feature, dict)
               for inner in feature if plain_heading(inner) in CLASS_COLUMNS]  # of the .json of a webdataset
    choice = [asked] if asked else ["label"] if "label" in listed else listed or headed[:1]
    if len(choice) != 1 or choice[0] not in [*features, *headed]:
        listed = choice or list(features)
        raise ValueError(f"{source} has {'the columns ' + ', '.join(listed) if listed else 'no columns'}, and "
                         f"{'none' if asked or not choice else 'several'} of them may hold the classes; name the one "
                         f"that does behind the address, as hf://datasets/OWNER/NAME#label, or call it label")
    names = getattr(features.get(choice[0]), "names", ())
    return Column(choice[0], [to_nfc(name) for name in names])


def _names_of(column: Column, source: Path, wanted: Sequence[str], warn: Callable[[str], None]) -> dict[int, str]:
    """Return the name under which each class is written, by label; {} where the column holds names.

    Raises:
        ValueError: a wanted class is not there.
    """
    known, wnids = column.classes, list(imagenet_names())
    if not known and wanted and set(wanted) <= set(wnids):
        warn(f"{source} has no names of classes for the numbers in its column {column.name}; they are taken for "
             f"ImageNet's indices")
        return {wnids.index(name): name for name in wanted}
    if not (known and wanted):
        return dict(enumerate(known))
    labels = match_class_names(wanted, known)
    if len(known) == len(wnids):  # all of ImageNet, in its order: two of its names may be alike
        own = match_class_names(wnids, known)
        if sum(own.get(wnid) == index for index, wnid in enumerate(wnids)) > 0.9 * len(wnids):
            labels |= {name: wnids.index(name) for name in wanted if name in wnids}
    for name in wanted:
        if name not in labels:
            raise ValueError(f"class {name} is none of those of {source}, which are {', '.join(known[:5])}"
                             f"{' …' if len(known) > 5 else ''}; name classes as there")
    return {label: name for name, label in labels.items()}
