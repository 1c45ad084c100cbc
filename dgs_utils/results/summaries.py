"""Means over the rows of one cell, ablations and controls."""

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.results.comparisons import binomial_error, compare_rows
from dgs_utils.results.labels import earned_label
from dgs_utils.results.rows import BY_IPC, CELL, CONDITION, condition_of, main_series, series_of

ABLATIONS = ("distribution", "pool_factor", "objective", "measure", "judge", "cut")  # of DGS: the column that varies


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
    results = results.assign(label=earned_labels(results))
    groups = results.groupby([*CELL, "series", "condition"], sort=False, dropna=False)
    summary = groups.agg(
        label=("label", "first"), generation=("generation", "first"),
        best=("best", "mean"), std=("best", "std"), last=("last", "mean"),
        last_std=("last", "std"), n=("best", "size"), n_test=("n_test", "max"),
        pools=("pool_seed", _distinct), selections=("selection_seed", _distinct),
        trainings=("training_seed", _distinct),
    ).reset_index()
    summary["test_se"] = binomial_error(summary["best"], summary["n_test"])
    summary["optimism"] = summary["best"] - summary["last"]
    errors = [_error(part) for _, part in groups]
    return summary.assign(error=[error for error, _ in errors], units=[units for _, units in errors])


def earned_labels(results: pd.DataFrame) -> list[str]:
    """Return the label that each row has earned (`labels.earned_label`)."""
    told = [*CONDITION, "label", "epochs", "n_test"]
    known = results[[name for name in told if name in results]]
    alike = known.groupby([*known], dropna=False, sort=False).ngroup()  # empty cells are NaN, which equals nothing
    labels = [earned_label(row) for row in known[~alike.duplicated()].to_dict("records")]
    return [labels[number] for number in alike]


def _distinct(seeds: pd.Series) -> int:
    """Count distinct seeds; a method that has none of a kind has ""."""
    return int(seeds[seeds.astype(str) != ""].nunique())


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


def with_controls(results: pd.DataFrame) -> pd.DataFrame:
    """Put the two controls of a result beside it [B §2]: random real images, and random ones of the same pool.

    A control is a control only of its own condition, and for generated sets of its own pool and pool size; runs are
    paired by their seeds (`comparisons.compare`). Where there is no such control there is no value.

    Returns:
        `summarise`, with ``random`` and ``pool_random`` (best of the matched runs, percent), and what the result has
        above each with its 95 % interval: ``over_random``, ``over_random_low``, ``over_random_high``, ``over_pool``, ….
    """
    if "series" not in results:
        results = results.assign(series=series_of(results), condition=condition_of(results))
    results = results.reset_index(drop=True)
    pools = _pool_of(results)
    rows = []
    for values, part in results.groupby([*CELL, "series", "condition"], sort=False, dropna=False):
        place = dict(zip(CELL, values, strict=False))
        alike = np.logical_and.reduce([results[name] == place[name] for name in CONDITION])
        same_pool = (alike & (pools != "") & pools.isin(pools[part.index])
                     & (results["pool_factor"] == place["pool_factor"])
                     & (results["cut"] == "")
                     & (results["fine_tune_seed"] == place["fine_tune_seed"]))
        controls = {"random": alike & (results["method"] == "random") & (results["cut"] == ""),
                    "pool_random": same_pool & (results["method"] == "pool_random")}
        rows.append({name: value for control, chosen in controls.items()
                     for name, value in _over(part, results[chosen], control).items()})
    return pd.concat([summarise(results), pd.DataFrame(rows)], axis=1)


def _pool_of(results: pd.DataFrame) -> pd.Series:
    """Return which pool each row's images are of; "" for other images. Older rows only tell generator and seed."""
    known = results["method"].map(lambda name: METHODS[name].source == "pool" if name in METHODS else False)
    generator = results["method"].map(lambda name: (METHODS[name].generator if name in METHODS else "") or "minimax")
    older = generator + " " + results["pool_seed"].astype(str)
    return results["pool"].where(results["pool"] != "", older).where(known, "")


def _over(part: pd.DataFrame, control: pd.DataFrame, name: str) -> dict[str, float]:
    over = f"over_{name.removesuffix('_random')}"
    found = dict.fromkeys((name, over, f"{over}_low", f"{over}_high"), np.nan)
    is_control = part["method"].iloc[0] in ("random", name) and part["cut"].iloc[0] == ""
    if control.empty or control["series"].nunique() > 1 or is_control:
        return found
    compared = compare_rows(part, control)
    return {name: part["best"].mean() - compared.difference, over: compared.difference,
            f"{over}_low": compared.low, f"{over}_high": compared.high}


def without_ablations(summary: pd.DataFrame) -> pd.DataFrame:
    """Leave out what ablation tables show, but for the one set that stands for the method (`main_series`)."""
    left_out = np.logical_or.reduce([swept(summary, name) for name in ABLATIONS])
    return summary[~left_out | (summary["series"] == main_series(summary))]
