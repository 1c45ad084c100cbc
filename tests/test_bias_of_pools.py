"""What rules have above random images over the bias of the pool: gains by hand, lines by another road, coverage."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_tables import rows

from dgs_utils import figures, plots
from dgs_utils.results.bias import band, gains_of_pools, trends_of, with_differences
from dgs_utils.results.tables import write_trends

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


def test_ours_above_the_others_is_a_difference_pool_by_pool():
    gains = gains_of_pools(figures.completed(results()))
    found = with_differences(gains)
    assert (found.iloc[:len(gains)].to_numpy() == gains.to_numpy()).all()
    table = gains.pivot(index="pool", columns="rule", values="gain")
    for other in ("DGS (none)", "Easiest"):
        part = found[found["rule"] == f"DGS (code) minus {other}"].set_index("pool")["gain"]
        assert part.to_dict() == pytest.approx((table["DGS (code)"] - table[other]).to_dict())


def by_matrix(x: np.ndarray, y: np.ndarray, at: float) -> tuple[float, float, float, float]:
    """Return slope, its standard error, height and its standard error, by the normal equations."""
    design = np.stack([np.ones_like(x), x], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ y
    variance = np.sum((y - design @ coefficients) ** 2) / (len(x) - 2)
    place = np.array([1.0, at])
    return (coefficients[1], np.sqrt(variance * inverse[1, 1]), place @ coefficients,
            np.sqrt(variance * place @ inverse @ place))


def test_lines_are_those_of_the_normal_equations():
    rng = np.random.default_rng(0)
    gains = gains_of_pools(figures.completed(results()))
    gains["gain"] += rng.normal(size=len(gains))
    found = trends_of(with_differences(gains))
    assert list(found["pools"]) == [6] * 5
    reach = stats.t.ppf(0.975, 4)
    for row in found.itertuples():
        part = with_differences(gains).query("rule == @row.rule")
        for name, at in (("easiest", -0.13), ("alike", 0.0), ("hardest", 0.21)):
            slope, slope_error, height, error = by_matrix(part["shift"].to_numpy(), part["gain"].to_numpy(), at)
            assert [getattr(row, f"{name}{end}") for end in ("", "_low", "_high")] == pytest.approx(
                [height, height - reach * error, height + reach * error])
        assert [row.slope, row.slope_low, row.slope_high] == pytest.approx(
            [slope / 10, (slope - reach * slope_error) / 10, (slope + reach * slope_error) / 10])
        assert row.p == pytest.approx(2 * stats.t.sf(abs(slope / slope_error), 4))
    assert (found["p_holm"] >= found["p"]).all()


def test_bands_hold_the_true_line_as_often_as_they_say():
    rng, shift = np.random.default_rng(1), np.repeat([-0.15, -0.08, 0.0, 0.15, 0.3], 4)
    at, true = np.array([-0.15, 0.0, 0.3]), lambda x: 1 - 8 * x
    held = np.zeros(3)
    draws = 1000
    for _ in range(draws):
        found = band(shift, true(shift) + rng.normal(0, 3, len(shift)), at)
        held += (found[:, 1] <= true(at)) & (true(at) <= found[:, 2])
    assert np.abs(held / draws - 0.95).max() < 4 * np.sqrt(0.95 * 0.05 / draws)


def test_too_few_pools_or_pools_alike_have_no_line():
    gains = gains_of_pools(figures.completed(results()))
    few = gains[gains["pool"].isin(["p-30", "p00", "p30"])]
    assert len(trends_of(few)) == len(trends_of(gains.assign(shift=0.1))) == len(trends_of(gains[:0])) == 0
    one_side = trends_of(gains[gains["shift"] > -0.05])
    assert one_side["alike"].notna().all()
    assert trends_of(gains.assign(shift=gains["shift"] + 1))["alike"].isna().all()  # never beyond what was measured


def test_the_table_says_how_high_each_line_is(tmp_path):
    gains = gains_of_pools(figures.completed(results()))
    rng = np.random.default_rng(0)
    gains["gain"] += rng.normal(0, 0.1, size=len(gains))
    trends = trends_of(gains)
    text = write_trends(trends, "trends", tmp_path)
    assert (tmp_path / "trends.md").read_text() == text
    head, _, *lines = text.split("\n\n")[0].splitlines()
    assert head == "| Rule | Pools | Easiest pools | Like the originals | Hardest pools | For 0.1 harder |"
    [ours] = [line for line in lines if line.startswith("| DGS (code) |")]
    row = trends.query("rule == 'DGS (code)'").iloc[0]
    assert f"{row['easiest']:+.1f}".replace("-", "−") in ours
    assert ours.count("**") == 2  # it rises
    assert "from −0.13 to +0.21" in text
    assert "for 3 lines" in text
    assert write_trends(trends_of(gains[:0]), "none", tmp_path) == ""


def test_the_figure_has_a_dot_a_pool_and_a_line_a_rule():
    gains = gains_of_pools(figures.completed(results()))
    figure = plots.gain_over_shift(gains)
    shown = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in shown] == list(gains["rule"].unique())
    for axis, rule in zip(shown, gains["rule"].unique(), strict=True):
        part = gains[gains["rule"] == rule]
        [dots] = [line for line in axis.lines if line.get_marker() == "."]
        assert sorted(zip(*dots.get_data(), strict=True)) == sorted(zip(part["shift"], part["gain"], strict=True))
        assert len(axis.collections) == 1  # the band
    few = results().query("method in ('pool_random', 'dgs') and objective != 'none'")
    assert "gain_over_shift" in figures.figures_of(few)
    assert len(figures.tables_of(few)["trends"]) == 1
