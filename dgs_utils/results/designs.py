"""How the runs of two arms go together: which seeds they share, and which tables of units by trainings they fill."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dgs_utils.results.effects import Table
from dgs_utils.results.rows import SEEDS, UNITS, numbers_of

Cell = list[tuple[int, int, np.ndarray]]  # (arm, sign, places of its rows) of every arm in it; empty: a run is missing


@dataclass(frozen=True)
class Design:
    """Two arms' rows, arranged.

    Attributes:
        sides: the rows of either arm that are compared, with whole numbers for seeds, −1 where it has none of a kind.
        cells: of each table, by unit and training.
        sources: of each table, what its units are.
        groups: which tables have their trainings in common.
    """

    sides: tuple[pd.DataFrame, pd.DataFrame]
    cells: list[list[list[Cell]]]
    sources: list[str]
    groups: list[list[int]]

    @property
    def is_empty(self) -> bool:
        """Whether an arm has no run that can be compared."""
        return any(not table for table in self.cells)

    @property
    def counts(self) -> dict[str, int]:
        """How many pools, selections and trainings there are, in the arm that has more."""
        return {UNITS[name]: max(side.loc[side[name] >= 0, name].nunique() for side in self.sides) for name in SEEDS}

    @property
    def given(self) -> list[str]:
        """Of what an arm has only one, so that nothing is known of others: "pool", "selection", "training seed"."""
        one_pool = any(side["pool_seed"].nunique() == 1 and side["pool_seed"].iloc[0] >= 0 for side in self.sides)
        one_selection = any(_unit(side) is None and side["selection_seed"].iloc[0] >= 0 for side in self.sides)
        one_seed = any(side["training_seed"].nunique() < 2 for side in self.sides)
        return ["pool"] * one_pool + ["selection"] * one_selection + ["training seed"] * one_seed

    @property
    def is_repeated(self) -> bool:
        """Whether the noise of either arm shows: in several units, or in several trainings."""
        for group in self.groups:
            columns = zip(*(zip(*self.cells[table], strict=True) for table in group), strict=True)
            trainings = sum(all(any(cells) for cells in column) for column in columns)
            if trainings < 2 and any(len(self.cells[table]) < 2 for table in group):
                return False
        return True

    def tables(self, values: list[np.ndarray]) -> list[Table]:
        """Fill the tables with what was measured: of either arm (rows, …), as `effects.terms_of` takes them."""
        found = []
        for grid, source in zip(self.cells, self.sources, strict=True):
            shape = values[0].shape[1:]
            filled = np.array([[_mean(cell, values) if cell else np.full(shape, np.nan) for cell in line]
                               for line in grid])
            found.append(Table(np.moveaxis(filled, (0, 1), (-2, -1)), source))
        return found

    def runs(self, values: list[np.ndarray]) -> list[np.ndarray]:
        """Return the same as one line a cell, missing ones left out: (cells, …) of each table."""
        return [np.array([_mean(cell, values) for line in grid for cell in line if cell]) for grid in self.cells]


def _mean(cell: Cell, values: list[np.ndarray]) -> np.ndarray:
    return np.asarray(sum(sign * values[side][rows].mean(0) for side, sign, rows in cell))


def arrange(first: pd.DataFrame, second: pd.DataFrame) -> Design:
    """Arrange the rows of two arms in one condition.

    Of each kind of seed of which the arms have some in common, the others are left out. Arms whose units and trainings
    are in common fill one table of differences, others a table each.

    Raises:
        ValueError: an arm has two runs of the same seeds, so that its name stands for several arms.
    """
    sides = _shared_seeds(_plain(first), _plain(second))
    units, seeds = [_unit(side) for side in sides], [set(side["training_seed"]) for side in sides]
    together = bool(seeds[0] & seeds[1])
    paired = together and units[0] == units[1] and (
        units[0] is None or bool(set(sides[0][units[0]]) & set(sides[1][units[0]])))
    grids = []
    for members in [{0: 1, 1: -1}] if paired else [{0: 1}, {1: -1}]:
        arm = next(iter(members))
        unit, trainings = units[arm], sorted(seeds[arm])
        levels = [-1] if unit is None else sorted(set.intersection(*(set(sides[side][unit]) for side in members)))
        lines = [[_cell(sides, members, unit, level, training) for training in trainings] for level in levels]
        grids.append([line for line in lines if any(line)])
    groups = [list(range(len(grids)))] if together else [[place] for place in range(len(grids))]
    sources = [UNITS[units[place] or SEEDS[1]] for place in range(len(grids))]
    return Design(sides, grids, sources, groups)


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with seeds as whole numbers, −1 where a method has none of that kind."""
    rows = rows.assign(**{name: numbers_of(rows[name]).fillna(-1).astype(np.int64) for name in SEEDS})
    twice = rows[rows.duplicated(SEEDS, keep=False)]
    if len(twice):
        measured = [*SEEDS, "best", "last", "best_epoch", "key", "folder"]
        apart = ", ".join(name for name in twice if name not in measured and twice[name].nunique() > 1)
        seeds = ", ".join(f"{name} {seed}" for name, seed in twice.iloc[0][SEEDS].items())
        raise ValueError(f"an arm has two runs of {seeds}, which differ in {apart or 'nothing'}; compare one series, "
                         f"or leave one of them out")
    return rows.reset_index(drop=True)


def _shared_seeds(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows whose seeds the other arm has too, of each kind of which they have any in common."""
    sides = [first, second]
    for name in SEEDS:
        common = set(sides[0][name]) & set(sides[1][name]) - {-1}
        if common:
            sides = [side[side[name].isin(common)] for side in sides]
    return sides[0].reset_index(drop=True), sides[1].reset_index(drop=True)


def _unit(side: pd.DataFrame) -> str | None:
    """Return the outermost seed of which an arm has several, trainings apart."""
    return next((name for name in SEEDS[:2] if side[name].nunique() > 1), None)


def _cell(sides: tuple, members: dict[int, int], unit: str | None, level: int, training: int) -> Cell:
    """Return the rows of one unit and training, of every arm of a table; nothing where one of them is missing."""
    found = []
    for side, sign in members.items():
        chosen = sides[side]["training_seed"].to_numpy() == training
        chosen &= True if unit is None else sides[side][unit].to_numpy() == level
        found.append((side, sign, np.flatnonzero(chosen)))
    return found if all(len(runs) for _, _, runs in found) else []
