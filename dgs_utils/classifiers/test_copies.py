"""Test images in a training set, which stop a run before anything is trained on them.

What was only saved again, resized, mirrored or made grey (`near_duplicates.find_pairs`: ``same``) is a copy. Other
pairs that show one picture are only told of. An image that shows an original at least as well is not counted: data sets
have duplicates of their own.
"""

import filecmp
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pandas as pd

from dgs_utils.classifiers.image_tensors import ImageTensors, load_images
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.near_duplicates import SAVED, find_pairs


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


def find_test_copies(train: ImageSet | ImageTensors, test: ImageSet | ImageTensors, train_tensors: ImageTensors,
                     test_tensors: ImageTensors, zoom: float, cure: str,
                     open_originals: Callable[[], ImageSet] | None = None, workers: int = 0) -> str:
    """Return a warning about test images that are also training images, whatever their names; "" if there are none.

    Args:
        train, test: the sets.
        train_tensors, test_tensors: the same as tensors; ``test_tensors`` scaled by ``zoom`` before the crop.
        zoom: of the test images.
        cure: see `check_test_copies`.
        open_originals: returns the data set's own training images, with the same classes, which may show what test
            images show; it is called where there are copies.
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
        assert open_originals is not None
        originals = open_originals()
        same = np.isin(originals.labels, train_tensors.labels.cpu().numpy()[rows])
        images = ImageSet(originals.root, originals.table[same].reset_index(drop=True))
        return load_images(images, size, workers).images.permute(0, 2, 3, 1).numpy()

    return check_test_copies(first, second, name_of, cure, originals_of if open_originals else None)


def check_test_copies(train: np.ndarray, test: np.ndarray, name_of: Callable[[str, int], str], cure: str = "",
                      originals_of: Callable[[np.ndarray], np.ndarray] | None = None) -> str:
    """Return a sentence on test images that training images show; "" for none.

    Args:
        train, test: squares of one size, uint8 (N, S, S, 3).
        name_of: returns the name of an image of "train" or "test" by its index.
        cure: what to do about copies; "" where they are allowed.
        originals_of: returns, by indices of training images, the squares of the originals of their classes.

    Raises:
        ValueError: a training image is a copy of a test image, and of no original.
    """
    pairs = find_pairs(train, test)
    copies = pairs[pairs["same"]].sort_values(["first", "difference"]).drop_duplicates("first")
    if cure and originals_of and len(copies):
        rows = copies["first"].to_numpy()
        shown = find_pairs(train[rows], originals_of(rows)).groupby("first")["difference"].min()
        nearest = shown.reindex(range(len(rows)), fill_value=np.inf).to_numpy()
        copies = copies[nearest > copies["difference"].clip(SAVED)]
    if cure and len(copies):
        first = copies.iloc[0]
        raise ValueError(f"{len(copies)} of the {len(train)} images to train on are copies of test images, first "
                         f"{name_of('train', first['first'])} of {name_of('test', first['second'])}; {cure}")
    return _warning(train, test, name_of, pairs)


def _warning(train: np.ndarray, test: np.ndarray, name_of: Callable[[str, int], str], pairs: pd.DataFrame) -> str:
    if pairs.empty:
        return ""
    nearest = pairs.sort_values(["second", "difference"], kind="stable").drop_duplicates("second")
    ends = nearest[["first", "second"]].to_numpy()
    exact = sum(np.array_equal(train[first], test[second]) for first, second in ends)
    first, second = ends[0]
    return (f"{len(ends)} of the {len(test)} test images are among the training images ({exact} with the same pixels, "
            f"{len(ends) - exact} saved again, resized, mirrored, cropped or nearly the same), first the test image "
            f"{name_of('test', second)} as {name_of('train', first)}; accuracy on them is not meaningful")
