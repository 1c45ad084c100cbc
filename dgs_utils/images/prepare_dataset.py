"""The originals: fetch or open a dataset, write its class table, and split it into train and val.

Whatever the source (`dgs_utils.images.builtin_datasets`) and the layout (`dgs_utils.images.imagefolder`), the result is
three files in the stage folder: ``dataset.json`` (where the images are), ``classes.csv`` (label, class, index,
condition, name) and ``originals.csv`` (file_name, split, class, label).
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dgs_utils.images.archives import archives_in
from dgs_utils.images.builtin_datasets import FASHION, open_dataset
from dgs_utils.images.classes import START, class_names_of_model, imagenet_names, model_indices, read_class_index
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.imagefolder import find_images
from dgs_utils.images.scan import to_nfc
from dgs_utils.images.splits import count_warnings, split_table
from dgs_utils.params import PrepareParams
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.runtime.progress import no_progress
from dgs_utils.store.atomic import write_csv, write_json
from dgs_utils.store.paths import resolve_path


def index_originals(params: PrepareParams, folder: Path, progress: Callable = no_progress) -> list[str]:
    """Write a dataset's class table and split index into a stage folder, and its images where it has no files.

    Returns:
        Warnings, one sentence each: files that were left out, no test images, counts that differ from the published
        protocol.

    Raises:
        ValueError: unknown root, a class without images, or a split that the images do not allow.
    """
    notes = list[str]()
    root = open_dataset(params, folder, progress, notes.append)
    listing = find_images(root, _wanted(params))
    table, notes = listing.table, [*notes, *listing.notes]
    splits = set(table["split"]) if "split" in table else set()
    if splits >= {"val", "test"}:
        notes += [f"{root}: {(table['split'] == 'test').sum()} images of test are left out"]
        table = table[table["split"] != "test"]
    table = table.assign(split=table["split"].replace("test", "val") if splits else "train")
    if root.is_dir() and not root.is_relative_to(folder):
        notes += [f"{archive} is not used, since there are images beside it" for archive in archives_in(root)]
    classes = class_table(params, table)
    images = ImageSet(root, table).with_classes(list(classes["class"]))
    table = split_table(images.table, params, root)
    available = table["split"].value_counts().to_dict()
    if params.images_per_class:
        table = table[table.groupby(["split", "class"]).cumcount() < params.images_per_class]
    notes += ImageSet(root, table).check_headers(progress)
    inside = root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)
    write_csv(folder / "classes.csv", classes)
    write_csv(folder / "originals.csv", table[["file_name", "split", "class", "label"]])
    write_json(folder / "dataset.json", {"dataset": params.dataset, "root": inside, "split": params.split,
                                         "channels": params.with_defaults({}).channels,
                                         **({"available": available} if params.images_per_class else {})})
    if not (table["split"] == "val").any():
        notes.append(f"{root} has no images for tests, so a distilled set can be made but not evaluated: stage 06 "
                     f"needs a folder val or test there, or prepare.split holdout, which takes prepare.val_per_class "
                     f"of each class")
    return [*notes, *count_warnings(params, table)]


def _wanted(params: PrepareParams) -> list[str]:
    """Return the requested class folders in label order; [] for all.

    Raises:
        ValueError: ``classes`` names one twice, or one that is no class of the named subset.
    """
    if len(set(params.classes)) < len(params.classes):
        raise ValueError(f"prepare.classes names a class twice: {', '.join(params.classes)}")
    if params.dataset not in SUBSETS:
        return [to_nfc(name) for name in params.classes]
    names = [wnid for wnid, *_ in SUBSETS[params.dataset]]
    foreign = [name for name in params.classes if name not in names]
    if foreign:
        raise ValueError(f"prepare.classes names {foreign[0]}, which is no class of {params.dataset}; "
                         f"its classes are {', '.join(names)}")
    return [name for name in names if not params.classes or name in params.classes]


def class_table(params: PrepareParams, table: pd.DataFrame) -> pd.DataFrame:
    """Return the classes in label order: label, class (folder name), index, condition, name.

    ``index`` is the class's column in the scorer's output, ``condition`` its label in the diffusion model. Both are the
    label for models that are trained here. For others they are the numbers of ``class_index``, or ImageNet's, or -1,
    which is replaced when the model is opened (`classes.model_indices`).

    Raises:
        ValueError: a model that has no names of its own, or torchvision's weights, is used and a class is not known.
    """
    words = imagenet_names() | {wnid: name for rows in SUBSETS.values() for wnid, _, name in rows}
    names = _wanted(params) or _order(table)
    titles = {str(i): title for i, title in enumerate(FASHION)} if params.dataset == "fashion" else {}
    classes = pd.DataFrame({"label": range(len(names)), "class": names})
    classes["index"] = classes["condition"] = classes["label"]
    classes["name"] = [words.get(name, titles.get(name, name)) for name in names]
    indices = read_class_index(resolve_path(params.class_index)) if params.class_index else {}
    if params.classifier_weights != "train":
        scorer = f"{params.classifier} with {params.classifier_weights}"
        unnamed = params.classifier_weights.startswith("IMAGENET1K")
        classes["index"] = _provisional_indices(scorer, names, indices, "index", unnamed)
    if params.base_model not in ("train", "none"):
        unnamed = not class_names_of_model(resolve_path(params.base_model))
        old = [name for name in names if name not in indices.get(START, {})]
        known = _provisional_indices(params.base_model, old, indices, "condition", unnamed)
        numbers = dict(zip(old, known, strict=True))
        classes["condition"] = [numbers.get(name, -1) for name in names]
    return classes


def _provisional_indices(model: str, names: list[str], indices: dict, column: str, unnamed: bool) -> list[int]:
    """Return the indices of classes in a model that is not open yet; -1 where the model has names of its own.

    Raises:
        ValueError: the model has no names of its own, and a class is unknown.
    """
    if unnamed:
        return model_indices(model, names, 0, column=column, given=indices.get(column))
    return [indices.get(column, {}).get(name, -1) for name in names]


def _order(table: pd.DataFrame) -> list[str]:
    """Return the classes in the order of a list's own labels, or of their characters, as torchvision does."""
    if "label" in table:
        return list(table.sort_values("label")["class"].drop_duplicates())
    return sorted(table["class"].unique())
