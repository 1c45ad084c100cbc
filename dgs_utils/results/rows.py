"""Rows of results: reading them, and what tells them apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.images.tables import read_table
from dgs_utils.methods import METHODS

SEEDS = ["pool_seed", "selection_seed", "training_seed"]  # from the outermost source of noise to the innermost

UNITS = dict(zip(SEEDS, ("pools", "selections", "trainings"), strict=True))

# Runs that differ in any of these are never compared.
CONDITION = ["protocol", "dataset", "split", "test_list", "prepare_seed", "image_size", "epoch_factor", "batch_size",
             "learning_rate", "augment", "flip", "precision", "evaluations", "teacher", "network", "norm", "ipc"]


def numbers_of(seeds: pd.Series) -> pd.Series:
    """Return seeds as numbers, NaN where a method has none of that kind."""
    return pd.to_numeric(seeds, errors="coerce")


NETWORKS = {
    "convnet3": "ConvNet-3", "convnet4": "ConvNet-4", "convnet5": "ConvNet-5", "convnet6": "ConvNet-6",
    "resnet_ap10": "ResNetAP-10", "resnet18": "ResNet-18",
}

DATASETS = {"imagewoof": "ImageWoof", "imagenette": "ImageNette", "imageidc": "ImageIDC", "fashion": "Fashion-MNIST",
            "cifar10": "CIFAR-10"}

LABELS = {name: method.label for name, method in METHODS.items()}

PUBLISHED_LABELS = {"Ours": "DGS", "Full Dataset": "Full", "Random": "First files"}  # [F §9.4]

# What one cell of any table stands for: the runs that agree in how they were evaluated (CONDITION) and in how their
# images were made are averaged.
MAKING = ["method", "generator", "distribution", "pool_factor", "objective", "measure", "judge", "cut", "compute",
          "bias", "features", "fine_tune_seed", "variant"]

CELL = [*CONDITION, *MAKING]

# A protocol lets these follow from the IPC: epochs are whole ones, and the full set is tested every epoch.
BY_IPC = ("epoch_factor", "batch_size", "evaluations")

TEXT = ("method", "distribution", "objective", "measure", "judge", "rule", "cut", "compute", "bias", "variant",
        "dataset", "distilled", "label", "test_list", "prepare_seed", "fine_tune_seed", "pool_seed", "selection_seed",
        "pool", "generator", "generation", "features", "teacher")

# What columns hold in rows of the time before there were such columns.
LATER = {**dict.fromkeys(TEXT, ""), "evaluations": 0, "augment": True, "steps": 0}

MAIN = {"distribution": "scale", "pool_factor": 5, "objective": "code", "measure": "difficulty"}  # DGS as published


def read_results(places: Sequence[Path]) -> pd.DataFrame:
    """Return the rows of several 06 folders' ``results.csv``, or of such files, one a training run, accuracies in
    percent.

    Columns that older files lack have their neutral value; ``folder`` ("" for a file), ``series`` and ``condition``
    (see `series_of` and `condition_of`) are added.

    Raises:
        ValueError: nothing was given, or a file cannot be read.
    """
    if not places:
        raise ValueError("no evaluation folders were given; run notebook 06 first or list its folders in evaluations")
    frames = []
    for place in map(Path, places):
        is_file = place.suffix == ".csv"
        frame = read_table(place if is_file else place / "results.csv", (*TEXT, "key"))
        frames.append(frame.assign(folder="" if is_file else str(place),
                                   **{name: value for name, value in LATER.items() if name not in frame}))
    results = pd.concat(frames, ignore_index=True)
    results = results.drop_duplicates(subset=[*CELL, "pool_seed", "selection_seed", "training_seed", "distilled"])
    return results.assign(series=series_of(results), condition=condition_of(results))


def completed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of results with every column that tables ask for.

    What is missing has its neutral value, as in rows of `evaluate.evaluate_set`, which know no folders: 0 for the size
    of the pool, else "". ``series`` and ``condition`` are made where they are missing.
    """
    missing = {name: LATER.get(name, 0 if name == "pool_factor" else "") for name in (*LATER, *CELL)
               if name not in rows}
    rows = rows.assign(**missing).reset_index(drop=True)
    return rows if "series" in rows else rows.assign(series=series_of(rows), condition=condition_of(rows))


