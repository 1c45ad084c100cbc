"""The interval at any time: against numerical integration, a simulated null, and the comparisons that show it."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from dgs_utils.results.comparisons import compare, compare_with_others
from dgs_utils.results.reports import write_differences
from dgs_utils.results.rows import fill_columns
from dgs_utils.results.sequential import EFFECT_VARIANCE, anytime_half_width
from dgs_utils.results.summaries import summarise


@pytest.mark.parametrize(("n", "confidence"), [(5, 0.95), (8, 0.95), (24, 0.9), (60, 0.99)])
def test_it_ends_where_the_mixture_s_likelihood_ratio_is_one_over_the_level(n, confidence):
    """By noncentral t, integrated over effect sizes."""
    values = np.random.default_rng(n).normal(0.3, 2, n)
    t = float(anytime_half_width(values, confidence)) / (values.std(ddof=1) / np.sqrt(n))
    mixed = integrate.quad(lambda effect: stats.nct.pdf(t, n - 1, effect * np.sqrt(n)) * stats.norm.pdf(
        effect, scale=np.sqrt(EFFECT_VARIANCE)), -12, 12, limit=200)[0]
    assert mixed / stats.t.pdf(t, n - 1) == pytest.approx(1 / (1 - confidence), rel=1e-3)


@pytest.mark.parametrize("draw", ["normal", "laplace"])
def test_at_most_one_in_twenty_of_those_who_look_every_time_is_wrong(draw):
    values = getattr(np.random.default_rng(0), draw)(size=(2000, 100))
    wrong, naive = np.zeros(2000, dtype=bool), np.zeros(2000, dtype=bool)
    for n in range(2, 101):
        mean, error = values[:, :n].mean(1), values[:, :n].std(1, ddof=1) / np.sqrt(n)
        wrong |= np.abs(mean) > anytime_half_width(values[:, :n])
        naive |= np.abs(mean) > stats.t.ppf(0.975, n - 1) * error
    assert wrong.mean() <= 0.05
    assert naive.mean() > 0.3  # the usual interval, looked at as often


def test_it_decides_a_difference_that_is_there():
    values = np.random.default_rng(1).normal(1.5, 2.4, size=(500, 60))
    decided = [(np.abs(values[:, :n].mean(1)) > anytime_half_width(values[:, :n])).mean() for n in (4, 12, 24, 60)]
    assert decided[0] == 0
    assert decided == sorted(decided)
    assert decided[-1] > 0.9


def rows_of(selections: int, trainings: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame([
        {"method": method, "network": "convnet3", "ipc": 10, "pool_seed": 0, "selection_seed": selection,
         "training_seed": training, "best": 30 + gain + rng.normal(0, 1), "last": 30.0, "n_test": 100}
        for method, gain in (("dgs", 2.0), ("pool_random", 0.0)) for selection in range(selections)
        for training in range(trainings)])


def test_comparisons_have_it_by_selection_and_the_table_of_verdicts_shows_it(tmp_path):
    rows = rows_of(8, 2)
    [row] = compare(rows, "dgs", "pool_random").itertuples()
    means = rows.pivot_table(index="selection_seed", columns="method", values="best")
    apart = (means["dgs"] - means["pool_random"]).to_numpy()
    half = float(anytime_half_width(apart))
    assert (row.anytime_low, row.anytime_high) == pytest.approx((apart.mean() - half, apart.mean() + half))
    assert row.anytime_low < row.low < row.high < row.anytime_high
    for selections, shown in ((8, True), (3, False)):
        filled = fill_columns(rows_of(selections))
        table = compare_with_others(filled, "DGS", ["Random of pool"])
        text = write_differences(table, summarise(filled), tmp_path)
        assert ("| At any time |" in text) == ("holds at all numbers of them" in text) == shown
