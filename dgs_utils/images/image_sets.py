"""Images: class tables, image sets, splits and preprocessing.

Every stage hands images on as an `ImageSet`: a root folder and a table of files with their classes. Labels come from
explicit class tables, never from the order of folders on disk.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.images.layouts import WANTED, find_images, no_images_of
from dgs_utils.images.pixels import UnreadableImage, center_crop, load_rgb, map_files, read_header
from dgs_utils.images.tables import natural_key
from dgs_utils.runtime.progress import silent


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
    def read(cls, folder: Path, split: str = "", classes: list[str] | None = None,
             warn: Callable[[str], None] = warnings.warn) -> "ImageSet":
        """Open the images of a stage folder or of any image folder (see `dgs_utils.images.layouts`).

        Args:
            folder: the folder.
            split: images to keep, "train" or "val"; "" for all of a stage folder, and for all but val and test images
                of any other.
            classes: class names in label order; others are left out. None takes the folder's own labels, or the
                class names in the order of their characters, as other tools count them, where it has none.
            warn: takes a sentence each about what was left out, or lies elsewhere.

        Raises:
            ValueError: no images, a class without images, or a list that is wrong.
        """
        folder = Path(folder)
        listing = find_images(folder, classes)
        table, notes = listing.table, list(listing.notes)
        if split and "split" in table:
            table = table[table["split"] == split]
        elif "split" in table and not (folder / "originals.csv").exists():
            held = table["split"] != "train"
            notes += [f"{folder}: {held.sum()} images of val and test are left out"] if held.any() else []
            table = table[~held]
        if table.empty:
            cure = "set prepare.split to holdout, or add a folder val or test to prepare.root, and run stage 00 again"
            raise ValueError(f"{folder} holds no images of split {split}; {cure}" if split else
                             f"{folder} holds no images; it needs {WANTED}")
        for note in notes:
            warn(note)
        if classes is not None or "label" not in table:
            names = classes if classes is not None else sorted(table["class"].unique())
            return cls(listing.root, table).with_classes(names, folder)
        return cls(listing.root, _in_order(table))

    def with_classes(self, names: list[str], folder: Path | None = None) -> "ImageSet":
        """Return the images of some classes, with labels in their order.

        Args:
            names: class names.
            folder: the folder that an error names; None for the root.

        Raises:
            ValueError: a class has no images.
        """
        there = set(self.table["class"])
        for name in names:
            if name not in there:
                raise no_images_of(name, folder or self.root)
        table = self.table[self.table["class"].isin(names)]
        labels = table["class"].map({name: label for label, name in enumerate(names)})
        return ImageSet(self.root, _in_order(table.assign(label=labels)))

    def survey(self, workers: int = 0, progress: Callable = silent) -> list[str]:
        """Look at every image's header; return a sentence about those with several frames, if there are any.

        Raises:
            ValueError: one cannot be read; the sentence names its class and file.
        """
        with self.class_named():
            headers = list(progress(map_files(read_header, self.paths, workers), label="headers", total=len(self)))
        moving = [name for name, header in zip(self.table["file_name"], headers, strict=True) if header.animated]
        return [f"{len(moving)} of {len(self)} images of {self.root} have several frames, such as {moving[0]}; only "
                f"the first is used"] if moving else []

    @contextmanager
    def class_named(self) -> Iterator[None]:
        """Put the class in front of what is said about an image that cannot be read inside the block."""
        try:
            yield
        except UnreadableImage as error:
            names = [name for name, path in zip(self.table["class"], self.paths, strict=True) if path == error.path]
            if not names:
                raise
            raise UnreadableImage(error.path, f"class {names[0]}: {error}") from None


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    table = table.assign(order=table["file_name"].map(natural_key)).sort_values(["label", "order"])
    return table.drop(columns="order").reset_index(drop=True)


def load_squares(images: ImageSet, size: int, workers: int = 0, crop: Callable = center_crop) -> Iterator[np.ndarray]:
    """Yield each image as a (size, size, 3) uint8 array, cropped by ``crop(image, size)``, in table order."""
    with images.class_named():
        yield from map_files(lambda path: np.asarray(crop(load_rgb(path), size)), images.paths, workers)
