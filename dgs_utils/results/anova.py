"""Nested analysis of variance: what pools, selections and trainings each add to the spread of accuracies."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dgs_utils.results.rows import CONDITION_KEYS, SEEDS, UNITS, seed_numbers


@dataclass(frozen=True)
class NestedAnova:
    """Random-effects estimate for trainings within selections within pools.

    Attributes:
        mean: grand mean.
        error: standard error of the mean, over the outermost level that was repeated.
        std: standard deviation that each level adds, by its plural name; 0 for negative estimates. NaN for a level
            without repeats, whose share is part of the next outer repeated one.
        levels: number of each.
    """

    mean: float
    error: float
    std: dict[str, float]
    levels: dict[str, int]


def variance_components(results: pd.DataFrame, measure: str = "best") -> NestedAnova:
    """Split the spread of one method's runs into pools, selections and trainings.

    Args:
        results: rows of one method in one condition, with `rows.SEEDS`: a balanced grid.
        measure: column of accuracies.

    Raises:
        ValueError: an unbalanced grid, or two rows with the same seeds.

    >>> grid = pd.DataFrame({"pool_seed": [0, 0, 1, 1], "selection_seed": 0, "training_seed": [0, 1, 0, 1],
    ...                      "best": [50.0, 52.0, 60.0, 62.0]})
    >>> found = variance_components(grid)
    >>> found.mean, found.error, round(found.std["pools"], 2), round(found.std["trainings"], 2)
    (56.0, 5.0, 7.0, 1.41)
    """
    frame = results[[*SEEDS, measure]].assign(**{name: seed_numbers(results[name]).fillna(-1) for name in SEEDS})
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
    return _nested_anova(frame.sort_values(SEEDS)[measure].to_numpy(dtype=np.float64).reshape(shape))


def _nested_anova(grid: np.ndarray) -> NestedAnova:
    """Estimate from expected mean squares: E[MS] of a level is that of the level within plus (runs below) · σ²."""
    std, means, mean_square, runs = dict.fromkeys(UNITS.values(), np.nan), grid, 0.0, 1
    for axis, name in reversed(list(enumerate(UNITS.values()))):  # trainings, selections, pools
        n, outer = grid.shape[axis], means.mean(axis, keepdims=True)
        if n > 1:
            within = mean_square
            mean_square = runs * ((means - outer) ** 2).sum() / (means.size // n * (n - 1))
            std[name] = float(np.sqrt(max(mean_square - within, 0) / runs))
        means, runs = outer, runs * n
    error = float(np.sqrt(mean_square / grid.size)) if max(grid.shape) > 1 else np.nan
    return NestedAnova(float(grid.mean()), error, std, dict(zip(UNITS.values(), grid.shape, strict=True)))


def anova_table(results: pd.DataFrame, measure: str = "best") -> pd.DataFrame:
    """Return the variance components of each series in every condition with several pools or selections.

    Args:
        results: rows of ``results.csv`` with ``series``.
        measure: column of accuracies.

    Returns:
        One row a condition and series: condition, ipc, series, mean, error, the numbers of pools, selections and
        trainings, std_pools, std_selections and std_trainings; note: why a grid could not be analysed.
    """
    keys, rows = [name for name in (*CONDITION_KEYS, "condition") if name in results], []
    for (*values, series), part in results.groupby([*keys, "series"], sort=False):
        if max(seed_numbers(part[name]).nunique() for name in SEEDS[:2]) < 2:
            continue
        condition = dict(zip(keys, values, strict=True))
        row = {"condition": condition.get("condition", condition["network"]), "ipc": condition["ipc"], "series": series}
        try:
            anova = variance_components(part, measure)
            row |= {"mean": anova.mean, "error": anova.error, "note": "", **anova.levels}
            rows.append(row | {f"std_{name}": value for name, value in anova.std.items()})
        except ValueError as error:
            rows.append(row | {"mean": part[measure].mean(), "note": str(error)})
    return pd.DataFrame(rows)
