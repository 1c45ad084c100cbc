"""Means over the rows of one cell, and which of them belong to ablations."""

import numpy as np
import pandas as pd

from dgs_utils.results.labels import earned_label
from dgs_utils.results.rows import BY_IPC, CELL, CONDITION, SEEDS, condition_of, main_series, numbers_of, series_of

ABLATIONS = ("distribution", "pool_factor", "objective", "measure", "judge", "cut")  # of DGS: the column that varies


def binomial_error(accuracy, n_test):
    """Return the standard error of top-1 accuracies (percent) that comes from testing on ``n_test`` images only."""
    share = accuracy / 100
    return 100 * np.sqrt(share * (1 - share) / n_test)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Average the runs of each cell.

    Returns:
        One row a cell: the columns of `CELL`, ``series``, ``condition``, ``label`` (as earned), ``generation``,
        ``best`` and ``last`` (mean top-1, percent), ``std`` and ``last_std`` (ddof 1, NaN for a single run), ``n``
        (runs), ``pools``, ``selections``, ``trainings`` (distinct seeds of each kind), ``test_se`` (binomial standard
        error of one test, percentage points), ``optimism`` (mean of best − last), and ``error`` with ``units``: the
        standard error of best over the outermost source of noise that was repeated, and how many of that there are.
    """
    if "series" not in results:
        results = results.assign(series=series_of(results), condition=condition_of(results))
    results = results.assign(label=earned_labels(results), **{name: numbers_of(results[name]) for name in SEEDS})
    groups = results.groupby([*CELL, "series", "condition"], sort=False, dropna=False)
    summary = groups.agg(
        label=("label", "first"), generation=("generation", "first"),
        best=("best", "mean"), std=("best", "std"), last=("last", "mean"),
        last_std=("last", "std"), n=("best", "size"), n_test=("n_test", "max"),
        pools=("pool_seed", "nunique"), selections=("selection_seed", "nunique"),
        trainings=("training_seed", "nunique"),
    ).reset_index()
    summary["test_se"] = binomial_error(summary["best"], summary["n_test"])
    summary["optimism"] = summary["best"] - summary["last"]
    errors = [_error(part) for _, part in groups[["best", *SEEDS]]]
    return summary.assign(error=[error for error, _ in errors], units=[units for _, units in errors])


def earned_labels(results: pd.DataFrame) -> list[str]:
    """Return the label that each row has earned (`labels.earned_label`)."""
    told = [*CONDITION, "label", "epochs", "n_test"]
    known = results[[name for name in told if name in results]]
    alike = known.groupby([*known], dropna=False, sort=False).ngroup()  # empty cells are NaN, which equals nothing
    labels = [earned_label(row) for row in known[~alike.duplicated()].to_dict("records")]
    return [labels[number] for number in alike]


def _error(runs: pd.DataFrame) -> tuple[float, int]:
    """Return the standard error of a cell's mean: runs that share a pool, or a selection, are not independent."""
    for seed in SEEDS:
        means = runs.groupby(seed)["best"].mean()
        if len(means) > 1:
            return float(means.std() / np.sqrt(len(means))), len(means)
    return np.nan, 1


def ablations(summary: pd.DataFrame) -> list[str]:
    """Return the names of those ablation tables that have something to compare."""
    return [name for name in ABLATIONS if swept(summary, name).any()]


def swept(summary: pd.DataFrame, name: str) -> pd.Series:
    """Tell the rows of DGS that agree in all but ``name`` (and IPC) with other rows: those of an ablation."""
    others = [column for column in CELL if column not in (name, "ipc", *BY_IPC)]
    lines = summary[summary["method"] == "dgs"].groupby(others, dropna=False)[name]
    return (lines.transform("nunique") > 1).reindex(summary.index, fill_value=False)


def without_ablations(summary: pd.DataFrame) -> pd.DataFrame:
    """Leave out what ablation tables show, but for the one set that stands for the method (`main_series`)."""
    left_out = np.logical_or.reduce([swept(summary, name) for name in ABLATIONS])
    return summary[~left_out | (summary["series"] == main_series(summary))]
