"""Pictures: class tables, image sets, splits and preprocessing.

Every stage hands pictures on as an `ImageSet`: a root folder and a table of files with their classes. Labels come from
explicit class tables, never from the order of folders on disk.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from dgs_utils.runtime.devices import threads

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}

# (wnid, index among ImageNet's 1,000 classes, name), in the label order of the published experiments [F §1.1].
SUBSETS: dict[str, list[tuple[str, int, str]]] = {
    "imagewoof": [
        ("n02096294", 193, "Australian terrier"),
        ("n02093754", 182, "Border terrier"),
        ("n02111889", 258, "Samoyed"),
        ("n02088364", 162, "beagle"),
        ("n02086240", 155, "Shih-Tzu"),
        ("n02089973", 167, "English foxhound"),
        ("n02087394", 159, "Rhodesian ridgeback"),
        ("n02115641", 273, "dingo"),
        ("n02099601", 207, "golden retriever"),
        ("n02105641", 229, "Old English sheepdog"),
    ],
    "imagenette": [
        ("n01440764", 0, "tench"),
        ("n02102040", 217, "English springer"),
        ("n02979186", 482, "cassette player"),
        ("n03000684", 491, "chain saw"),
        ("n03028079", 497, "church"),
        ("n03394916", 566, "French horn"),
        ("n03417042", 569, "garbage truck"),
        ("n03425413", 571, "gas pump"),
        ("n03445777", 574, "golf ball"),
        ("n03888257", 701, "parachute"),
    ],
    "imageidc": [
        ("n02869837", 452, "bonnet"),
        ("n01749939", 64, "green mamba"),
        ("n02488291", 374, "langur"),
        ("n02107142", 236, "Doberman"),
        ("n13037406", 993, "gyromitra"),
        ("n02091831", 176, "Saluki"),
        ("n04517823", 882, "vacuum cleaner"),
        ("n04589890", 904, "window screen"),
        ("n03062245", 503, "cocktail shaker"),
        ("n01773797", 74, "garden spider"),
    ],
}


def natural_key(name: str) -> str:
    """Return a sort key that puts ``2.png`` before ``10.png``: every number padded to the same width.

    The name itself follows, so that ``1.png`` and ``01.png`` have an order too.
    """
    return re.sub(r"\d+", lambda number: number[0].zfill(20), name) + "\0" + name


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop the central square and scale it to ``size`` pixels, as ADM does [F §3.5].

    While the shorter side is at least twice ``size``, the picture is halved with a box filter; then its shorter side is
    scaled to ``size`` (bicubic) and the integer-centred square is cut out.

    Args:
        image: PIL picture of any mode and size.
        size: side of the result in pixels, ≥ 1.

    Returns:
        PIL picture of size × size pixels, mode unchanged.
    """
    if size < 1:
        raise ValueError(f"size is {size}; a picture needs at least 1 pixel a side")
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def load_rgb(path: Path) -> Image.Image:
    """Read a picture file as a PIL picture in mode RGB.

    Raises:
        ValueError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; restore the picture or list the folder's files anew") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); replace or remove that file") from None


@dataclass(frozen=True)
class ImageSet:
    """Picture files with their classes.

    Attributes:
        root: folder that file names start from.
        table: one row a picture, with at least ``file_name`` (relative, posix), ``class`` (folder name) and ``label``
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
        """Return the pictures of one class."""
        return ImageSet(self.root, self.table[self.table["class"] == name].reset_index(drop=True))

    @classmethod
    def read(cls, folder: Path, split: str = "", classes: list[str] | None = None) -> "ImageSet":
        """Open the pictures of a stage folder or of any image folder.

        Accepted are a 00 folder (``originals.csv``, of which ``split`` takes "train" or "val"), a Hugging Face image
        folder (``metadata.csv`` or ``metadata.jsonl`` with ``file_name`` and ``class`` or ``label``), and a tree of
        class folders.

        Args:
            folder: the folder.
            split: rows of ``originals.csv`` to keep; "" for all.
            classes: class names in label order; others are left out. None takes the folder's own labels, or the
                sorted class names where it has none.

        Raises:
            ValueError: no pictures, a class without pictures, or a list without the needed columns.
        """
        folder = Path(folder)
        root, table = list_pictures(folder, classes)
        if split and "split" in table:
            table = table[table["split"] == split]
        if classes is not None or "label" not in table:
            names = classes if classes is not None else sorted(table["class"].unique(), key=natural_key)
            table = table[table["class"].isin(names)]
            table = table.assign(label=table["class"].map({name: label for label, name in enumerate(names)}))
        if table.empty:
            raise ValueError(f"{folder} holds no pictures{f' of split {split}' if split else ''}; "
                             f"it needs class folders with {', '.join(sorted(IMAGE_SUFFIXES))} files")
        for name in classes or []:
            if not (table["class"] == name).any():
                raise ValueError(f"class {name} has no pictures in {folder}; add some or leave the class out")
        table = table.assign(order=table["file_name"].map(natural_key)).sort_values(["label", "order"])
        return cls(root, table.drop(columns="order").reset_index(drop=True))


