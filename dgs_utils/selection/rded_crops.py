"""RDED's crops of real images, of which mosaics are made [B §3.1].

Of the random square crops of each real image the one of lowest cross-entropy is kept, and of those the best of the
class. Every tiles × tiles of them make one image.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb, map_files
from dgs_utils.images.portable_names import class_folders
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.store.atomic import atomic

if TYPE_CHECKING:
    from dgs_utils.classifiers.scorer import Classifier

MAX_IMAGES_CROPPED = 300  # real images of a class that are cropped
CROPS_PER_IMAGE = 5
MIN_AREA = 0.08  # smallest share of an image's area in a crop
BOX = ["left", "upper", "right", "lower"]


def square_crop(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a square box (left, upper, right, lower) of `MIN_AREA` to all of an image's area, as torchvision draws it.

    After ten draws that do not fit, the largest central square is taken.
    """
    for _ in range(10):
        side = round(math.sqrt(width * height * rng.uniform(MIN_AREA, 1)))
        if 0 < side <= min(width, height):
            left, upper = rng.integers([width - side + 1, height - side + 1])
            return int(left), int(upper), int(left) + side, int(upper) + side
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


@torch.inference_mode()
def losses(crops: Tensor, target: int, scorer: "Classifier") -> Tensor:
    """Return the cross-entropy (N,) of crops (N, 3, s, s), uint8, each amid a canvas of the mean colour."""
    margin = scorer.config.crop - crops.shape[-1]
    low = margin // 2
    canvas = F.pad(scorer.normalise(crops.to(scorer.mean.device)), (low, margin - low, low, margin - low))
    targets = torch.full((len(crops),), target, device=canvas.device)
    return F.cross_entropy(scorer.network(canvas).float(), targets, reduction="none").cpu()


def choose_crops(images: ImageSet, scorer: "Classifier", index: ArrayLike, ipc: int, seed: int = 0, tiles: int = 2,
                 progress: Callable = no_progress) -> pd.DataFrame:
    """Choose the crops of every class; the distilled images have the size that the scorer sees.

    Args:
        images: the originals.
        scorer: its cross-entropy ranks the crops.
        index: shape (classes,), the scorer's output index of each label.
        ipc: images per class.
        seed: of the crops' draw.
        tiles: each distilled image holds tiles × tiles crops.
        progress: wraps the classes.

    Returns:
        Rows of ``images.table``, tiles² · ipc a class and best first, with the crop's box in pixels (`BOX`), its loss,
        and its position (image, tile): the best ipc crops are tile 0 of images 0, 1, …, the next ipc are tile 1, and
        so on; side is that of a tile in pixels.

    Raises:
        ValueError: a class has fewer originals than crops are wanted.
    """
    scorer, index = scorer.to(resolve_device("auto")), np.asarray(index)
    wanted, side = tiles**2 * ipc, scorer.config.crop // tiles
    chosen = []
    for name, part in progress(images.table.groupby("class", sort=False), label="crops"):
        if len(part) < wanted:
            raise ValueError(f"class {name} has {len(part)} originals, and {tiles} × {tiles} crops for ipc "
                             f"{ipc} take {wanted}; lower sample.ipc")
        rng = numpy_rng("sample", "crops", seed, name)
        part = part.iloc[rng.permutation(len(part))[: max(MAX_IMAGES_CROPPED, wanted)]]
        boxes, crop_losses = _best_of_each(images, part, side, rng, int(index[part["label"].iloc[0]]), scorer)
        part = part.assign(**dict(zip(BOX, boxes.T, strict=True)), loss=crop_losses)
        part = part.sort_values("loss", kind="stable").head(wanted)
        rank = np.arange(wanted)
        chosen.append(part.assign(image=rank % ipc, tile=rank // ipc, side=side))
    return pd.concat(chosen, ignore_index=True)


def _best_of_each(images: ImageSet, part: pd.DataFrame, side: int, rng: np.random.Generator, target: int,
                  scorer: "Classifier") -> tuple[np.ndarray, np.ndarray]:
    """Return the box (N, 4) and the loss (N,) of each image's best crop."""
    seeds = rng.integers(2**63, size=len(part))

    def crop(task: tuple) -> tuple[list, np.ndarray]:
        name, seed = task
        image, own = load_rgb(images.root / name), np.random.default_rng(seed)
        boxes = [square_crop(image.width, image.height, own) for _ in range(CROPS_PER_IMAGE)]
        return boxes, np.stack([resized_crop(image, box, side) for box in boxes])

    boxes, crop_losses = [], []
    with images.naming_class():
        for tried, crops in map_files(crop, zip(part["file_name"], seeds, strict=True)):
            values = losses(torch.from_numpy(crops).permute(0, 3, 1, 2), target, scorer)
            best = int(values.argmin())
            boxes.append(tried[best])
            crop_losses.append(float(values[best]))
    return np.array(boxes), np.array(crop_losses)


def resized_crop(image: Image.Image, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """Return a box of an image, scaled to ``side`` (bilinear, antialiased): uint8 (side, side, 3)."""
    return np.asarray(image.crop(box).resize((side, side), Image.Resampling.BILINEAR))


def write_mosaics(images: ImageSet, chosen: pd.DataFrame, folder: Path,
                  progress: Callable = no_progress) -> pd.DataFrame:
    """Write ``folder/images/<class folder>/<i>.png`` from the crops of `choose_crops`; return the metadata.

    ``source`` names the originals of an image's tiles, row by row, with "|" between them.
    """
    folders = class_folders(images.classes)
    side, tiles, rows = int(chosen["side"].iloc[0]), math.isqrt(chosen["tile"].nunique()), []
    with atomic(folder / "images") as partial, images.naming_class():
        mosaics = chosen.groupby(["label", "class", "image"])
        for (label, name, image), parts in progress(mosaics, label="images", total=mosaics.ngroups):
            parts = parts.sort_values("tile")
            boxes = parts[["left", "upper", "right", "lower"]].itertuples(index=False, name=None)
            crops = [resized_crop(load_rgb(images.root / file), box, side)
                     for file, box in zip(parts["file_name"], boxes, strict=True)]
            mosaic = np.array(crops).reshape(tiles, tiles, side, side, 3).swapaxes(1, 2)
            target = partial / folders[name] / f"{image}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mosaic.reshape(tiles * side, tiles * side, 3)).save(target)
            rows.append((f"images/{folders[name]}/{image}.png", name, label, "|".join(parts["file_name"])))
    return pd.DataFrame(rows, columns=["file_name", "class", "label", "source"])
