"""Image sets: a root folder and a table of image files with their classes, as every stage hands them on.

Labels come from explicit class tables, never from the order of folders on disk.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.images.folder_roles import EXPECTED_LAYOUT
from dgs_utils.images.imagefolder import find_images, missing_class_error
from dgs_utils.images.pixels import UnreadableImage, center_crop, load_rgb, map_files, read_header
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.runtime.table_io import natural_key


@dataclass(frozen=True)
class ImageSet:
    """Image files with their classes: the folder that file names start from, and a table with one row an image, at
    least ``file_name`` (relative, posix), ``class`` (folder name) and ``label`` (int, from 0), ordered by label, then
    naturally by file name.
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
        return list(self.table.sort_values("label")["class"].unique())

    def of_class(self, name: str) -> "ImageSet":
        """Return the images of one class."""
        return ImageSet(self.root, self.table[self.table["class"] == name].reset_index(drop=True))

    def sample_each_class(self, most: int, stage: str, purpose: str) -> "ImageSet":
        """Return up to ``most`` images of each class, drawn once and for all by a named seed and the class's name."""
        parts = [part.iloc[np.sort(numpy_rng(stage, purpose, str(name)).permutation(len(part))[:most])]
                 for name, part in self.table.groupby("class", sort=False)]
        return ImageSet(self.root, pd.concat(parts, ignore_index=True))

    @classmethod
    def read(cls, folder: Path, split: str = "", classes: list[str] | None = None,
             warn: Callable[[str], None] = warnings.warn) -> "ImageSet":
        """Open the images of a stage folder or of any image folder (see `dgs_utils.images.imagefolder`).

        Args:
            folder: the folder.
            split: images to keep, "train" or "val"; "" for all of a stage folder, and all but val and test of others.
            classes: class names in label order; others are left out. None takes the folder's own labels, or the
                class names in the order of their characters, as torchvision and `datasets` do, where it has none.
            warn: receives a sentence for images that were skipped, and for links to images elsewhere.

        Raises:
            ValueError: no images, a class without images, or a labels file that is wrong.
        """
        folder = Path(folder)
        listing = find_images(folder, classes)
        table, notes = listing.table, list(listing.notes)
        if split and "split" in table:
            table = table[table["split"] == split]
        elif "split" in table and not (folder / "originals.csv").exists():
            held_out = table["split"] != "train"
            notes += [f"{folder}: {held_out.sum()} images of val and test are left out"] if held_out.any() else []
            table = table[~held_out]
        if table.empty:
            cure = "set prepare.split to holdout, or add a folder val or test to prepare.root, and run stage 00 again"
            raise ValueError(f"{folder} holds no images of split {split}; {cure}" if split else
                             f"{folder} holds no images; it needs {EXPECTED_LAYOUT}")
        for note in notes:
            warn(note)
        if classes is None and "label" in table:
            return cls(listing.root, in_order(table))
        names = sorted(table["class"].unique()) if classes is None else classes
        return cls(listing.root, table).with_classes(names, folder)

    def with_classes(self, names: list[str], folder: Path | None = None) -> "ImageSet":
        """Return the images of some classes, with labels in their order; raise ValueError, which names ``folder`` or
        else the root, for a class without images.
        """
        for name in names:
            if not (self.table["class"] == name).any():
                raise missing_class_error(name, folder or self.root)
        table = self.table[self.table["class"].isin(names)]
        labels = table["class"].map({name: label for label, name in enumerate(names)})
        return ImageSet(self.root, in_order(table.assign(label=labels)))

    def side(self, most: int) -> int:
        """Return the median of the images' shorter sides in pixels, ``most`` at the most; raise ValueError, which names
        class and file, for one that cannot be read.
        """
        with self.naming_class():
            sides = [header.side for header in map_files(read_header, self.paths)]
        return min(int(np.median(sides)), most)

    def check_headers(self, progress: Callable = no_progress) -> list[str]:
        """Read every image's header; return a sentence about those with several frames, if there are any; raise
        ValueError, which names class and file, for one that cannot be read.
        """
        with self.naming_class():
            headers = list(progress(map_files(read_header, self.paths), label="headers", total=len(self)))
        moving = [name for name, header in zip(self.table["file_name"], headers, strict=True) if header.animated]
        return [f"{len(moving)} of {len(self)} images of {self.root} have several frames, such as {moving[0]}; only "
                f"the first is used"] if moving else []

    @contextmanager
    def naming_class(self) -> Iterator[None]:
        """Put the class in front of the error of an image that cannot be read inside the block."""
        try:
            yield
        except UnreadableImage as error:
            names = [name for name, path in zip(self.table["class"], self.paths, strict=True) if path == error.path]
            if not names:
                raise
            raise UnreadableImage(error.path, f"class {names[0]}: {error}") from None


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table ordered by label, then naturally by file name, so that nothing depends on the order on disk."""
    table = table.assign(order=table["file_name"].map(natural_key)).sort_values(["label", "order"])
    return table.drop(columns="order").reset_index(drop=True)


def load_squares(images: ImageSet, size: int, workers: int = 0, crop: Callable = center_crop) -> Iterator[np.ndarray]:
    """Yield each image as a (size, size, 3) uint8 array, cropped by ``crop(image, size)``, in table order."""
    with images.naming_class():
        yield from map_files(lambda path: np.asarray(crop(load_rgb(path), size)), images.paths, workers)