def list_pictures(folder: Path, classes: list[str] | None = None) -> tuple[Path, pd.DataFrame]:
    """Return the root and the unsorted table of what `ImageSet.read` opens.

    Args:
        folder: the folder.
        classes: class folders to look into, so that ten of a thousand are quick to list; None or [] for all. Lists of
            pictures are returned whole.
    """
    if (folder / "originals.csv").exists():
        root = json.loads((folder / "dataset.json").read_text())["root"]
        return folder / root, read_table(folder / "originals.csv")
    if (folder / "metadata.csv").exists():
        return folder, _with_class(read_table(folder / "metadata.csv"), folder / "metadata.csv")
    if (folder / "metadata.jsonl").exists():
        table = pd.read_json(folder / "metadata.jsonl", lines=True, dtype={"class": str, "file_name": str})
        return folder, _with_class(table, folder / "metadata.jsonl")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that holds one sub-folder of pictures per class")
    folders = [folder / name for name in classes] if classes else folder.iterdir()
    rows = [(f"{d.name}/{f.name}", d.name) for d in folders if d.is_dir() for f in d.iterdir()
            if f.suffix.lower() in IMAGE_SUFFIXES]
    return folder, pd.DataFrame(rows, columns=["file_name", "class"])


def _with_class(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Complete a Hugging Face listing: the class is its own column, the label column's text, or the file's folder.

    Numeric labels that go one to one with folders give the folders' order; where they do not, as with one folder
    ``train`` for all, folders tell no class and the label is it.
    """
    if "file_name" not in table:
        raise ValueError(f"{path} has no column file_name; add one with each picture's path relative to the folder")
    if "class" in table:
        return table
    if "label" in table and not pd.api.types.is_numeric_dtype(table["label"]):
        return table.rename(columns={"label": "class"})
    parents = table["file_name"].map(lambda name: Path(name).parent.name)
    if "label" not in table:
        if (parents == "").any():
            raise ValueError(f"{path} tells no class: add a column class, or put the pictures into class folders")
        return table.assign(**{"class": parents})
    pairs = pd.DataFrame({"folder": parents, "label": table["label"]}).drop_duplicates()
    named = (parents != "").all() and pairs["folder"].is_unique and pairs["label"].is_unique
    order = table["label"].rank(method="dense").astype(int) - 1
    return table.assign(**{"class": parents if named else table["label"].astype(str), "label": order})


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file about pictures; names stay text, even where a class is called 007 or NA."""
    text = {"class": str, "file_name": str, "name": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])


def read_classes(prepare: Path) -> pd.DataFrame:
    """Return a 00 folder's class table: label, class (folder name), index (in the difficulty classifier's output),
    condition (label of the diffusion model), name.
    """
    return read_table(prepare / "classes.csv")


def map_files(function: Callable, items: Iterable, workers: int = 0) -> Iterator:
    """Apply ``function`` to every item in threads and yield the results in order, with bounded look-ahead.

    Unlike `ThreadPoolExecutor.map` it never holds more than a few results a thread, whatever the number of items.
    """
    count = threads(workers)
    with ThreadPoolExecutor(count) as pool:
        source = iter(items)
        waiting = [pool.submit(function, item) for item in islice(source, 4 * count)]
        while waiting:
            future = waiting.pop(0)
            waiting += [pool.submit(function, item) for item in islice(source, 1)]
            yield future.result()


def load_squares(images: ImageSet, size: int, workers: int = 0, crop: Callable = center_crop) -> Iterator[np.ndarray]:
    """Yield each picture as a (size, size, 3) uint8 array, cropped by ``crop(image, size)``, in table order."""
    yield from map_files(lambda path: np.asarray(crop(load_rgb(path), size)), images.paths, workers)
