"""The originals: fetch or open a dataset, settle its class table, and split it into train and val.

Whatever the source (`dgs_utils.images.sources`) and the layout (`dgs_utils.images.layouts`), the result is the same
three files in the stage folder: ``dataset.json`` (where the images are), ``classes.csv`` (label, class, index,
condition, name) and ``originals.csv`` (file_name, split, class, label).
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dgs_utils.artifacts.files import write_csv, write_json
from dgs_utils.artifacts.places import locate
from dgs_utils.images.archives import is_archive
from dgs_utils.images.classes import imagenet_index, imagenet_names, read_class_index
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.layouts import find_images, no_images_of
from dgs_utils.images.sources import FASHION, open_source
from dgs_utils.images.splits import count_warnings, split_table
from dgs_utils.images.tables import natural_key, one_form
from dgs_utils.images.trees import entries
from dgs_utils.params import PrepareParams
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.runtime.progress import silent


def index_originals(params: PrepareParams, folder: Path, progress: Callable = silent) -> list[str]:
    """Write a dataset's class table and split index into a stage folder, and its images where it has no files.

    Args:
        params: parameters of stage 00; used are dataset, root, archive, split, val_per_class, classes, class_index,
            channels and seed.
        folder: the stage folder.
        progress: wraps iterables that take long, as `artifacts.run.Run.progress`.

    Returns:
        Warnings, one sentence each: files that are no images, what else was left out, no images for tests, counts
        that differ from the published protocol.

    Raises:
        ValueError: unknown root, a class without images, or a split that the images do not allow.
    """
    root = open_source(params, folder, progress)
    listing = find_images(root, _wanted(params))
    table, notes = listing.table, list(listing.notes)
    if "split" in table:
        table, told = _val_from_test(table, root)
        notes += told
    else:
        table = table.assign(split="train")
    if root.is_dir() and not root.is_relative_to(folder):
        notes += [f"{root / file} is not used, since there are images beside it" for file in entries(root)[1]
                  if is_archive(root / file)]
    classes = class_table(params, table)
    there = set(table["class"])
    for name in classes["class"]:
        if name not in there:
            raise no_images_of(name, root)
    table = table[table["class"].isin(classes["class"])].drop(columns="label", errors="ignore")
    table = table.merge(classes[["class", "label"]], on="class")
    table = table.assign(order=table["file_name"].map(natural_key)).sort_values(["label", "order"])
    table = split_table(table.drop(columns="order").reset_index(drop=True), params, root)
    notes += ImageSet(root, table).survey(params.workers, progress)
    inside = root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)
    write_csv(folder / "classes.csv", classes)
    write_csv(folder / "originals.csv", table[["file_name", "split", "class", "label"]])
    write_json(folder / "dataset.json", {"dataset": params.dataset, "root": inside, "channels": params.channels,
                                         "split": params.split})
    if not (table["split"] == "val").any():
        notes.append(f"{root} has no images for tests, so a distilled set can be made but not evaluated: stage 06 "
                     f"needs a folder val or test there, or prepare.split holdout, which takes prepare.val_per_class "
                     f"of each class")
    return [*notes, *count_warnings(params, table)]


def _val_from_test(table: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, list[str]]:
    """Take the test images for val where there are no val images, and leave them out where there are."""
    test = table["split"] == "test"
    if not test.any() or (table["split"] == "val").any():
        return table[~test], [f"{root}: {test.sum()} images of test are left out"] if test.any() else []
    return table.assign(split=table["split"].replace("test", "val")), []


def _wanted(params: PrepareParams) -> list[str]:
    """Return the class folders that are asked for, in label order; [] for all that there are.

    Raises:
        ValueError: ``classes`` names one twice, or one that is no class of the named subset.
    """
    if len(set(params.classes)) < len(params.classes):
        raise ValueError(f"prepare.classes names a class twice: {', '.join(params.classes)}")
    if params.dataset not in SUBSETS:
        return [one_form(name) for name in params.classes]
    names = [wnid for wnid, *_ in SUBSETS[params.dataset]]
    foreign = [name for name in params.classes if name not in names]
    if foreign:
        raise ValueError(f"prepare.classes names {foreign[0]}, which is no class of {params.dataset}; "
                         f"its classes are {', '.join(names)}")
    return [name for name in names if not params.classes or name in params.classes]


def class_table(params: PrepareParams, table: pd.DataFrame) -> pd.DataFrame:
    """Return the classes in label order: label, class (folder name), index, condition, name.

    ``index`` is the class's column in the difficulty classifier's output, ``condition`` its label in the diffusion
    model. Both are the label for models that are trained here, and the ImageNet index for pre-trained ones; that is
    read from ``class_index``, or else known where a class is called by its WordNet id or its name in ImageNet.

    Raises:
        ValueError: a pre-trained model is used and a class's index is not known.
    """
    known = imagenet_names() | {wnid: name for rows in SUBSETS.values() for wnid, _, name in rows}
    names = _wanted(params) or _order(table)
    titles = {str(i): title for i, title in enumerate(FASHION)} if params.dataset == "fashion" else {}
    classes = pd.DataFrame({"label": range(len(names)), "class": names})
    classes["index"] = classes["condition"] = classes["label"]
    classes["name"] = [known.get(name, titles.get(name, name)) for name in names]
    given = read_class_index(locate(params.class_index)) if params.class_index else {}
    for column, trained in (("index", params.classifier_weights == "train"),
                            ("condition", params.base_model in ("train", "none"))):
        if trained:
            continue
        indices = [given[name] if name in given else imagenet_index(name) for name in names]
        if None in indices:
            raise ValueError(f"class {names[indices.index(None)]} has no known index in the pre-trained model; give "
                             f"prepare.class_index, a CSV file with the columns class and index")
        for place, index in enumerate(indices):
            if index in indices[:place]:
                raise ValueError(f"the classes {names[indices.index(index)]} and {names[place]} have the same index "
                                 f"{index} in the pre-trained model; give each one of its own in prepare.class_index")
        classes[column] = indices
    return classes


def _order(table: pd.DataFrame) -> list[str]:
    """Return the classes in the order of a list's own labels, or of their characters, as other tools count them."""
    if "label" in table:
        return list(table.sort_values("label")["class"].drop_duplicates())
    return sorted(table["class"].unique())
