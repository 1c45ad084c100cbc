"""Nested analysis of variance: what pools, selections and trainings each add to the spread of accuracies."""

import numpy as np
import pandas as pd

from dgs_utils.results.rows import CONDITION_KEYS, SEEDS, UNITS, seed_numbers


def variance_components(results: pd.DataFrame) -> dict[str, float]:
    """Split the spread of one method's best accuracies into trainings within selections within pools.

    Args:
        results: rows of one method in one condition, with `rows.SEEDS`: a balanced grid.

    Returns:
        mean, error (standard error of the mean, over the outermost level that was repeated); the numbers of pools,
        selections and trainings; std_pools, …: the standard deviation that each level adds, 0 for negative estimates,
        NaN for a level without repeats, whose share is part of the next outer repeated one.

    Raises:
        ValueError: an unbalanced grid, or two rows with the same seeds.

    >>> grid = pd.DataFrame({"pool_seed": [0, 0, 1, 1], "selection_seed": 0, "training_seed": [0, 1, 0, 1],
    ...                      "best": [50.0, 52.0, 60.0, 62.0]})
    >>> components = variance_components(grid)
    >>> components["mean"], components["error"], round(components["std_pools"], 2)
    (56.0, 5.0, 7.0)
    """
    frame = results[[*SEEDS, "best"]].assign(**{name: seed_numbers(results[name]).fillna(-1) for name in SEEDS})
    if frame.duplicated(SEEDS).any():
        seeds = frame[frame.duplicated(SEEDS)].iloc[0][SEEDS]
        raise ValueError(f"two rows have {', '.join(f'{name} {seed:.0f}' for name, seed in seeds.items())}; "
                         f"give the runs of one method in one condition")
    pools = frame.groupby("pool_seed")["selection_seed"].nunique()
    selections = frame.groupby(["pool_seed", "selection_seed"]).size()
    if pools.nunique() > 1 or selections.nunique() > 1:
        raise ValueError(f"the grid is not balanced: {pools.min()} to {pools.max()} selections a pool and "
                         f"{selections.min()} to {selections.max()} trainings a selection; run the missing ones")
    shape = (len(pools), int(pools.iloc[0]), int(selections.iloc[0]))
    grid = frame.sort_values(SEEDS)["best"].to_numpy(dtype=np.float64).reshape(shape)
    std, means, mean_square, runs = dict.fromkeys(UNITS.values(), np.nan), grid, 0.0, 1
    # From expected mean squares: E[MS] of a level is that of the level within plus (runs below) · σ².
    for axis, name in reversed(list(enumerate(UNITS.values()))):  # trainings, selections, pools
        n, outer = grid.shape[axis], means.mean(axis, keepdims=True)
        if n > 1:
            within = mean_square
            mean_square = runs * ((means - outer) ** 2).sum() / (means.size // n * (n - 1))
            std[name] = float(np.sqrt(max(mean_square - within, 0) / runs))
        means, runs = outer, runs * n
    error = float(np.sqrt(mean_square / grid.size)) if grid.size > 1 else np.nan
    return {"mean": float(grid.mean()), "error": error, **dict(zip(UNITS.values(), grid.shape, strict=True)),
            **{f"std_{name}": value for name, value in std.items()}}


def anova_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return the variance components of each series in every condition with several pools or selections.

    Returns:
        One row a condition and series: condition, ipc, series, the numbers of `variance_components`, and note: why a
        grid could not be analysed.
    """
    keys, rows = [name for name in (*CONDITION_KEYS, "condition") if name in results], []
    for (*values, series), part in results.groupby([*keys, "series"], sort=False):
        if max(seed_numbers(part[name]).nunique() for name in SEEDS[:2]) < 2:
            continue
        condition = dict(zip(keys, values, strict=True))
        row = {"condition": condition.get("condition", condition["network"]), "ipc": condition["ipc"], "series": series,
               "mean": part["best"].mean(), "error": np.nan, "note": ""}
        try:
            rows.append(row | variance_components(part))
        except ValueError as error:
            rows.append(row | {"note": str(error)})
    return pd.DataFrame(rows)
