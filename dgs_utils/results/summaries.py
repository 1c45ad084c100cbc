"""Means over the rows of each cell, and the cells of ablations."""

import numpy as np
import pandas as pd

from dgs_utils.results.protocol_labels import protocol_label
from dgs_utils.results.rows import CELL_KEYS, CONDITION_KEYS, NEEDS_IPC, SEEDS, main_series, seed_numbers, with_names

FULL_SET_SIZE = ("originals", "per_class")  # of the set that was distilled
SIZE_COLUMNS = (*FULL_SET_SIZE, "bytes")  # and of the distilled one
ABLATIONS = ("distribution", "pool_factor", "objective", "measure", "judge", "cut")  # of DGS: the column that varies


def binomial_error(accuracy, n_test):
    """Return the standard error of accuracies (percent) measured on ``n_test`` images, percentage points.

    >>> round(float(binomial_error(50.0, 500)), 2)
    2.24
    """
    fraction = accuracy / 100
    return 100 * np.sqrt(fraction * (1 - fraction) / n_test)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Average the runs of each cell.

    Returns:
        One row a cell: `CELL_KEYS`, series, condition, label (`protocol_labels.protocol_label`), generation;
        best and last: mean top-1, percent; std and last_std (ddof 1, NaN for a single run); optimism (best − last);
        n: runs; pools, selections, trainings: distinct seeds; n_test; test_se: binomial error of one test;
        error: standard error of best over the outermost repeated source of noise, which has so many units;
        set_std: standard deviation over the set_trainings of one set as in published tables (ddof 0, root mean square
        over sets); originals and per_class: images of the full set and of its classes; bytes: of the largest set's
        images and stored soft labels; 0 if unknown.
    """
    results = with_names(results)
    results = results.assign(label=protocol_labels(results), **{name: seed_numbers(results[name]) for name in SEEDS})
    groups = results.groupby([*CELL_KEYS, "series", "condition"], sort=False, dropna=False)
    summary = groups.agg(
        label=("label", "first"), generation=("generation", "first"),
        best=("best", "mean"), std=("best", "std"), last=("last", "mean"),
        last_std=("last", "std"), n=("best", "size"), n_test=("n_test", "max"),
        pools=("pool_seed", "nunique"), selections=("selection_seed", "nunique"),
        trainings=("training_seed", "nunique"), **{name: (name, "max") for name in SIZE_COLUMNS if name in results},
    ).reset_index().assign(**_spread_within_sets(results, groups.ngroup()))
    summary = summary.assign(**{name: 0 for name in SIZE_COLUMNS if name not in summary})
    summary["test_se"] = binomial_error(summary["best"], summary["n_test"])
    summary["optimism"] = summary["best"] - summary["last"]
    errors = [_standard_error(part) for _, part in groups[["best", *SEEDS]]]
    return summary.assign(error=[error for error, _ in errors], units=[units for _, units in errors])


def _spread_within_sets(results: pd.DataFrame, cells: pd.Series) -> dict[str, np.ndarray]:
    """Return set_std and set_trainings of each cell; ``cells`` is the number of each row's cell."""
    of_set = [cells.rename("cell"), *(results[name] for name in (*SEEDS[:2], "distilled") if name in results)]
    sets = results["best"].groupby(of_set, dropna=False)
    squares = sets.var(ddof=0).where(sets.size() > 1).groupby(level="cell").mean()
    return {"set_std": np.sqrt(squares.to_numpy()), "set_trainings": sets.size().groupby(level="cell").max().to_numpy()}


def protocol_labels(results: pd.DataFrame) -> list[str]:
    """Return the protocol label of each row, computed once for rows that agree in all that it depends on."""
    keys = [name for name in (*CONDITION_KEYS, "label", "epochs", "n_test") if name in results]
    groups = results.groupby(keys, dropna=False, sort=False).ngroup()  # of NaN, too, which equals nothing
    labels = [protocol_label(row) for row in results.loc[~groups.duplicated(), keys].to_dict("records")]
    return [labels[number] for number in groups]


def _standard_error(runs: pd.DataFrame) -> tuple[float, int]:
    """Return the standard error of a cell's mean, and its units: runs of one pool or selection are not independent."""
    for seed in SEEDS:
        means = runs.groupby(seed)["best"].mean()
        if len(means) > 1:
            return float(means.std() / np.sqrt(len(means))), len(means)
    return np.nan, 1


def ablated_columns(summary: pd.DataFrame) -> list[str]:
    """Return the columns of `ABLATIONS` that were varied."""
    return [name for name in ABLATIONS if is_ablated(summary, name).any()]


def is_ablated(summary: pd.DataFrame, name: str) -> pd.Series:
    """Return a mask of the rows of DGS that agree with other rows in all but ``name`` (and IPC)."""
    others = [column for column in CELL_KEYS if column not in (name, "ipc", *NEEDS_IPC)]
    lines = summary[summary["method"] == "dgs"].groupby(others, dropna=False)[name]
    return (lines.transform("nunique") > 1).reindex(summary.index, fill_value=False)


def without_ablations(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows outside of ablations, and those of the main series (`rows.main_series`)."""
    left_out = np.logical_or.reduce([is_ablated(summary, name) for name in ABLATIONS])
    return summary[~left_out | (summary["series"] == main_series(summary))]
