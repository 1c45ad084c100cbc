"""Means over the rows of one cell, ablations and controls."""

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.results.comparisons import binomial_error
from dgs_utils.results.rows import BY_IPC, CELL, CONDITION, condition_of, main_series, series_of

ABLATIONS = ("distribution", "pool_factor", "objective", "measure")  # of DGS: the summary column that varies


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Average the runs of each cell.

    Returns:
        One row a cell: the columns of `CELL`, ``series``, ``condition``, ``label`` (of the protocol), ``best`` and
        ``last`` (mean top-1, percent), ``std`` and ``last_std`` (ddof 1, NaN for a single run), ``n`` (runs),
        ``pools``, ``selections``, ``trainings`` (distinct seeds of each kind), ``test_se`` (binomial standard error of
        one test, percentage points), ``optimism`` (mean of best − last), and ``error`` with ``units``: the standard
        error of best over the outermost source of noise that was repeated, and how many of that there are.
    """
    if "series" not in results:
        results = results.assign(series=series_of(results), condition=condition_of(results))
    groups = results.groupby([*CELL, "series", "condition"], sort=False, dropna=False)
    summary = groups.agg(
        label=("label", "first"),
        best=("best", "mean"), std=("best", "std"), last=("last", "mean"),
        last_std=("last", "std"), n=("best", "size"), n_test=("n_test", "max"),
        pools=("pool_seed", "nunique"), selections=("selection_seed", "nunique"),
        trainings=("training_seed", "nunique"),
    ).reset_index()
    summary["test_se"] = binomial_error(summary["best"], summary["n_test"])
    summary["optimism"] = summary["best"] - summary["last"]
    errors = [_error(part) for _, part in groups]
    return summary.assign(error=[error for error, _ in errors], units=[units for _, units in errors])


def _error(runs: pd.DataFrame) -> tuple[float, int]:
    """Return the standard error of a cell's mean: runs that share a pool, or a selection, are not independent."""
    for seed in ("pool_seed", "selection_seed", "training_seed"):
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


def with_controls(summary: pd.DataFrame) -> pd.DataFrame:
    """Put the two controls of a result beside it [B §2]: random real images, and random ones of the same pool.

    Returns:
        The summary with ``random`` and ``pool_random`` (best, percent; NaN where not run, or no pool was used) and what
        the result has above each: ``over_random``, ``over_pool``.
    """
    def best_of(method: str, keys: list[str]) -> pd.DataFrame:
        found = summary[summary["method"] == method]
        return found.groupby(keys, dropna=False)["best"].mean().rename(method).reset_index()

    pooled = summary["method"].map(lambda method: method in METHODS and METHODS[method].source == "pool")
    table = summary.merge(best_of("random", CONDITION), on=CONDITION, how="left")
    table = table.merge(best_of("pool_random", CONDITION), on=CONDITION, how="left")
    table.loc[~pooled.to_numpy(), "pool_random"] = np.nan
    return table.assign(over_random=table["best"] - table["random"], over_pool=table["best"] - table["pool_random"])


def without_ablations(summary: pd.DataFrame) -> pd.DataFrame:
    """Leave out what ablation tables show, but for the one set that stands for the method (`main_series`)."""
    left_out = np.logical_or.reduce([swept(summary, name) for name in ABLATIONS])
    return summary[~left_out | (summary["series"] == main_series(summary))]
