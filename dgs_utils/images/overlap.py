"""Test images that are among the training images, and so tell nothing."""

import filecmp
from collections import defaultdict
from collections.abc import Iterator

from dgs_utils.images.image_sets import ImageSet


def check_overlap(train: ImageSet, test: ImageSet) -> None:
    """Refuse a test image that is among the training images.

    Two images are the same if the distilled set names the test image as its source, which images of a generator do
    not, or if they bear the same name in the same class and hold the same bytes.

    Raises:
        ValueError: there is one; the sentence names it.
    """
    if "source" in train.table:
        drawn = train.table if "generator" not in train.table else train.table.query("generator == 'originals'")
        sources = {name for names in drawn["source"] for name in names.split("|")}  # of mosaics there are several
        shared = sorted(sources & set(test.table["file_name"]))
        if shared:
            raise ValueError(f"the test image {shared[0]} is in the distilled set {train.root}; "
                             f"draw that set again from the train split")
    known: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, file in _by_short_name(train):
        known[name].append(file)
    for name, file in _by_short_name(test):
        for other in known.get(name, ()):
            if filecmp.cmp(train.root / other, test.root / file, shallow=False):
                raise ValueError(f"the test image {test.root / file} is also the training image {train.root / other}; "
                                 f"take it out of one of the two")


def _by_short_name(images: ImageSet) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield class and name without folders of each image, with the name that its root knows it by."""
    for group, file in zip(images.table["class"].tolist(), images.table["file_name"].tolist(), strict=True):
        yield (group, file.rpartition("/")[2]), file
