"""Test images that are among the training images, as the same files, re-encoded, resized or mirrored.

A signature of an image is its square in 8 × 8 areas of mean colour. Two images are near duplicates if their signatures
differ by at most 5 grey levels (root mean square), and by at most a fifth of the standard deviation of either one.
JPEG at quality 75, and a change of size with either format, move a signature of CIFAR-10's images by 2 levels in the
median and 4 at most; of 3,000 test images none comes nearer than 7 levels to any of the 50,000 training images.
"""

import filecmp
from collections import defaultdict
from collections.abc import Callable
from functools import cache

import numpy as np

from dgs_utils.images.image_set import ImageSet

SIDE = 8
MAX_DISTANCE = 5.0  # grey levels of 255
MAX_SHARE = 0.2  # of the standard deviation within a signature
MIN_CONTRAST = 2.0  # standard deviation below which an image shows nothing that could be recognised
BLOCK = 1024  # images at once
MAX_PAIRS = 2**24  # compared at once


def check_overlap(train: ImageSet, test: ImageSet) -> None:
    """Raise ValueError for a test image that is among the training images.

    Two images are the same if the distilled set names the test image as its source, which images of a generator do
    not, or if they have the same name in the same class and the same bytes.
    """
    if "source" in train.table:
        drawn = train.table if "generator" not in train.table else train.table.query("generator == 'originals'")
        sources = {name for names in drawn["source"] for name in names.split("|")}  # a mosaic has several
        shared = sorted(sources & set(test.table["file_name"]))
        if shared:
            raise ValueError(f"the test image {shared[0]} is in the distilled set {train.root}; "
                             f"draw that set again from the train split")
    files = defaultdict(list)
    for name, file in zip(train.table["class"], train.table["file_name"], strict=True):
        files[name, file.rpartition("/")[2]].append(file)
    for name, file in zip(test.table["class"], test.table["file_name"], strict=True):
        for other in files.get((name, file.rpartition("/")[2]), ()):
            if filecmp.cmp(train.root / other, test.root / file, shallow=False):
                raise ValueError(f"the test image {test.root / file} is also the training image {train.root / other}; "
                                 f"take it out of one of the two")


def near_duplicates(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the training image that each test image is a near duplicate of, also mirrored, −1 for none, int64 (M,).

    Args:
        train, test: squares of one size, uint8 (N, S, S, 3) and (M, S, S, 3).
    """
    known = signatures(train)
    matches = match_near_duplicates(signatures(test), known)
    return np.where(matches < 0, match_near_duplicates(signatures(test[:, :, ::-1]), known), matches)


def near_duplicates_warning(train: np.ndarray, test: np.ndarray, name_of: Callable[[str, int], str],
                            matches: np.ndarray) -> str:
    """Return a sentence on test images that are near duplicates of training images; "" for none.

    Args:
        train, test: squares of one size, uint8 (N, S, S, 3).
        name_of: returns the name of an image of "train" or "test" by its index.
        matches: of `near_duplicates`.
    """
    copies = np.flatnonzero(matches >= 0)
    if not len(copies):
        return ""
    exact = sum(np.array_equal(train[matches[index]], test[index]) for index in copies)
    kinds = f"{exact} with the same pixels, {len(copies) - exact} re-encoded, resized, mirrored or nearly the same"
    first = copies[0]
    return (f"{len(copies)} of the {len(test)} test images are among the training images ({kinds}), first the test "
            f"image {name_of('test', first)} as {name_of('train', matches[first])}; accuracy on them is not meaningful")


def signatures(images: np.ndarray) -> np.ndarray:
    """Return the signatures of squares, uint8 (N, S, S, 3): float32 (N, 192), in grey levels."""
    areas, parts = _area_weights(images.shape[1]), []
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK].astype(np.float32)
        parts.append(np.einsum("as,nstc,bt->nabc", areas, block, areas, optimize=True))
    return np.concatenate(parts).reshape(len(images), -1)


@cache
def _area_weights(side: int) -> np.ndarray:
    """Return the share (8, side) that each pixel of a row has in each eighth of it."""
    edges, pixels = np.arange(SIDE + 1) * side / SIDE, np.arange(side)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (shared.clip(0) * SIDE / side).astype(np.float32)


def match_near_duplicates(queries: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return for each signature (N, 192) the index of its near duplicate among others (M, 192), −1 for none: int64."""
    matches = np.full(len(queries), -1)
    spread, squares = known.std(1), (known**2).sum(1)
    step = max(MAX_PAIRS // len(known), 1)
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        nearest = (squares - 2 * block @ known.T).argmin(1)
        distance = np.sqrt(((block - known[nearest]) ** 2).mean(1))
        contrast = np.minimum(block.std(1), spread[nearest])
        alike = (distance <= np.minimum(MAX_DISTANCE, MAX_SHARE * contrast)) & (contrast >= MIN_CONTRAST)
        matches[start : start + step][alike] = nearest[alike]
    return matches
