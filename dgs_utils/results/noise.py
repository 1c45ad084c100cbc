"""Where the noise comes from: variance components of pools, selections and trainings."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ncfdtr

from dgs_utils.results.effects import t_limit
from dgs_utils.results.rows import CONDITION, SEEDS, numbers_of


@dataclass(frozen=True)
class Components:
    """Random-effects estimate of a nested design: pools, selections within a pool, trainings within a selection.

    Attributes:
        mean: grand mean.
        error: standard error of the grand mean, over the outermost level that was repeated.
        std: standard deviation that each level adds, by its plural name. NaN where it was not repeated: what it adds is
            then part of the next outer level that was, or of none. 0 where its estimate came out negative.
        levels: number of each.
    """

    mean: float
    error: float
    std: dict[str, float]
    levels: dict[str, int]


def variance_components(results: pd.DataFrame, measure: str = "best") -> Components:
    """Split the spread of one method's runs into what pools, selections and trainings add, by analysis of variance.

    Args:
        results: rows of one method in one condition, with `SEEDS`; each pool needs the same number of selections, and
            each selection the same number of trainings.
        measure: column with accuracies.

    Raises:
        ValueError: an unbalanced grid, or the same three seeds twice.
    """
    frame = results[[*SEEDS, measure]].assign(**{name: numbers_of(results[name]).fillna(-1) for name in SEEDS})
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
    grid = frame.sort_values(SEEDS)[measure].to_numpy(dtype=np.float64).reshape(shape)
    return _nested_components(grid)


def _nested_components(grid: np.ndarray) -> Components:
    """Estimate from expected mean squares: E[MS] of a level is that of the level within plus (cells below) · σ²."""
    squares, below = [], grid
    for axis in (2, 1, 0):  # trainings, selections, pools
        n = below.shape[axis]
        means = below.mean(axis, keepdims=True)
        copies = grid.size // below.size  # runs behind each of these means
        groups = below.size // n
        squares.append(copies * ((below - means) ** 2).sum() / (groups * (n - 1)) if n > 1 else np.nan)
        below = means
    std, within, size = {}, 0.0, 1
    for name, square, n in zip(("trainings", "selections", "pools"), squares, grid.shape[::-1], strict=True):
        std[name] = float(np.sqrt(max(square - within, 0) / size)) if n > 1 else np.nan
        within = square if n > 1 else within
        size *= n
    repeated = [square for square, n in zip(squares, grid.shape[::-1], strict=True) if n > 1]
    error = float(np.sqrt(repeated[-1] / grid.size)) if repeated else np.nan
    order = ("pools", "selections", "trainings")
    return Components(float(grid.mean()), error, {name: std[name] for name in order},
                      dict(zip(order, grid.shape, strict=True)))


def sources_of_noise(results: pd.DataFrame, measure: str = "best", gain: float = 2.0) -> pd.DataFrame:
    """Return where the spread of each series comes from, in every condition with several pools or selections.

    Args:
        results: rows of ``results.csv`` with ``series``.
        measure: column with accuracies.
        gain: see `pools_needed`, percentage points.

    Returns:
        One row a condition and series: condition, ipc, series, mean, error, and for pools, selections and trainings the
        number and what that level adds to the standard deviation; pools_for_gain is how many pools an arm needs
        for that gain if each were trained on as here (NaN with a single pool), note why a grid could not be analysed.
    """
    condition = [name for name in (*CONDITION, "condition") if name in results]
    rows = []
    for (*values, series), part in results.groupby([*condition, "series"], sort=False):
        if max(numbers_of(part[name]).nunique() for name in SEEDS[:2]) < 2:
            continue
        place = dict(zip(condition, values, strict=True))
        row = {"condition": place.get("condition", place["network"]), "ipc": place["ipc"], "series": series}
        try:
            found = variance_components(part, measure)
        except ValueError as error:
            rows.append(row | {"mean": part[measure].mean(), "note": str(error)})
            continue
        between = found.error * np.sqrt(found.levels["pools"]) if found.levels["pools"] > 1 else np.nan
        rows.append(row | {"mean": found.mean, "error": found.error, "note": ""}
                    | {name: count for name, count in found.levels.items()}
                    | {f"std_{name}": value for name, value in found.std.items()}
                    | {"pools_for_gain": np.nan if np.isnan(between) else pools_needed(between, gain)})
    return pd.DataFrame(rows)


def pools_needed(std: float, gain: float = 2.0, power: float = 0.8, level: float = 0.05) -> int:
    """Return how many pools each of two arms needs, for a two-sided t test to find a gain (by the noncentral t
    distribution, whose square is a noncentral F).

    Args:
        std: standard deviation between pools, percentage points.
        gain: true difference, percentage points.
        power: probability of finding it.
        level: significance level.
    """
    if std == 0:
        return 2
    for n in range(2, 100_000):
        missed = ncfdtr(1, 2 * n - 2, (gain / std) ** 2 * n / 2, t_limit(2 * n - 2, level) ** 2)
        if not missed > 1 - power:  # NaN where it is too near zero to be computed
            return n
    raise ValueError(f"a gain of {gain} with a deviation of {std} needs more than 100,000 pools")
