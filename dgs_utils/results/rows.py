"""Rows of results: their columns, reading them, and names for what distinguishes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.params import paper
from dgs_utils.params.types import SMALL_STEM, is_library_network
from dgs_utils.runtime.table_io import read_table

SEEDS = ["pool_seed", "selection_seed", "training_seed"]  # from the outermost source of noise to the innermost
UNITS = dict(zip(SEEDS, ("pools", "selections", "trainings"), strict=True))

# Runs that differ in any of these are never compared.
CONDITION_KEYS = ["protocol", "dataset", "split", "test_list", "prepare_seed", "image_size", "epoch_factor",
                  "batch_size", "learning_rate", "augment", "flip", "precision", "evaluations", "teacher",
                  "soft_labels", "network", "norm", "ipc"]
NEEDS_IPC = ("epoch_factor", "batch_size", "evaluations")  # epochs are whole; the full set is tested every epoch
# How the images of a set were made.
SET_KEYS = ["method", "generator", "distribution", "pool_factor", "objective", "measure", "judge", "cut", "compute",
            "budget", "bias", "features", "fine_tune_seed", "variant"]
CELL_KEYS = [*CONDITION_KEYS, *SET_KEYS]  # runs that agree in all of these are averaged

NETWORK_TITLES = {
    "convnet3": "ConvNet-3", "convnet4": "ConvNet-4", "convnet5": "ConvNet-5", "convnet6": "ConvNet-6",
    "resnet_ap10": "ResNetAP-10", "resnet18": "ResNet-18",
}
DATASET_TITLES = {"imagewoof": "ImageWoof", "imagenette": "ImageNette", "imageidc": "ImageIDC",
                  "imagenet100": "ImageNet-100", "imagenet1k": "ImageNet-1k",
                  "fashion": "Fashion-MNIST", "cifar10": "CIFAR-10"}
NUMBERS = ("ipc", "best", "last", "n_test")  # columns without which a row is no result
METHOD_LABELS = {name: method.label for name, method in METHODS.items()}
PAPER_METHOD_LABELS = {"Ours": "DGS", "Full Dataset": "Full", "Random": "First files"}  # [F §9.4]
SHAPES = ["hill", "ground", "slope", "cliff", "uniform", "scale"]  # in the order of the paper's Table 3

TEXTS = ("method", "distribution", "objective", "measure", "judge", "rule", "cut", "compute", "budget", "bias",
         "variant", "dataset", "distilled", "label", "test_list", "prepare_seed", "fine_tune_seed", "pool_seed",
         "selection_seed", "pool", "generator", "generation", "features", "teacher", "soft_labels")  # columns
# Neutral values of columns that rows from elsewhere lack.
COLUMN_DEFAULTS = {**dict.fromkeys(TEXTS, ""), "evaluations": 0, "augment": True, "steps": 0, "originals": 0,
                   "per_class": 0.0}


def read_results(paths: Sequence[Path]) -> pd.DataFrame:
    """Read and join the rows of 06 folders (``results.csv``) or of such files, one a training, accuracies in percent.

    Missing columns get `COLUMN_DEFAULTS`; ``folder`` ("" for a file), ``series`` (`series_names`) and ``condition``
    (`condition_names`) are added; repeated rows are dropped.

    Raises:
        ValueError: no paths, or a file that cannot be read or lacks rows, a column, or numbers in one.
    """
    if not paths:
        raise ValueError("no evaluation folders were given; run notebook 06 first or list its folders in evaluations")
    frames = []
    for path in map(Path, paths):
        is_file = path.suffix == ".csv"
        file = path if is_file else path / "results.csv"
        frame = read_table(file, (*TEXTS, "key"))
        check_columns(frame, file)
        missing = {name: value for name, value in COLUMN_DEFAULTS.items() if name not in frame}
        frames.append(frame.assign(folder="" if is_file else str(path), **missing))
    results = pd.concat(frames, ignore_index=True)
    results = results.drop_duplicates(subset=[*CELL_KEYS, *SEEDS, "distilled"])
    return results.assign(series=series_names(results), condition=condition_names(results))


def read_folders(folders: Sequence[Path]) -> pd.DataFrame:
    """Read rows of 06 folders (`read_results`), sorted by arm and seed, whatever the order of the folders."""
    return sort_rows(read_results(folders), [*SET_KEYS, *SEEDS])


def check_columns(rows: pd.DataFrame, file: Path) -> None:
    """Raise ValueError if rows of results lack a column without a neutral value, or numbers where they belong."""
    for name in [*CELL_KEYS, *SEEDS, *NUMBERS]:
        if name not in rows and name not in COLUMN_DEFAULTS:
            raise ValueError(f"{file} has no column {name}; run notebook 06 again, or give a file of its rows")
    for name in NUMBERS:
        if rows.empty or not pd.api.types.is_numeric_dtype(rows[name]) or rows[name].isna().any():
            raise ValueError(f"{file} has no number in each row of column {name}; run notebook 06 again, or correct it")


def fill_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of `evaluate.evaluate_set`, which have no folders, with every column that tables need."""
    missing = {name: COLUMN_DEFAULTS.get(name, 0 if name == "pool_factor" else "")
               for name in (*COLUMN_DEFAULTS, *CELL_KEYS) if name not in rows}
    return with_names(rows.assign(**missing).reset_index(drop=True))


