"""Variance components against closed formulas and simulation."""

import math

import numpy as np
import pandas as pd
import pytest

from dgs_utils.results.anova import anova_table, variance_components
from dgs_utils.results.rows import SEEDS


def rows(method: str, seeds: list[tuple], best: list[float], **condition) -> pd.DataFrame:
    columns = {"protocol": "idc", "dataset": "digits", "network": "convnet3", "ipc": 10, "method": method, **condition}
    frame = pd.DataFrame(seeds, columns=SEEDS).assign(best=best, **columns)
    return frame


def grid_rows(grid: np.ndarray) -> pd.DataFrame:
    seeds = list(np.ndindex(grid.shape))
    frame = rows("dgs", seeds, grid.ravel().tolist())
    return frame.sample(frac=1, random_state=0)  # order must not matter


def test_components_by_hand():
    grid = np.array([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [10.0, 14.0]]])
    found = variance_components(grid_rows(grid))
    trainings = (2 + 2 + 0 + 8) / 4
    selections = 2 * ((4**2) / 2 + (10**2) / 2) / 2  # T · Σ(mean − pool mean)² / (P (S − 1))
    pools = 4 * ((7.0 - 4.0) ** 2 / 2) / 1
    assert found["mean"] == grid.mean()
    assert found["std_trainings"] == pytest.approx(trainings**0.5)
    assert found["std_selections"] == pytest.approx(((selections - trainings) / 2) ** 0.5)
    assert pools < selections
    assert found["std_pools"] == 0  # its estimate is negative
    assert found["error"] == pytest.approx((pools / 8) ** 0.5)
    assert found["pools"] == found["selections"] == found["trainings"] == 2


def test_components_recover_what_was_put_in():
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(200):
        grid = 2.0 * rng.normal(size=(6, 1, 1)) + 1.0 * rng.normal(size=(6, 4, 1)) + 0.5 * rng.normal(size=(6, 4, 3))
        found = variance_components(grid_rows(40 + grid))
        estimates.append([found[f"std_{name}"] ** 2 for name in ("pools", "selections", "trainings")])
    assert np.mean(estimates, axis=0) == pytest.approx([4.0, 1.0, 0.25], rel=0.15)


@pytest.mark.parametrize(("shape", "known"), [((1, 1, 3), ["trainings"]), ((3, 1, 1), ["pools"]),
                                              ((3, 1, 4), ["pools", "trainings"]), ((1, 1, 1), [])])
def test_a_level_that_was_not_repeated_has_no_number(shape, known):
    grid = np.random.default_rng(0).normal(40, 2, shape)
    found = variance_components(grid_rows(grid))
    assert [name for name in ("pools", "selections", "trainings") if not math.isnan(found[f"std_{name}"])] == known
    if known and len(known) == 1:
        assert found[f"std_{known[0]}"] == pytest.approx(grid.std(ddof=1))
        assert found["error"] == pytest.approx(grid.std(ddof=1) / grid.size**0.5)
    assert math.isnan(found["error"]) == (not known)


def test_an_unbalanced_grid_is_refused():
    frame = grid_rows(np.ones((2, 2, 2))).sort_values(SEEDS)
    with pytest.raises(ValueError, match="1 to 2 trainings a selection; run the missing ones"):
        variance_components(frame.iloc[1:])
    with pytest.raises(ValueError, match="two rows have pool_seed 0, selection_seed 0, training_seed 0"):
        variance_components(pd.concat([frame, frame.iloc[:1]]))

PLACE = {"protocol": "idc", "dataset": "digits", "network": "convnet3", "ipc": 10, "augment": True, "epoch_factor": 1.0}


def test_noise_is_told_for_series_with_several_pools():
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(4, 1, 3)) + 3 * rng.normal(size=(4, 1, 1)) + 50
    rows = [{**PLACE, "series": "DGS", "pool_seed": pool, "selection_seed": 0, "training_seed": seed,
             "best": grid[pool, 0, seed]} for pool in range(4) for seed in range(3)]
    rows += [{**PLACE, "series": "Random", "pool_seed": "", "selection_seed": 0, "training_seed": seed, "best": 40.0}
             for seed in range(3)]
    [row] = anova_table(pd.DataFrame(rows)).to_dict("records")
    means = grid.mean((1, 2))
    assert (row["series"], row["pools"], row["trainings"]) == ("DGS", 4, 3)
    assert row["std_trainings"] == pytest.approx(grid.std(axis=2, ddof=1).__pow__(2).mean() ** 0.5)
    assert row["std_pools"] == pytest.approx((means.var(ddof=1) - row["std_trainings"] ** 2 / 3) ** 0.5)
    [row] = anova_table(pd.DataFrame(rows[1:])).to_dict("records")
    assert "not balanced" in row["note"]