def condition_of(rows: pd.DataFrame) -> np.ndarray:
    """Return a readable name for how each row was evaluated: the network, and all else in which conditions differ."""
    place = ["dataset", "protocol", "ipc"]
    within = rows.groupby(place)
    told = [name for name in place[:2] if rows[name].nunique() > 1]
    others = [name for name in CONDITION if name not in (*place, "network")]
    told += [name for name in others if within[name].nunique().max() > 1]

    def name_of(row: tuple) -> str:
        others = (DATASETS.get(value, value) if name in ("dataset", "protocol") else
                  f"{title_of(name).lower()} {shortest(value)}" for name, value in zip(told, row[1:], strict=True))
        return ", ".join([NETWORKS.get(row[0], row[0]), *others])

    return np.array([name_of(row) for row in rows[["network", *told]].itertuples(index=False)], dtype=object)


def shortest(value: object) -> object:
    """Return a number as it is read best, such as 0.00266667 for 4 of 1,500 epochs; any other value as it is."""
    return f"{value:g}" if isinstance(value, float) else value


def series_of(rows: pd.DataFrame) -> np.ndarray:
    """Return a readable name for how each row's images were made.

    It is the method's label, followed in brackets by what else tells this method's rows apart, such as "DGS (hill)";
    two rows have the same name only if they agree in all of `MAKING`. What a row does not have is not told of it.
    """
    rows = rows.reset_index(drop=True)
    names = np.empty(len(rows), dtype=object)
    for method, part in rows.groupby("method", sort=False):
        told = [name for name in MAKING[1:-1] if part[name].nunique() > 1]
        if part.groupby(told or "method")["variant"].nunique().max() > 1:
            told.append("variant")
        told = [name for name in told if name not in _looked_at(part, told)]
        extras = [", ".join(_value(*item) for item in zip(told, values, strict=True) if item[1] != "")
                  for values in part[told].itertuples(index=False)]
        names[part.index] = [f"{LABELS.get(method, method)}{f' ({extra})' if extra else ''}" for extra in extras]
    return names


def _looked_at(part: pd.DataFrame, told: list[str]) -> set[str]:
    """Return which of score and judge tell nothing, since they vary with a cut alone, which looks at both."""
    kinds = part.groupby(told, dropna=False).ngroups if "cut" in told else 0
    return {name for name in ("measure", "judge") if name in told and part[name][part["cut"] != ""].nunique() == 1
            and part.groupby([other for other in told if other != name], dropna=False).ngroups == kinds}


def _value(name: str, value: object) -> str:
    shown = {"pool_factor": "{} × IPC", "variant": "set {}", "bias": "β {}", "fine_tune_seed": "fine-tuned by seed {}",
             "features": "features of {}", "judge": "judged by {}", "cut": "cut {}"}
    return shown.get(name, "{}").format(value)


def main_series(results: pd.DataFrame) -> str:
    """Return which series stands for difficulty-guided sampling: the one nearest to the published choices, or ""."""
    ours = results[results["method"] == "dgs"]
    away = sum((ours[name] != value).to_numpy(dtype=int) for name, value in MAIN.items())
    return "" if ours.empty else str(ours["series"].iloc[away.argmin()])


def title_of(name: str) -> str:
    """Return the heading of a column of results."""
    titles = {"ipc": "IPC", "series": "Method", "pool_factor": "Pool size (× IPC)"}
    return titles.get(name, name[:1].upper() + name[1:].replace("_", " "))