def with_names(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with ``series`` and ``condition``, which are added if missing."""
    return rows if "series" in rows else rows.assign(series=series_names(rows), condition=condition_names(rows))


def network_title(name: str) -> str:
    """Return the title of a network: the field's for ours, and the library's name for a library's.

    >>> network_title("resnet18"), network_title("timm:resnet18@small")
    ('ResNet-18', 'resnet18 of timm, small stem')
    """
    library, _, plain = name.rpartition(":")
    title = f"{plain.removesuffix(SMALL_STEM)} of {library}{', small stem' * plain.endswith(SMALL_STEM)}"
    return title if is_library_network(name) else NETWORK_TITLES.get(name, name)


def seed_numbers(seeds: pd.Series) -> pd.Series:
    """Return seeds as numbers, NaN for methods without a seed of that kind.

    >>> seed_numbers(pd.Series(["3", ""])).tolist()
    [3.0, nan]
    """
    return pd.to_numeric(seeds, errors="coerce")


def condition_names(rows: pd.DataFrame) -> np.ndarray:
    """Return a readable name for the condition of each row: the network, and the other keys in which rows differ."""
    setting = ["dataset", "protocol", "ipc"]
    within = rows.groupby(setting)
    keys = [name for name in setting[:2] if rows[name].nunique() > 1]
    keys += [name for name in CONDITION_KEYS if name not in (*setting, "network") and within[name].nunique().max() > 1]

    def name_of(row: tuple) -> str:
        others = (DATASET_TITLES.get(value, value) if name in ("dataset", "protocol") else
                  f"{column_title(name).lower()} {format_value(value)}"
                  for name, value in zip(keys, row[1:], strict=True))
        return ", ".join([network_title(row[0]), *others])

    return np.array([name_of(row) for row in rows[["network", *keys]].itertuples(index=False)], dtype=object)


def series_names(rows: pd.DataFrame) -> np.ndarray:
    """Return a readable name for how the images of each row were made, such as "DGS (hill)".

    The label of the method is followed by whatever distinguishes rows of that method; rows have the same name only if
    they agree in all of `SET_KEYS`.
    """
    rows = rows.reset_index(drop=True)
    names = np.empty(len(rows), dtype=object)
    for method, part in rows.groupby("method", sort=False):
        keys = [name for name in SET_KEYS[1:-1] if part[name].nunique() > 1 or (name == "budget" and part[name].any())]
        if part.groupby(keys or "method")["variant"].nunique().max() > 1:
            keys.append("variant")
        keys = [name for name in keys if name not in _redundant_with_cut(part, keys)]
        extras = [", ".join(_choice(*item) for item in zip(keys, values, strict=True) if item[1] != "")
                  for values in part[keys].itertuples(index=False)]
        names[part.index] = [f"{METHOD_LABELS.get(method, method)}{f' ({extra})' if extra else ''}" for extra in extras]
    return names


def _redundant_with_cut(part: pd.DataFrame, keys: list[str]) -> set[str]:
    """Return those of score and scorer that differ only between rows with and without a cut, which uses both."""
    kinds = part.groupby(keys, dropna=False).ngroups if "cut" in keys else 0
    return {name for name in ("measure", "judge") if name in keys and part[name][part["cut"] != ""].nunique() == 1
            and part.groupby([other for other in keys if other != name], dropna=False).ngroups == kinds}


def _choice(name: str, value: object) -> str:
    formats = {"pool_factor": "{} × IPC", "variant": "set {}", "bias": "β {}", "features": "features of {}",
               "fine_tune_seed": "fine-tuned by seed {}", "judge": "scored by {}", "cut": "cut {}"}
    return formats.get(name, "{}").format(value)


def format_value(value: object) -> object:
    """Return a number in its shortest form, and other values unchanged.

    >>> format_value(4 / 1500)
    '0.00266667'
    """
    return f"{value:g}" if isinstance(value, float) else value


def column_title(name: str) -> str:
    """Return the heading of a column of results.

    >>> column_title("ipc"), column_title("batch_size")
    ('IPC', 'Batch size')
    """
    titles = {"ipc": "IPC", "series": "Method", "pool_factor": "Pool size", "judge": "Scorer"}
    return titles.get(name, name[:1].upper() + name[1:].replace("_", " "))


def sort_rows(rows: pd.DataFrame, by: Sequence[str] = SET_KEYS) -> pd.DataFrame:
    """Return rows sorted by some columns: methods as in `METHODS`, shapes as in `SHAPES`, unknown ones last."""
    orders = {"method": list(METHODS), "distribution": SHAPES}

    def ranks(column: pd.Series) -> pd.Series:
        order = {name: rank for rank, name in enumerate(orders.get(str(column.name), ()))}
        return column.map(order).fillna(len(order)) if order else column

    return rows.sort_values(list(by), key=ranks, kind="stable")


def main_series(results: pd.DataFrame) -> str:
    """Return the series of difficulty-guided sampling that is nearest to the published choices, or ""."""
    ours = results[results["method"] == "dgs"]
    differences = sum((ours[name] != value).to_numpy(dtype=int) for name, value in paper.CHOICES.items())
    return "" if ours.empty else str(ours["series"].iloc[differences.argmin()])
