"""Which images of a pool show one picture, or one of the originals or of the test images."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from dgs_utils.images.image_set import ImageSet, load_squares
from dgs_utils.images.near_duplicates import MIN_CONTRAST, SIDE, contrast, find_pairs, group_pairs
from dgs_utils.runtime.progress import no_progress

COLUMNS = ["other_set", "file_name", "other", "mirrored", "likeness", "same"]


def read_squares(images: ImageSet, workers: int = 0, progress: Callable = no_progress) -> np.ndarray:
    """Return the central squares of images at the size at which they are compared, uint8 (N, 32, 32, 3)."""
    return np.stack(list(progress(load_squares(images, SIDE, workers), label="images read", total=len(images))))


def find_copies(pool: ImageSet, others: dict[str, ImageSet], workers: int = 0,
                progress: Callable = no_progress) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find near duplicates within a pool, and of other sets in it.

    Args:
        pool: the pool.
        others: image sets by name, such as "original" and "test".
        workers: threads that read images; 0 = one per core.
        progress: wraps the images.

    Returns:
        The pairs: other_set ("pool", or a name of ``others``), file_name (in the pool), other (in the other set),
        mirrored, likeness, same (`find_pairs`). And one row an image of the pool: file_name, class, blank (of one
        colour), repeated (not the first of those that show one picture), and a column of bool for each of ``others``,
        whether it shows one of that set.
    """
    squares, names = read_squares(pool, workers, progress), pool.table["file_name"].to_numpy()
    within = find_pairs(squares)
    groups = group_pairs(within, len(pool))
    images = pool.table[["file_name", "class"]].assign(
        blank=contrast(squares) < MIN_CONTRAST, repeated=groups != np.arange(len(pool)))
    frames = [_named(within, "pool", names, names)]
    for name, other in others.items():
        pairs = find_pairs(squares, read_squares(other, workers, progress))
        frames.append(_named(pairs, name, names, other.table["file_name"].to_numpy()))
        images[name] = np.isin(np.arange(len(pool)), pairs["first"])
    return pd.concat(frames, ignore_index=True), images


def _named(pairs: pd.DataFrame, kind: str, names: np.ndarray, others: np.ndarray) -> pd.DataFrame:
    return pairs.assign(other_set=kind, file_name=names[pairs["first"]], other=others[pairs["second"]])[COLUMNS]
