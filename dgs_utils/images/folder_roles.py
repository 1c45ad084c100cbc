"""Names of folders that are no classes, such as ``images`` or ``train2017``, and errors that name unread layouts."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dgs_utils.images.scan import ARCHIVES, FolderScan, format_counts, suffix_of
from dgs_utils.runtime.table_io import TABLE_SUFFIXES

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "testing": "test"}
EXPECTED_LAYOUT = ("one folder of images per class, train and val (or test) with such folders, or a metadata.csv with "
                   "the columns file_name and class")
# Words that only roles have as names, and words that may appear beside them.
ROLES = {"annotations", "annots", "bboxes", "groundtruth", "imgs", "images", "jpegimages", "jpegs", "jpgs", "labels",
         "masks", "photos", "pictures", "pngs", "segmentationclass", "segmentationobject", "segmentations", "trimaps"}
ALONE = {"all", "annotation", "data", "dataset", "image", "img", "jpeg", "jpg", "pics", "png", "rgb"}
PARTS = {"batch", "chunk", "fold", "part", "partition", "shard"}
BESIDE = {"a", "align", "celeba", "crop", "cropped", "full", "raw", "resized", "set", "sets", "small"}
UNREAD = (((".json",), "COCO's and others' annotations in JSON"), ((".xml",), "VOC's boxes in XML"),
          ((".txt",), "YOLO's boxes, or lists in text"), ((".mat",), "labels in a .mat file"),
          ((".cls",), "labels of a webdataset"),
          (TABLE_SUFFIXES, "a table that has no columns file_name and class"))


def is_role(name: str) -> bool:
    """Return whether a folder of this name holds images of all classes, or their annotations, rather than a class.

    Bare names of splits are none, since a class may be called "train".

    >>> [is_role(name) for name in ("images", "train2017", "train", "tench")]
    [True, True, False, False]
    """
    words = set(re.findall(r"[^\W\d_]+", name.lower()))
    numbered = bool(re.search(r"\d", name)) and words <= {*SPLITS, *PARTS}
    marks = words & {*ROLES, *ALONE} or (words & set(SPLITS) and words & {"set", "sets"})
    return bool(words) and words <= {*ROLES, *ALONE, *PARTS, *SPLITS, *BESIDE} and bool(marks or numbered)


def show_no_class(images: list[str]) -> bool:
    """Return whether the folders of images are no classes: there is only one, or those at the top are roles."""
    return len({name.rpartition("/")[0] for name in images}) == 1 or (
        bool(images) and all(is_role(name.split("/")[0]) for name in images if "/" in name))


def check_class_names(names: Iterable[str], scan: FolderScan) -> None:
    """Raise ValueError for class folders whose names are roles, splits only, or alike but for a number."""
    names = sorted(names)
    wrong = [name for name in names if is_role(name)]
    if not wrong and all(name.lower() in SPLITS for name in names):
        wrong = names if "train" in {SPLITS[name.lower()] for name in names} else []
    bare = {re.sub(r"[\d_.-]+", " ", name.lower()).strip() for name in names}
    if not wrong and len(names) > 1 and len(bare) == 1 and set(bare.pop().split()) & {*ROLES, *PARTS}:
        wrong = names
    if wrong:
        some = f"{', '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}"
        many = "which are no classes" if len(wrong) > 1 else "which is no class"
        raise ValueError(f"{scan.root} holds images in {some}, {many}{_unread_labels(scan)}; it needs "
                         f"{EXPECTED_LAYOUT}")


def no_classes_error(scan: FolderScan) -> ValueError:
    """Return the error of a folder without images in class folders: what it holds, and what would work."""
    root, counts = scan.root, Counter(map(suffix_of, scan.others)) + scan.skipped
    among = f" among {format_counts(counts).replace('skipped', 'other files')}" if counts.total() else ""
    if scan.images:
        return ValueError(f"{root} holds {len(scan.images)} images without class folders and no list of their classes"
                          f"{among}{_unread_labels(scan)}; it needs {EXPECTED_LAYOUT}")
    if any(name.lower().endswith(ARCHIVES) for name in scan.others):
        return ValueError(f"{root} holds no images, but archives{among}; unpack them, so that there is "
                          f"{EXPECTED_LAYOUT}")
    if ".parquet" in counts:
        return ValueError(f"{root} holds no image files{among}; write the images that its .parquet files hold into "
                          f"{EXPECTED_LAYOUT}")
    return ValueError(f"{root} holds no images{among}; it needs {EXPECTED_LAYOUT}")


def _unread_labels(scan: FolderScan) -> str:
    """Return which file holds labels in a form that is not read, as the end of a sentence; "" where none does."""
    stems = {Path(name).stem for name in scan.images}
    for suffixes, layout in UNREAD:
        files = [name for name in scan.others if suffix_of(name) in suffixes]
        if files:
            first = min(files, key=lambda name: Path(name).stem not in stems)
            return f" (beside them {first}: {layout}, from which a metadata.csv can be written)"
    return ""
