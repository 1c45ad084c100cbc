"""Pools that are drawn from the training originals with a chosen bias."""

from pathlib import Path

import pandas as pd

from dgs_utils.images.image_set import ImageSet
from dgs_utils.pool.from_folders import copy_images
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.permanent_numbers import weighted_order
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.store.session import Run


def draw_originals(run: Run, classes: pd.DataFrame) -> pd.DataFrame:
    """Draw a pool from the training originals, each with probability ∝ exp(−β · difficulty), and copy it.

    β above 0 prefers easy images, below 0 hard ones. Difficulties are those of stage 03. Pools of every bias consist of
    equally good images; only their distribution differs.

    Returns:
        file_name, class, label, index, generator, bias, and source: the original's file name.

    Raises:
        ValueError: a class has fewer originals than pool.images_per_class.
    """
    params, images = run.params, ImageSet.read(run.inputs["prepare"], "train", warn=run.warn)
    difficulty = read_scores(run.inputs["originals"]).set_index("file_name")["score"]
    rows = []
    for name, label in zip(classes["class"], classes["label"], strict=True):
        names = images.table.loc[images.table["class"] == name, "file_name"].tolist()
        if len(names) < params.images_per_class:
            raise ValueError(f"class {name} has {len(names)} originals, too few for {params.images_per_class} pool "
                             f"images; lower pool.images_per_class")
        order = weighted_order(-params.bias * difficulty[names], numpy_rng("pool", "bias", params.seed, name))
        rows += [(name, label, i, names[index]) for i, index in enumerate(order[: params.images_per_class])]
    table = pd.DataFrame(rows, columns=["class", "label", "index", "source"])
    names = [f"{name}/{index}{Path(source).suffix}"
             for name, index, source in zip(table["class"], table["index"], table["source"], strict=True)]
    table.insert(0, "file_name", copy_images(run, [images.root / source for source in table["source"]], names))
    return table.assign(generator="originals", bias=params.bias)
