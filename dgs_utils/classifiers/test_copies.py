"""Copies of test images in a training set, which stop a run before anything is trained on them.

Near duplicates (`images.duplicates`) are only told of: clothes on black are alike without being copies. An image is a
copy of a test image if its signature differs from that image's by at most a tenth of the contrast, and by at most two
fifths of what it differs from any other test image's. Of 4,000 training images of Fashion-MNIST, of CIFAR-10 and 1,200
scans of digits, 1, 3 and 0 are such copies of a test image, with mirrored ones; of test images saved as JPEG 75, 99 %
and more are. An image that shows an original at least as well is not counted: data sets have duplicates of their own.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist

from dgs_utils.classifiers.image_tensors import ImageTensors, load_images
from dgs_utils.images.duplicates import MIN_CONTRAST, near_duplicates, near_duplicates_warning, signatures
from dgs_utils.images.image_set import ImageSet

MAX_SHARE = 0.1  # of the contrast
MAX_RATIO = 0.4  # of the distance to the test image that is next nearest
SAME = 2.0  # grey levels that an image may differ by where it was saved again
BLOCK = 256  # images at once


def find_test_copies(train: ImageSet | ImageTensors, test: ImageSet | ImageTensors, train_tensors: ImageTensors,
                     test_tensors: ImageTensors, zoom: float, cure: str, originals: ImageSet | None = None,
                     workers: int = 0) -> str:
    """Return a warning about test images that are also training images, whatever their names; "" if there are none.

    Args:
        train, test: the sets.
        train_tensors, test_tensors: the same as tensors; ``test_tensors`` scaled by ``zoom`` before the crop.
        zoom: of the test images.
        cure: see `check_test_copies`.
        originals: the data set's own training images, with the same classes, which may show what test images show.
        workers: threads that read images again where zoom is not 1.
    """
    size = train_tensors.images.shape[-1]
    if zoom != 1 and isinstance(test, ImageSet):
        test_tensors = load_images(test, size, workers)
    first, second = (images.images.permute(0, 2, 3, 1).cpu().numpy() for images in (train_tensors, test_tensors))

    def name_of(set_name: str, index: int) -> str:
        images = train if set_name == "train" else test
        return str(images.paths[index]) if isinstance(images, ImageSet) else f"number {index}"

    def originals_of(rows: np.ndarray) -> np.ndarray:
        assert originals is not None
        same = np.isin(originals.labels, train_tensors.labels.cpu().numpy()[rows])
        images = ImageSet(originals.root, originals.table[same].reset_index(drop=True))
        return load_images(images, size, workers).images.permute(0, 2, 3, 1).numpy()

    return check_test_copies(first, second, name_of, cure, originals_of if originals else None)


def check_test_copies(train: np.ndarray, test: np.ndarray, name_of: Callable[[str, int], str], cure: str = "",
                      originals_of: Callable[[np.ndarray], np.ndarray] | None = None) -> str:
    """Return a sentence on test images that are near duplicates of training images; "" for none.

    Args:
        train, test: squares of one size, uint8 (N, S, S, 3).
        name_of: returns the name of an image of "train" or "test" by its index.
        cure: what to do about copies; "" where they are allowed.
        originals_of: returns, by indices of training images, the squares of the originals of their classes.

    Raises:
        ValueError: a training image is a copy of a test image, and of no original.
    """
    matches = near_duplicates(train, test)
    if (matches < 0).all():
        return ""
    rows = np.union1d(matches[matches >= 0], np.flatnonzero(near_duplicates(test, train) >= 0))  # all, not the nearest
    shown, distances = copied(train[rows], test)
    copies = np.flatnonzero(shown >= 0)
    if cure and originals_of and len(copies):
        to_originals = nearest(train[rows[copies]], signatures(originals_of(rows[copies])))[1][:, 0]
        copies = copies[to_originals > np.maximum(distances[copies], SAME)]
    if cure and len(copies):
        first = copies[0]
        raise ValueError(f"{len(copies)} of the {len(train)} images to train on are copies of test images, first "
                         f"{name_of('train', rows[first])} of {name_of('test', shown[first])}; {cure}")
    return near_duplicates_warning(train, test, name_of, matches)


def copied(images: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which test image each of some images is a copy of, also mirrored, −1 for none, int64 (N,), and how far
    they are from the nearest one, in grey levels.
    """
    known = signatures(test)
    indices, distances = nearest(images, known)
    contrast = np.minimum(signatures(images).std(1), known[indices[:, 0]].std(1))
    near, next_near = distances.T
    alike = (near <= MAX_SHARE * contrast) & (near <= MAX_RATIO * next_near) & (contrast >= MIN_CONTRAST)
    return np.where(alike, indices[:, 0], -1), near


def nearest(images: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two nearest of some signatures (M, 192) to each image, in the orientation in which it is nearer.

    Returns:
        Indices, int64 (N, 2), and distances in grey levels, float (N, 2), infinite where there is no second.
    """
    known = np.concatenate([known, np.full((1, known.shape[1]), np.inf)]) if len(known) == 1 else known
    parts = []
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        straight, mirrored = (cdist(signatures(view), known) for view in (block, block[:, :, ::-1]))
        distances = np.where((straight.min(1) <= mirrored.min(1))[:, None], straight, mirrored)
        order = distances.argsort(1, kind="stable")[:, :2]
        parts.append((order, np.take_along_axis(distances, order, 1)))
    indices, distances = (np.concatenate(part) for part in zip(*parts, strict=True))
    return indices, distances / np.sqrt(known.shape[1])
