"""Means over cells: statistics by hand, and which runs are averaged."""

import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_rows import BASE, rows, runs

from dgs_utils.results.rows import CELL_KEYS
from dgs_utils.results.summaries import binomial_error, summarise


@settings(max_examples=40, deadline=None)
@given(best=st.lists(st.floats(0, 100), min_size=1, max_size=6), drop=st.floats(0, 5), n_test=st.integers(1, 5000))
def test_statistics_of_a_cell(best, drop, n_test):
    results = runs(best, n_test=n_test).assign(last=[b - drop for b in best])
    [cell] = summarise(results).to_dict("records")
    n, mean = len(best), sum(best) / len(best)
    assert cell["best"] == pytest.approx(mean)
    assert cell["n"] == cell["trainings"] == n
    if n > 1:
        spread = (sum((b - mean) ** 2 for b in best) / (n - 1)) ** 0.5
        assert cell["std"] == pytest.approx(spread, abs=1e-9)
    else:
        assert np.isnan(cell["std"])
    assert cell["optimism"] == pytest.approx(drop, abs=1e-9)
    assert cell["test_se"] == pytest.approx((mean * max(100 - mean, 0) / n_test) ** 0.5, abs=1e-6)


def test_seeds_of_each_kind_are_counted_apart():
    results = rows({"pool_seed": 0, "selection_seed": 0, "training_seed": 0},
                   {"pool_seed": 1, "selection_seed": 0, "training_seed": 0},
                   {"pool_seed": 1, "selection_seed": 7, "training_seed": 0},
                   {"pool_seed": 1, "selection_seed": 8, "training_seed": 0})
    [cell] = summarise(results).to_dict("records")
    assert [cell[name] for name in ("n", "pools", "selections", "trainings")] == [4, 2, 3, 1]
    [cell] = summarise(rows({"pool_seed": "", "selection_seed": ""})).to_dict("records")
    assert [cell[name] for name in ("pools", "selections", "trainings")] == [0, 0, 1]  # it has none of these


@pytest.mark.parametrize("column", CELL_KEYS)
def test_runs_that_differ_in_anything_but_seeds_are_never_averaged(column):
    other = 7 if isinstance(BASE[column], (int, float)) else "other"
    summary = summarise(pd.concat([runs([40, 50]), runs([60, 80], **{column: other})]))
    assert summary["best"].tolist() == [45, 70]


def test_spread_over_the_trainings_of_one_set_by_hand():
    draws = np.random.default_rng(0).normal(50, 5, (2, 3, 4))  # pools × selections × trainings
    results = rows(*[{"pool_seed": p, "selection_seed": s, "training_seed": t, "best": best}
                     for (p, s, t), best in np.ndenumerate(draws)])
    [cell] = summarise(results).to_dict("records")
    assert cell["set_std"] == pytest.approx(np.sqrt(np.mean(np.var(draws, axis=2))))
    assert (cell["set_trainings"], cell["n"]) == (4, 24)
    assert cell["std"] == pytest.approx(np.std(draws, ddof=1))
    [cell] = summarise(results[results["training_seed"] == 0]).to_dict("records")
    assert np.isnan(cell["set_std"])  # no set was trained on twice


def test_runs_of_one_pool_are_not_independent():
    results = rows(*[{"pool_seed": pool, "training_seed": seed, "best": 40 + 6 * pool + seed}
                     for pool in range(3) for seed in range(4)])
    [cell] = summarise(results).to_dict("records")
    assert cell["units"] == 3
    assert cell["error"] == pytest.approx(6 / 3**0.5)

APART = {"prepare_seed": ["0", "1"], "fine_tune_seed": ["0", "1"], "test_list": ["a", "b"], "image_size": [224, 64],
         "split": ["imagenet", "fastai"], "epoch_factor": [1.0, 0.5], "teacher": ["", "t"], "features": ["", "f"]}

REPEATED = ("pool_seed", "selection_seed", "training_seed")

ROW = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in APART.items()}
                            | {name: st.integers(0, 2) for name in REPEATED} | {"best": st.floats(0, 100)})


@settings(max_examples=25, deadline=None)
@given(st.lists(ROW, min_size=2, max_size=20))
def test_a_cell_holds_runs_that_differ_in_their_seeds_alone(found):
    cells = {}
    for row in found:
        cells.setdefault(tuple(row[name] for name in APART), []).append(row)
    summary = summarise(pd.DataFrame([{**BASE, **row} for row in found])).to_dict("records")
    assert len(summary) == len(cells)
    for cell in summary:
        runs = cells[tuple(cell[name] for name in APART)]
        assert cell["best"] == pytest.approx(statistics.fmean(row["best"] for row in runs), abs=1e-9)
        counted = [cell[name] for name in ("pools", "selections", "trainings")]
        assert counted == [len({row[name] for row in runs}) for name in REPEATED]
        assert cell["n"] == len(runs)


def test_binomial_error_of_the_published_test_sets():
    assert binomial_error(37.5, 500) == pytest.approx(2.165, abs=1e-3)  # "2.2 points"
    assert binomial_error(37.5, 3929) == pytest.approx(0.772, abs=1e-3)  # "0.8 on fastai's 3,929"
