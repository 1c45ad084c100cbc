"""Images: class tables, image sets, splits and preprocessing.

Every stage hands images on as an `ImageSet`: a root folder and a table of files with their classes. Labels come from
explicit class tables, never from the order of folders on disk.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.artifacts.manifests import MANIFEST, read_manifest
from dgs_utils.artifacts.names import check_name, check_relative, links_outside
from dgs_utils.artifacts.places import locate, outputs_root
from dgs_utils.images.pixels import center_crop, image_suffixes, load_rgb, map_files
from dgs_utils.images.tables import natural_key, read_table


@dataclass(frozen=True)
class ImageSet:
    """Image files with their classes.

    Attributes:
        root: folder that file names start from.
        table: one row an image, with at least ``file_name`` (relative, posix), ``class`` (folder name) and ``label``
            (int, from 0); ordered by label, then naturally by file name.
    """

    root: Path
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    @property
    def paths(self) -> list[Path]:
        """Absolute paths, in table order."""
        return [self.root / name for name in self.table["file_name"]]

    @property
    def labels(self) -> np.ndarray:
        """int64 array of labels, in table order."""
        return self.table["label"].to_numpy(dtype=np.int64)

    @cached_property
    def classes(self) -> list[str]:
        """Class names in label order."""
        pairs = self.table[["label", "class"]].drop_duplicates().sort_values("label")
        return list(pairs["class"])

    def of_class(self, name: str) -> "ImageSet":
        """Return the images of one class."""
        return ImageSet(self.root, self.table[self.table["class"] == name].reset_index(drop=True))

    @classmethod
    def read(cls, folder: Path, split: str = "", classes: list[str] | None = None) -> "ImageSet":
        """Open the images of a stage folder or of any image folder.

        Accepted are a 00 folder (``originals.csv``, of which ``split`` takes "train" or "val"), a Hugging Face image
        folder (``metadata.csv`` or ``metadata.jsonl`` with ``file_name`` and ``class`` or ``label``), and a tree of
        class folders.

        Args:
            folder: the folder.
            split: rows of ``originals.csv`` to keep; "" for all.
            classes: class names in label order; others are left out. None takes the folder's own labels, or the
                sorted class names where it has none.

        Raises:
            ValueError: no images, a class without images, or a list without the needed columns.
        """
        folder = Path(folder)
        root, table = list_images(folder, classes)
        if split and "split" in table:
            table = table[table["split"] == split]
        if classes is not None or "label" not in table:
            names = classes if classes is not None else sorted(table["class"].unique(), key=natural_key)
            table = table[table["class"].isin(names)]
            table = table.assign(label=table["class"].map({name: label for label, name in enumerate(names)}))
        if table.empty:
            raise ValueError(f"{folder} holds no images{f' of split {split}' if split else ''}; "
                             f"it needs class folders with images such as .jpg, .png or .tif files")
        for name in classes or []:
            if not (table["class"] == name).any():
                raise ValueError(f"class {name} has no images in {folder}; add some or leave the class out")
        table = table.assign(order=table["file_name"].map(natural_key)).sort_values(["label", "order"])
        return cls(root, table.drop(columns="order").reset_index(drop=True))


def list_images(folder: Path, classes: list[str] | None = None) -> tuple[Path, pd.DataFrame]:
    """Return the root and the unsorted table of what `ImageSet.read` opens.

    Args:
        folder: the folder.
        classes: class folders to look into, so that ten of a thousand are quick to list; None or [] for all. Lists of
            images are returned whole.

    Raises:
        ValueError: no folder, a list without the needed columns, or a class or file whose name leads out of the folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that holds one sub-folder of images per class")
    for file in ("originals.csv", "metadata.csv", "metadata.jsonl"):
        if (folder / file).exists():
            return _read_list(folder / file)
    folders = [folder / check_name(name, "a class") for name in classes] if classes else folder.iterdir()
    rows = [(f"{d.name}/{f.name}", d.name) for d in folders if d.is_dir() for f in d.iterdir()
            if f.suffix.lower() in image_suffixes()]
    return folder, _checked(pd.DataFrame(rows, columns=["file_name", "class"]), folder, folder)


def _read_list(path: Path) -> tuple[Path, pd.DataFrame]:
    """Return the root and the checked table of a list of images."""
    folder = root = path.parent
    if path.name == "originals.csv":
        root = folder / json.loads((folder / "dataset.json").read_text())["root"]
        table = read_table(path)
    elif path.suffix == ".csv":
        table = _with_class(read_table(path), path)
    else:
        table = _with_class(read_table(path), path)
    given = _listed_folder(folder) if path.name == "metadata.csv" else None
    if given:
        names = table["file_name"].map(lambda name: name.removeprefix(f"{given}/"))
        _checked(table.assign(file_name=names), given, path)
        return folder, table
    if not (root.absolute().is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(outputs_root())):
        warnings.warn(f"the images that {path} lists are not in its folder, but in {root}", stacklevel=4)
    return root, _checked(table, root, path)


def _listed_folder(folder: Path) -> Path | None:
    """Return the folder whose images a finished pool only lists, by absolute paths; None for every other folder."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    params = manifest.get("params", {})
    lists = manifest["stage"] == "02_pool" and params.get("generator") == "folder"
    return locate(params["root"]) if lists else None


def _checked(table: pd.DataFrame, root: Path, where: Path) -> pd.DataFrame:
    """Return a table of images whose classes and files have names that may become paths; tell of links out of root.

    Raises:
        ValueError: one has not; data sets come from strangers, and later stages write folders of these names.
    """
    for name in table["class"].unique():
        check_name(name, f"{where}: a class")
    for name in table["file_name"]:
        check_relative(name, f"{where}: a file")
    outside = links_outside(root, table["file_name"])
    if outside:
        warnings.warn(f"{len(outside)} images of {root} are links to elsewhere, such as {outside[0]}; make sure that "
                      f"these may be read and passed on", stacklevel=5)
    return table


def _with_class(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Complete a Hugging Face listing: the class is its own column, the label column's text, or the file's folder.

    Numeric labels that go one to one with folders give the folders' order; where they do not, as with one folder
    ``train`` for all, folders tell no class and the label is it.
    """
    if "file_name" not in table:
        raise ValueError(f"{path} has no column file_name; add one with each image's path relative to the folder")
    if "class" in table:
        return table
    if "label" in table and not pd.api.types.is_numeric_dtype(table["label"]):
        return table.rename(columns={"label": "class"})
    parents = table["file_name"].map(lambda name: Path(name).parent.name)
    if "label" not in table:
        if (parents == "").any():
            raise ValueError(f"{path} tells no class: add a column class, or put the images into class folders")
        return table.assign(**{"class": parents})
    pairs = pd.DataFrame({"folder": parents, "label": table["label"]}).drop_duplicates()
    named = (parents != "").all() and pairs["folder"].is_unique and pairs["label"].is_unique
    order = table["label"].rank(method="dense").astype(int) - 1
    return table.assign(**{"class": parents if named else table["label"].astype(str), "label": order})


def load_squares(images: ImageSet, size: int, workers: int = 0, crop: Callable = center_crop) -> Iterator[np.ndarray]:
    """Yield each image as a (size, size, 3) uint8 array, cropped by ``crop(image, size)``, in table order."""
    yield from map_files(lambda path: np.asarray(crop(load_rgb(path), size)), images.paths, workers)
