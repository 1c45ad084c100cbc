"""Mosaics: images put together from square crops of others, as RDED's distilled sets are [B §3.1]."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb
from dgs_utils.images.portable_names import class_folders
from dgs_utils.runtime.progress import no_progress
from dgs_utils.store.atomic import atomic


def resized_crop(image: Image.Image, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """Return a box of an image, scaled to ``side`` (bilinear, antialiased): uint8 (side, side, 3)."""
    return np.asarray(image.crop(box).resize((side, side), Image.Resampling.BILINEAR))


def write_mosaics(images: ImageSet, chosen: pd.DataFrame, folder: Path,
                  progress: Callable = no_progress) -> pd.DataFrame:
    """Write ``folder/images/<class folder>/<i>.png`` from the crops of `rded_crops.choose_crops`; return the metadata.

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
