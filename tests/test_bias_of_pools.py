"""What rules have above random images over the bias of the pool: gains, means and ranks by hand, table and figure."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_tables import rows

from dgs_utils import figures, plots
from dgs_utils.results.bias import gains_by_bias, gains_of_pools, trends_of, with_differences
from dgs_utils.results.tables import write_gains

pytestmark = pytest.mark.usefixtures("styled")

POOLS = [("-3", 0, 0.21), ("-3", 1, 0.19), ("0", 0, 0.01), ("0", 1, -0.01), ("3", 0, -0.13), ("3", 1, -0.12)]
RANDOM = [50.0, 52.0]
GAINS = {"dgs": lambda shift, seed: 10 * shift + seed, "easiest": lambda shift, seed: -20 * shift - 2 * seed,
         "none": lambda shift, seed: 1 + 3 * shift}


def results() -> pd.DataFrame:
    """Three rules on six pools, two trainings each; only what follows a target knows how far its pool lies off."""
    parts = []
    for bias, seed, shift in POOLS:
        place = {"bias": bias, "pool": f"p{bias}{seed}", "pool_seed": seed, "pool_factor": 0, "generator": "originals",
                 "variant": "v"}
        arms = {"pool_random": {"measure": "", "objective": "", "distribution": ""},
                "dgs": {"shift": shift}, "easiest": {"objective": "", "distribution": ""},
                "none": {"objective": "none", "shift": shift}}
        for name, changes in arms.items():
            for training, base in enumerate(RANDOM):
                gain = GAINS[name](shift, training) if name in GAINS else 0
                parts.append({"shift": "", **place, "method": "dgs" if name == "none" else name, **changes,
                              "training_seed": training, "best": base + gain})
    return rows(*parts)


def test_gains_are_means_over_paired_trainings_of_one_pool():
    found = gains_of_pools(figures.completed(results()))
    assert len(found) == 3 * len(POOLS)
    assert set(found["rule"]) == {"DGS (code)", "DGS (none)", "Easiest"}
    assert set(found.loc[found["is_main"], "rule"]) == {"DGS (code)"}
    names = {"DGS (code)": "dgs", "DGS (none)": "none", "Easiest": "easiest"}
    for row in found.itertuples():
        [shift] = [shift for bias, seed, shift in POOLS if row.pool == f"p{bias}{seed}"]
        assert row.shift == pytest.approx(shift)
        assert row.gain == pytest.approx(np.mean([GAINS[names[row.rule]](shift, seed) for seed in (0, 1)]))


def test_a_training_that_the_control_lacks_is_left_out():
    table = results()
    table = table[~((table["method"] == "pool_random") & (table["training_seed"] == 1))]
    found = gains_of_pools(figures.completed(table)).query("rule == 'Easiest'")
    assert found["gain"].to_numpy() == pytest.approx([-20 * shift for _, _, shift in POOLS])


def test_other_pools_and_cut_random_images_are_no_part_of_it():
    table = results()
    cut = table[table["method"] == "pool_random"].assign(cut="0.3", best=90.0)
    strangers = table.assign(bias="", generator="BigGAN")
    found = gains_of_pools(figures.completed(pd.concat([table, strangers, cut], ignore_index=True)))
    expected = gains_of_pools(figures.completed(table))
    both = found[~found["rule"].str.startswith("Random")]
    assert sorted(both["gain"]) == pytest.approx(sorted(expected["gain"]))
    assert set(found.loc[found["rule"].str.startswith("Random"), "gain"]) == {39.0}  # of what the cut left
    assert len(gains_of_pools(figures.completed(strangers))) == 0
    assert len(gains_of_pools(figures.completed(table.query("bias == '3'")))) == 0  # one bias shows no change with it


def test_ours_by_another_score_is_another_rule():
    table = results()
    by_margin = table[table["method"] == "dgs"].assign(measure="margin")
    gains = gains_of_pools(figures.completed(pd.concat([table, by_margin], ignore_index=True)))
    assert set(gains.loc[gains["is_main"], "score"]) == {"1 − p(class)"}
    assert gains[gains["is_main"]].groupby("pool").size().tolist() == [1] * len(POOLS)


def test_ours_above_the_others_is_a_difference_pool_by_pool():
    gains = gains_of_pools(figures.completed(results()))
    found = with_differences(gains)
    assert (found.iloc[:len(gains)].to_numpy() == gains.to_numpy()).all()
    table = gains.pivot(index="pool", columns="rule", values="gain")
    for other in ("DGS (none)", "Easiest"):
        part = found[found["rule"] == f"DGS (code) minus {other}"].set_index("pool")["gain"]
        assert part.to_dict() == pytest.approx((table["DGS (code)"] - table[other]).to_dict())


def test_means_of_a_bias_have_student_s_intervals_over_pools():
    rng = np.random.default_rng(0)
    gains = gains_of_pools(figures.completed(results()))
    gains["gain"] += rng.normal(size=len(gains))
    found = gains_by_bias(with_differences(gains))
    assert list(found.groupby("rule", sort=False).groups) == list(with_differences(gains)["rule"].unique())
    for _, part in found.groupby("rule"):
        assert list(part["bias"]) == ["3", "0", "-3"]  # the easiest pools first
    for row in found.itertuples():
        part = with_differences(gains).query("rule == @row.rule and bias == @row.bias")
        low, high = stats.t.interval(0.95, 1, part["gain"].mean(), stats.sem(part["gain"]))
        assert [row.pools, row.shift, row.gain, row.low, row.high] == pytest.approx(
            [2, part["shift"].mean(), part["gain"].mean(), low, high])
    alone = gains_by_bias(gains[gains["pool"].isin(["p-30", "p30"])])
    assert alone["low"].isna().all()
    assert alone["gain"].notna().all()


def test_trends_are_of_ranks_whatever_the_shape():
    gains = gains_of_pools(figures.completed(results()))
    bent = gains.assign(gain=np.where(gains["rule"] == "Easiest", -np.exp(20 * gains["shift"]), gains["shift"] ** 3))
    found = trends_of(bent).set_index("rule")
    assert found["tau"].to_dict() == pytest.approx({"DGS (code)": 1, "DGS (none)": 1, "Easiest": -1})
    assert found["p"].to_numpy() == pytest.approx(2 / math.factorial(6))  # two of all orders of six
    assert found["p_holm"].to_numpy() == pytest.approx(3 * 2 / math.factorial(6))
    few = gains[gains["pool"].isin(["p-30", "p-31", "p00", "p30"])]
    assert len(trends_of(few)) == len(trends_of(gains.assign(shift=0.1))) == len(trends_of(gains[:0])) == 0


def test_the_table_has_a_column_a_bias_and_a_line_a_rule(tmp_path):
    gains = gains_of_pools(figures.completed(results()))
    gains["gain"] += np.random.default_rng(0).normal(0, 0.1, size=len(gains))
    text = write_gains(with_differences(gains), "gains", tmp_path)
    assert (tmp_path / "gains.md").read_text() == text
    head, _, *lines = text.split("\n\n")[0].splitlines()
    assert head == "| Rule | β 3, shift −0.12 | β 0, shift +0.00 | β −3, shift +0.20 | τ |"
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert list(cells) == ["DGS (code)", "Easiest", "DGS (none)", "DGS (code) minus Easiest",
                           "DGS (code) minus DGS (none)"]
    means = gains.groupby(["rule", "bias"])["gain"].mean()
    for rule in means.index.levels[0]:
        for cell, bias in zip(cells[rule], ("3", "0", "-3"), strict=False):
            assert cell.startswith(f"{means[rule, bias]:+.1f} (".replace("-", "−"))
    kept = pd.read_csv(tmp_path / "gains.csv", dtype={"bias": str})
    for rule, (*_, tau) in cells.items():
        row = kept[kept["rule"] == rule].iloc[0]
        told = f"{row['tau']:+.2f}".replace("-", "−")
        assert tau == (f"**{told}**" if row["p_holm"] < 0.05 else told)
    assert "means of 2 pools of each β" in text
    assert "for 5 lines" in text
    assert write_gains(gains[:0], "none", tmp_path) == ""


def test_the_figure_has_a_dot_a_pool_and_a_mean_a_bias():
    gains = gains_of_pools(figures.completed(results()))
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
    few = results().query("method in ('pool_random', 'dgs') and objective != 'none'")
    assert "gain_over_shift" in figures.figures_of(few)
    assert len(figures.tables_of(few)["gains"]) == 3
