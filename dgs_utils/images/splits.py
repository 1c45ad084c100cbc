"""Splits: which images are for training and which for tests, and how many the published protocols have of each."""

from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.params import PrepareParams
from dgs_utils.params.subsets import SUBSETS
from dgs_utils.runtime.seeds import numpy_rng

# Images of each class, in label order [F §1.2]: ImageNet's train split (its val split has 50 of each class; where
# train counts are not known, 0), and the train folders of fastai's archives, which hold the same images in all.
IMAGENET_TRAIN: dict[str, tuple[int, ...]] = {name: (0,) * len(rows) for name, rows in SUBSETS.items()} | {
    "imagewoof": (1300, 1300, 1300, 1300, 1300, 754, 1300, 1300, 1300, 1300),
    "imagenette": (1300, 1300, 1300, 1194, 1300, 1300, 1300, 1300, 1300, 1300),
}
IMAGENET_VAL = 50
FASTAI_TRAIN: dict[str, tuple[int, ...]] = {
    "imagewoof": (943, 949, 921, 932, 941, 580, 942, 940, 949, 928),
    "imagenette": (963, 955, 993, 858, 941, 956, 961, 931, 951, 960),
}


def split_table(table: pd.DataFrame, params: PrepareParams, root: Path) -> pd.DataFrame:
    """Return ``table`` with its column ``split`` (train or val) by the rule that ``params.split`` names.

    "given" and "fastai" keep the train and val folders; "imagenet" rebuilds the official split from file names, since
    ``ILSVRC2012_val_*`` files are ImageNet's validation images wherever fastai put them [F §1.3]; "holdout" draws
    ``val_per_class`` images of each class at random (seeded) as val.
    """
    if params.split == "imagenet":
        held_out = table["file_name"].str.rsplit("/", n=1).str[-1].str.startswith("ILSVRC2012_val_")
        # An ImageNet root already has the official folders; fastai's archives mix both kinds of names in train.
        table = table.assign(split=np.where(held_out, "val", "train"))
    elif params.split == "holdout":
        table = table.assign(split="train")
        for name, rows in table.groupby("class", sort=False):
            if len(rows) <= params.val_per_class:
                raise ValueError(f"class {name} has {len(rows)} images, too few to hold out {params.val_per_class}; "
                                 f"lower prepare.val_per_class")
            order = numpy_rng("prepare", "holdout", params.seed, str(name)).permutation(rows.index)
            table.loc[order[: params.val_per_class], "split"] = "val"
    for split in ("train", "val"):
        empty = set(table["class"]) - set(table.loc[table["split"] == split, "class"])
        if empty and not (split == "val" and params.split == "given"):
            raise ValueError(f"class {min(empty)} has no {split} images in {root} under split {params.split!r}; "
                             f"choose another prepare.split")
    return table


def published_counts(dataset: str, split: str) -> pd.DataFrame | None:
    """Return the published numbers of images of each class of a subset, train (NaN: not known) and val, if known."""
    known = {"imagenet": IMAGENET_TRAIN, "fastai": FASTAI_TRAIN}.get(split, {})
    if dataset not in known:
        return None
    train, official = (np.array(counts[dataset], dtype=float) for counts in (known, IMAGENET_TRAIN))
    return pd.DataFrame({"train": np.where(train == 0, np.nan, train), "val": official + IMAGENET_VAL - train},
                        index=[wnid for wnid, *_ in SUBSETS[dataset]])


def count_warnings(params: PrepareParams, table: pd.DataFrame) -> list[str]:
    """Return a sentence where a published data set has other numbers of images than published; else []."""
    expected = published_counts(params.dataset, params.split)
    if expected is None:
        return []
    expected = expected.loc[table["class"].unique()]
    counts = table.groupby("class")["split"].value_counts().unstack(fill_value=0).loc[expected.index, ["train", "val"]]
    differs = (counts != expected) & expected.notna()
    if not differs.any(axis=None):
        return []
    first = differs.index[differs.any(axis=1)][0]
    rows = (counts.sum(), expected.sum(min_count=len(expected)), counts.loc[first], expected.loc[first])
    here, published, first_here, first_published = (
        " and ".join(f"{'unknown' if np.isnan(row[split]) else int(row[split])} {split}" for split in ("train", "val"))
        for row in rows)
    return [f"{params.dataset} with split {params.split!r} has {here} images here, {published} in the published "
            f"protocol; the first class that differs is {first}, with {first_here} here and {first_published} there"]
