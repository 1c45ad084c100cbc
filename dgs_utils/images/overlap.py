"""Test images that are among the training images, and so tell nothing."""

import filecmp

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
    known = dict(zip(_short_names(train), train.paths, strict=True))
    for name, path in zip(_short_names(test), test.paths, strict=True):
        if name in known and filecmp.cmp(known[name], path, shallow=False):
            raise ValueError(f"the test image {path} is also the training image {known[name]}; "
                             f"take it out of one of the two")


def _short_names(images: ImageSet) -> list[tuple[str, str]]:
    return list(zip(images.table["class"], images.table["file_name"].str.rpartition("/")[2], strict=True))
