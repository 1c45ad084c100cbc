"""Gains on pools of known bias: means, intervals and ranks by hand, and their figure."""

import math

import numpy as np
import pandas as pd
import pytest
from result_rows import GAIN_POOLS, GAINS, gain_rows
from scipy import stats

from dgs_utils import figures, plots
from dgs_utils.results.gain_vs_shift import add_differences_to_dgs, gain_trends, gains_by_bias, pool_gains
from dgs_utils.results.rows import fill_columns

pytestmark = pytest.mark.usefixtures("styled")


def test_gains_are_means_over_paired_trainings_of_one_pool():
    found = pool_gains(fill_columns(gain_rows()))
    assert len(found) == 3 * len(GAIN_POOLS)
    assert set(found["rule"]) == {"DGS (code)", "DGS (none)", "Easiest"}
    assert set(found.loc[found["is_main"], "rule"]) == {"DGS (code)"}
    names = {"DGS (code)": "dgs", "DGS (none)": "none", "Easiest": "easiest"}
    for row in found.itertuples():
        [shift] = [shift for bias, seed, shift in GAIN_POOLS if row.pool == f"p{bias}{seed}"]
        assert row.shift == pytest.approx(shift)
        assert row.gain == pytest.approx(np.mean([GAINS[names[row.rule]](shift, seed) for seed in (0, 1)]))


def test_a_training_that_the_control_lacks_is_left_out():
    table = gain_rows()
    table = table[~((table["method"] == "pool_random") & (table["training_seed"] == 1))]
    found = pool_gains(fill_columns(table)).query("rule == 'Easiest'")
    assert found["gain"].to_numpy() == pytest.approx([-20 * shift for _, _, shift in GAIN_POOLS])


def test_other_pools_and_cut_random_images_are_no_part_of_it():
    table = gain_rows()
    cut = table[table["method"] == "pool_random"].assign(cut="0.3", best=90.0)
    strangers = table.assign(bias="", generator="BigGAN")
    found = pool_gains(fill_columns(pd.concat([table, strangers, cut], ignore_index=True)))
    expected = pool_gains(fill_columns(table))
    both = found[~found["rule"].str.startswith("Random")]
    assert sorted(both["gain"]) == pytest.approx(sorted(expected["gain"]))
    assert set(found.loc[found["rule"].str.startswith("Random"), "gain"]) == {39.0}  # of what the cut left
    assert len(pool_gains(fill_columns(strangers))) == 0
    assert len(pool_gains(fill_columns(table.query("bias == '3'")))) == 0  # one bias shows no change with it


def test_ours_by_another_score_is_another_rule():
    table = gain_rows()
    by_margin = table[table["method"] == "dgs"].assign(measure="margin")
    gains = pool_gains(fill_columns(pd.concat([table, by_margin], ignore_index=True)))
    assert set(gains.loc[gains["is_main"], "score"]) == {"1 − p(class)"}
    assert gains[gains["is_main"]].groupby("pool").size().tolist() == [1] * len(GAIN_POOLS)


def test_ours_above_the_others_is_a_difference_pool_by_pool():
    gains = pool_gains(fill_columns(gain_rows()))
    found = add_differences_to_dgs(gains)
    assert (found.iloc[:len(gains)].to_numpy() == gains.to_numpy()).all()
    table = gains.pivot(index="pool", columns="rule", values="gain")
    for other in ("DGS (none)", "Easiest"):
        part = found[found["rule"] == f"DGS (code) minus {other}"].set_index("pool")["gain"]
        assert part.to_dict() == pytest.approx((table["DGS (code)"] - table[other]).to_dict())


def test_means_of_a_bias_have_student_s_intervals_over_pools():
    rng = np.random.default_rng(0)
    gains = pool_gains(fill_columns(gain_rows()))
    gains["gain"] += rng.normal(size=len(gains))
    found = gains_by_bias(add_differences_to_dgs(gains))
    assert list(found.groupby("rule", sort=False).groups) == list(add_differences_to_dgs(gains)["rule"].unique())
    for _, part in found.groupby("rule"):
        assert list(part["bias"]) == ["3", "0", "-3"]  # the easiest pools first
    for row in found.itertuples():
        part = add_differences_to_dgs(gains).query("rule == @row.rule and bias == @row.bias")
        low, high = stats.t.interval(0.95, 1, part["gain"].mean(), stats.sem(part["gain"]))
        assert [row.pools, row.shift, row.gain, row.low, row.high] == pytest.approx(
            [2, part["shift"].mean(), part["gain"].mean(), low, high])
    alone = gains_by_bias(gains[gains["pool"].isin(["p-30", "p30"])])
    assert alone["low"].isna().all()
    assert alone["gain"].notna().all()


def test_trends_are_of_ranks_whatever_the_shape():
    gains = pool_gains(fill_columns(gain_rows()))
    bent = gains.assign(gain=np.where(gains["rule"] == "Easiest", -np.exp(20 * gains["shift"]), gains["shift"] ** 3))
    found = gain_trends(bent).set_index("rule")
    assert found["tau"].to_dict() == pytest.approx({"DGS (code)": 1, "DGS (none)": 1, "Easiest": -1})
    assert found["p"].to_numpy() == pytest.approx(2 / math.factorial(6))  # two of all orders of six
    assert found["p_holm"].to_numpy() == pytest.approx(3 * 2 / math.factorial(6))
    few = gains[gains["pool"].isin(["p-30", "p-31", "p00", "p30"])]
    assert len(gain_trends(few)) == len(gain_trends(gains.assign(shift=0.1))) == len(gain_trends(gains[:0])) == 0


def test_the_figure_has_a_dot_a_pool_and_a_mean_a_bias():
    gains = pool_gains(fill_columns(gain_rows()))
    figure = plots.gain_over_shift(gains)
    shown = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in shown] == list(gains["rule"].unique())
    for axis, rule in zip(shown, gains["rule"].unique(), strict=True):
        part = gains[gains["rule"] == rule]
        [dots] = [line for line in axis.lines if line.get_marker() == "."]
        assert sorted(zip(*dots.get_data(), strict=True)) == sorted(zip(part["shift"], part["gain"], strict=True))
        [means] = [line for line in axis.lines if line.get_marker() == "o"]
        assert list(means.get_ydata()) == list(gains_by_bias(part)["gain"])
        assert list(means.get_xdata()) == sorted(means.get_xdata())
    few = gain_rows().query("method in ('pool_random', 'dgs') and objective != 'none'")
    assert "gain_over_shift" in figures.figures_of(few)
    assert len(figures.tables_of(few)["gains"]) == 3
