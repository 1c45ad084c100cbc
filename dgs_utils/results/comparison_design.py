"""Pairing of two arms: the seeds that they share, and their unit × training tables."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dgs_utils.results.random_effects import UnitTable
from dgs_utils.results.rows import SEEDS, UNITS, seed_numbers

TableCell = list[tuple[int, int, np.ndarray]]  # (arm, sign, positions of its rows) of every arm; empty: a missing run


@dataclass(frozen=True)
class ComparisonDesign:
    """The compared rows of two arms, and the tables that they fill."""

    arms: tuple[pd.DataFrame, pd.DataFrame]  # with integer seeds; −1 where an arm has none of a kind
    grids: list[list[list[TableCell]]]  # the cells of each table, by unit and training
    sources: list[str]  # what the units of each table are, "pools" or "selections"
    groups: list[list[int]]  # which tables share their trainings

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of pools, selections and trainings, in the arm that has more."""
        return {UNITS[name]: max(arm.loc[arm[name] >= 0, name].nunique() for arm in self.arms) for name in SEEDS}

    @property
    def unrepeated(self) -> list[str]:
        """Sources that an arm samples once ("pool", "selection", "training seed"): the comparison is conditional on
        them.
        """
        one_pool = any(arm["pool_seed"].nunique() == 1 and arm["pool_seed"].iloc[0] >= 0 for arm in self.arms)
        one_selection = any(_unit(arm) is None and arm["selection_seed"].iloc[0] >= 0 for arm in self.arms)
        one_seed = any(arm["training_seed"].nunique() < 2 for arm in self.arms)
        return ["pool"] * one_pool + ["selection"] * one_selection + ["training seed"] * one_seed

    @property
    def has_replicates(self) -> bool:
        """Whether either arm has several units or several trainings, from which its noise can be estimated."""
        for group in self.groups:
            trainings = zip(*(zip(*self.grids[table], strict=True) for table in group), strict=True)
            complete = sum(all(any(cells) for cells in training) for training in trainings)
            if complete < 2 and any(len(self.grids[table]) < 2 for table in group):
                return False
        return True

    def tables(self, values: list[np.ndarray]) -> list[UnitTable]:
        """Return the tables of what was measured in either arm, (rows, …)."""
        missing = np.full(values[0].shape[1:], np.nan)
        filled = [np.array([[_mean(cell, values) if cell else missing for cell in line] for line in grid])
                  for grid in self.grids]
        return [UnitTable(np.moveaxis(table, (0, 1), (-2, -1)), source)
                for table, source in zip(filled, self.sources, strict=True)]

    def runs(self, values: list[np.ndarray]) -> list[np.ndarray]:
        """Return the complete cells of each table, one a line: (cells, …)."""
        return [np.array([_mean(cell, values) for line in grid for cell in line if cell]) for grid in self.grids]


def _mean(cell: TableCell, values: list[np.ndarray]) -> np.ndarray:
    return np.asarray(sum(sign * values[arm][rows].mean(0) for arm, sign, rows in cell))


def build_design(first: pd.DataFrame, second: pd.DataFrame) -> ComparisonDesign:
    """Pair the rows of two arms of one condition.

    For each kind of seed that the arms share, runs with other seeds are left out. Arms that share units and trainings
    fill one table of differences, others a table each.

    Raises:
        ValueError: an arm has two runs with the same seeds, so its name stands for several arms.
    """
    arms = _with_shared_seeds(_with_integer_seeds(first), _with_integer_seeds(second))
    units, seeds = [_unit(arm) for arm in arms], [set(arm["training_seed"]) for arm in arms]
    shares_trainings = bool(seeds[0] & seeds[1])
    paired = shares_trainings and units[0] == units[1] and (
        units[0] is None or bool(set(arms[0][units[0]]) & set(arms[1][units[0]])))
    # Positions of the rows of each arm, by unit and training; all rows are of one unit where there are no others.
    positions = [arm.assign(unit=arm[unit] if unit else -1).groupby(["unit", "training_seed"]).indices
                 for arm, unit in zip(arms, units, strict=True)]
    grids = []
    for signs in [{0: 1, 1: -1}] if paired else [{0: 1}, {1: -1}]:
        levels = sorted(set.intersection(*({level for level, _ in positions[arm]} for arm in signs)))
        trainings = sorted(seeds[next(iter(signs))])
        lines = [[[(arm, sign, positions[arm][level, training]) for arm, sign in signs.items()]
                  if all((level, training) in positions[arm] for arm in signs) else []
                  for training in trainings] for level in levels]
        grids.append([line for line in lines if any(line)])
    tables = range(len(grids))
    return ComparisonDesign(arms, grids, [UNITS[units[table] or SEEDS[1]] for table in tables],
                            [list(tables)] if shares_trainings else [[table] for table in tables])


def _with_integer_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with seeds as integers, −1 where a method has none of that kind."""
    rows = rows.assign(**{name: seed_numbers(rows[name]).fillna(-1).astype(np.int64) for name in SEEDS})
    repeated = rows[rows.duplicated(SEEDS, keep=False)]
    if len(repeated):
        measured = [*SEEDS, "best", "last", "best_epoch", "key", "folder"]
        apart = ", ".join(name for name in repeated if name not in measured and repeated[name].nunique() > 1)
        seeds = ", ".join(f"{name} {seed}" for name, seed in repeated.iloc[0][SEEDS].items())
        raise ValueError(f"an arm has two runs of {seeds}, which differ in {apart or 'nothing'}; compare one series, "
                         f"or leave one of them out")
    return rows.reset_index(drop=True)


def _with_shared_seeds(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows whose seeds the other arm has too, of each kind that they share."""
    arms = [first, second]
    for name in SEEDS:
        if shared := set(arms[0][name]) & set(arms[1][name]) - {-1}:
            arms = [arm[arm[name].isin(shared)] for arm in arms]
    return arms[0].reset_index(drop=True), arms[1].reset_index(drop=True)


def _unit(arm: pd.DataFrame) -> str | None:
    """Return the outermost seed but that of training with several values in an arm."""
    return next((name for name in SEEDS[:2] if arm[name].nunique() > 1), None)
