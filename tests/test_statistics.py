"""Statistics against closed formulas, textbook values, simulation and the published worked values."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dgs_utils.results.comparisons import (
    Comparison,
    binomial_error,
    bootstrap_images,
    compare_methods,
    compare_on_images,
    compare_paired,
    read_correct,
)
from dgs_utils.results.dd_ranking import augmentation_robust_score, label_robust_score, robust_scores
from dgs_utils.results.noise import pools_needed, sources_of_noise, variance_components
from dgs_utils.results.rows import SEEDS

PERCENT = st.floats(0, 100)


# ---- A single test --------------------------------------------------------------------------------------------------

def test_binomial_error_of_the_published_test_sets():
    assert binomial_error(37.5, 500) == pytest.approx(2.165, abs=1e-3)  # "2.2 points"
    assert binomial_error(37.5, 3929) == pytest.approx(0.772, abs=1e-3)  # "0.8 on fastai's 3,929"


# ---- A against B -----------------------------------------------------------------------------------------------------

def test_paired_t_by_hand():
    first, second = [35.1, 36.0, 34.4, 37.2], [34.0, 34.1, 34.6, 35.0]
    d = np.subtract(first, second)
    error = d.std(ddof=1) / 2
    half = 3.182446 * error  # t quantile 0.975 with 3 degrees of freedom
    found = compare_paired(first, second)
    assert (found.difference, found.low, found.high) == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))
    assert found.p == pytest.approx(2 * stats.t.sf(d.mean() / error, 3))
    assert not found.distinguishable
    assert found.sentence("DGS", "Random") == (
        "DGS and Random are not distinguishable with 4 trainings (95 % interval -0.5 to +3.0).")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(PERCENT, PERCENT), min_size=2, max_size=8))
def test_swapping_the_sides_turns_the_sign(pairs):
    first, second = np.array(pairs).T
    one, other = compare_paired(first, second), compare_paired(second, first)
    assert one.difference == pytest.approx(-other.difference)
    np.testing.assert_allclose([one.low, one.high], [-other.high, -other.low], rtol=1e-9, atol=1e-9)


def test_intervals_cover_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    draws = 1.5 + rng.normal(size=(2000, 5))
    inside = [(c.low <= 1.5 <= c.high) for c in (compare_paired(row, np.zeros(5)) for row in draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("first", "second", "sentence"), [
    ([40.0], [30.0], "A and B have 1 training in common, and a comparison needs two or more."),
    ([40.0, 41.0], [38.0, 39.0], "A minus B is +2.0 points in each of 2 trainings, which leaves no interval."),
    ([40.0, 41.0, 40.5], [30.0, 30.9, 30.6],
     "A is 10.0 points above B with 3 trainings (95 % interval +9.8 to +10.2)."),
    ([30.0, 30.9, 30.6], [40.0, 41.0, 40.5],
     "A is 10.0 points below B with 3 trainings (95 % interval -10.2 to -9.8).")])
def test_sentences(first, second, sentence):
    assert compare_paired(first, second).sentence("A", "B") == sentence


def test_comparisons_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="as many values on either side, not 2 and 1"):
        compare_paired([1.0, 2.0], [1.0])


def rows(method: str, seeds: list[tuple], best: list[float], **setting) -> pd.DataFrame:
    columns = {"protocol": "idc", "dataset": "digits", "network": "convnet3", "ipc": 10, "method": method, **setting}
    frame = pd.DataFrame(seeds, columns=SEEDS).assign(best=best, **columns)
    return frame


def test_methods_are_paired_by_the_seeds_they_share():
    dgs = rows("dgs", [(0, 0, 2), (0, 0, 0), (0, 0, 1)], [52.0, 50.0, 51.0])
    random = rows("random", [("", 0, 0), ("", 0, 1), ("", 0, 2), ("", 0, 3)], [45.0, 47.0, 46.0, 99.0])
    [found] = compare_methods(pd.concat([random, dgs]), "dgs", "random").to_dict("records")
    expected = compare_paired([50.0, 51.0, 52.0], [45.0, 47.0, 46.0])  # seed 3 has no partner
    assert {name: found[name] for name in vars(expected)} == vars(expected)
    assert (found["ipc"], found["network"]) == (10, "convnet3")
    assert found["sentence"] == expected.sentence("dgs", "random")


def test_within_a_pool_runs_are_averaged_since_they_are_not_independent():
    rng = np.random.default_rng(0)
    seeds = [(p, s, t) for p in range(3) for s in range(2) for t in range(2)]
    first, second = 50 + rng.normal(size=12), 48 + rng.normal(size=12)
    results = pd.concat([rows("dgs", seeds, first), rows("pool_random", seeds, second)])
    [found] = compare_methods(results, "dgs", "pool_random").to_dict("records")
    expected = compare_paired(first.reshape(3, 4).mean(1), second.reshape(3, 4).mean(1), unit="pools")
    assert (found["n"], found["unit"]) == (3, "pools")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_settings_are_never_mixed():
    seeds = [("", 0, t) for t in range(3)]
    results = pd.concat([rows("a", seeds, [1.0, 2.0, 4.0]), rows("b", seeds, [1.0, 1.0, 1.0], protocol="rded"),
                         rows("a", seeds, [5.0, 6.0, 9.0], ipc=20), rows("b", seeds, [1.0, 1.0, 1.0], ipc=20)])
    found = compare_methods(results, "a", "b")
    assert found["ipc"].tolist() == [20]
    assert compare_methods(results, "a", "c").empty


def test_methods_without_a_common_seed_are_not_compared():
    results = pd.concat([rows("a", [("", 0, 0)], [1.0]), rows("b", [("", 0, 1)], [2.0])])
    [sentence] = compare_methods(results, "a", "b")["sentence"]
    assert sentence == "a and b have 0 selections in common, and a comparison needs two or more."


# ---- The same test images ------------------------------------------------------------------------------------------

def test_series_are_compared_on_the_images_of_their_folders(tmp_path):
    rng = np.random.default_rng(2)
    sides = {"DGS": rng.random((2, 40)) < 0.7, "Random": rng.random((3, 40)) < 0.6}
    frames = []
    for name, correct in sides.items():
        folder = tmp_path / name
        folder.mkdir()
        frame = pd.DataFrame({"training_seed": range(len(correct)), "n_test": 40})
        frame.to_csv(folder / "results.csv", index=False)
        np.savez(folder / "correct.npz", **{str(seed): np.packbits(row) for seed, row in enumerate(correct)})
        frames.append(frame.assign(series=name, setting="ConvNet-3", ipc=10, folder=str(folder)))
    results = pd.concat(frames)
    [found] = compare_on_images(results, "DGS", "Random").to_dict("records")
    expected = bootstrap_images(*sides.values())
    assert (found["difference"], found["low"], found["high"]) == (expected.difference, expected.low, expected.high)
    assert found["sentence"] == expected.sentence("DGS", "Random")
    assert compare_on_images(results, "DGS", "Herding").empty
    with pytest.raises(ValueError, match="tested on 40 and 39 images"):
        bootstrap_images(sides["DGS"], sides["Random"][:, 1:])


def test_bootstrap_over_images_matches_the_normal_approximation():
    rng = np.random.default_rng(1)
    first, second = rng.random(2000) < 0.6, rng.random(2000) < 0.5
    found = bootstrap_images(first, second, resamples=2000)
    d = first.astype(float) - second
    half = 1.96 * 100 * d.std() / np.sqrt(2000)
    assert found.difference == pytest.approx(100 * d.mean())
    assert (found.low, found.high) == pytest.approx((100 * d.mean() - half, 100 * d.mean() + half), abs=0.4)
    assert found == bootstrap_images(first, second, resamples=2000)
    assert "with 2000 test images" in found.sentence("A", "B")


def test_bootstrap_also_resamples_trainings():
    image = np.zeros((2, 100), dtype=bool)
    image[0] = True  # one training right everywhere, one wrong everywhere
    found = bootstrap_images(image, np.zeros((1, 100), dtype=bool), resamples=500)
    assert (found.difference, found.low, found.high) == (50.0, 0.0, 100.0)


def test_correctness_comes_back_as_it_was_written(tmp_path):
    correct = np.random.default_rng(0).random((2, 37)) < 0.5
    pd.DataFrame({"training_seed": [3, 4], "n_test": 37}).to_csv(tmp_path / "results.csv")
    np.savez(tmp_path / "correct.npz", **{str(seed): np.packbits(row)
                                          for seed, row in zip((3, 4), correct, strict=True)})
    assert np.array_equal(read_correct(tmp_path), correct)


# ---- Where the noise comes from --------------------------------------------------------------------------------------

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
    assert found.mean == grid.mean()
    assert found.std["trainings"] == pytest.approx(trainings**0.5)
    assert found.std["selections"] == pytest.approx(((selections - trainings) / 2) ** 0.5)
    assert pools < selections
    assert found.std["pools"] == 0  # its estimate is negative
    assert found.error == pytest.approx((pools / 8) ** 0.5)
    assert found.levels == {"pools": 2, "selections": 2, "trainings": 2}


def test_components_recover_what_was_put_in():
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(200):
        grid = 2.0 * rng.normal(size=(6, 1, 1)) + 1.0 * rng.normal(size=(6, 4, 1)) + 0.5 * rng.normal(size=(6, 4, 3))
        found = variance_components(grid_rows(40 + grid))
        estimates.append([found.std[name] ** 2 for name in ("pools", "selections", "trainings")])
    assert np.mean(estimates, axis=0) == pytest.approx([4.0, 1.0, 0.25], rel=0.15)


@pytest.mark.parametrize(("shape", "known"), [((1, 1, 3), ["trainings"]), ((3, 1, 1), ["pools"]),
                                              ((3, 1, 4), ["pools", "trainings"]), ((1, 1, 1), [])])
def test_a_level_that_was_not_repeated_has_no_number(shape, known):
    grid = np.random.default_rng(0).normal(40, 2, shape)
    found = variance_components(grid_rows(grid))
    assert [name for name, value in found.std.items() if not math.isnan(value)] == known
    if known and len(known) == 1:
        assert found.std[known[0]] == pytest.approx(grid.std(ddof=1))
        assert found.error == pytest.approx(grid.std(ddof=1) / grid.size**0.5)
    assert math.isnan(found.error) == (not known)


def test_an_unbalanced_grid_is_refused():
    frame = grid_rows(np.ones((2, 2, 2))).sort_values(SEEDS)
    with pytest.raises(ValueError, match="1 to 2 trainings a selection; run the missing ones"):
        variance_components(frame.iloc[1:])
    with pytest.raises(ValueError, match="two rows have pool_seed 0, selection_seed 0, training_seed 0"):
        variance_components(pd.concat([frame, frame.iloc[:1]]))


@pytest.mark.parametrize(("effect", "paired", "n"), [(0.2, False, 394), (0.5, False, 64), (0.8, False, 26),
                                                     (0.5, True, 34), (0.2, True, 199)])
def test_sample_sizes_are_the_textbooks(effect, paired, n):
    assert pools_needed(std=2.0 / effect, gain=2.0, paired=paired) == n  # Cohen's tables: 80 % power, 5 % two-sided


@pytest.mark.parametrize(("std", "rough"), [(1.0, 4), (1.9, 14), (2.4, 23)])
def test_pools_for_a_two_point_gain(std, rough):
    # The rough numbers take the deviation for known; the t test, which must estimate it, needs one or two pools more.
    assert rough < pools_needed(std) <= rough + 2


def test_pools_found_have_the_power_that_was_asked_for():
    rng, n = np.random.default_rng(0), pools_needed(1.9, gain=2.0)
    first, second = rng.normal(2.0, 1.9, (4000, n)), rng.normal(0.0, 1.9, (4000, n))
    assert (stats.ttest_ind(first, second, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)


# ---- DD-Ranking ------------------------------------------------------------------------------------------------------

def test_label_robust_score_of_the_worked_values():
    assert label_robust_score(0.6, 0.3, 0.4, 0.3) == pytest.approx(0.228, abs=5e-4)  # HLR 30, IOR 10 points
    assert label_robust_score(0.5, 0.4, 0.6, 0.3) == pytest.approx(0.314, abs=5e-4)  # HLR 10, IOR 30 points
    assert label_robust_score(0.5, 0.5, 0.4, 0.4) == pytest.approx(0.269, abs=5e-4)
    assert augmentation_robust_score(0.4, 0.4, 0.3, 0.3) == pytest.approx(0.269, abs=5e-4)


@given(*[st.floats(0, 1)] * 4)
def test_scores_stay_between_zero_and_one_and_rise_with_accuracy(a, b, c, d):
    assert 0 <= label_robust_score(a, b, c, d) <= 1
    assert label_robust_score(a, b, 1.0, d) >= label_robust_score(a, b, c, d)
    assert augmentation_robust_score(a, b, c, d) <= augmentation_robust_score(1.0, b, c, d)
    alpha = 0.7 * (a - b) + 0.3 * (c - d)
    expected = (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
    assert augmentation_robust_score(a, b, c, d, weight=0.7) == pytest.approx(expected, abs=1e-12)


def test_percent_is_refused_where_fractions_are_wanted():
    with pytest.raises(ValueError, match=r"accuracy is 37\.5; DD-Ranking's scores want fractions"):
        label_robust_score(37.5, 0.3, 0.4, 0.3)


def test_a_comparison_of_nothing_is_not_distinguishable():
    assert not Comparison(1.0, math.nan, math.nan, math.nan, 1).distinguishable


# ---- Grids and tables of runs ----------------------------------------------------------------------------------------

PLACE = {"protocol": "idc", "dataset": "digits", "network": "convnet3", "ipc": 10, "augment": True}


def test_noise_is_told_for_series_with_several_pools():
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(4, 1, 3)) + 3 * rng.normal(size=(4, 1, 1)) + 50
    rows = [{**PLACE, "series": "DGS", "pool_seed": pool, "selection_seed": 0, "training_seed": seed,
             "best": grid[pool, 0, seed]} for pool in range(4) for seed in range(3)]
    rows += [{**PLACE, "series": "Random", "pool_seed": "", "selection_seed": 0, "training_seed": seed, "best": 40.0}
             for seed in range(3)]
    [row] = sources_of_noise(pd.DataFrame(rows)).to_dict("records")
    means = grid.mean((1, 2))
    assert (row["series"], row["pools"], row["trainings"]) == ("DGS", 4, 3)
    assert row["std_trainings"] == pytest.approx(grid.std(axis=2, ddof=1).__pow__(2).mean() ** 0.5)
    assert row["std_pools"] == pytest.approx((means.var(ddof=1) - row["std_trainings"] ** 2 / 3) ** 0.5)
    assert row["pools_for_gain"] == pools_needed(means.std(ddof=1))
    [row] = sources_of_noise(pd.DataFrame(rows[1:])).to_dict("records")
    assert "not balanced" in row["note"]


def test_scores_come_where_their_runs_are():
    def cell(method, best, **place):
        return {**PLACE, "method": method, "series": method.upper(), "best": best, **place}

    hard = [cell("dgs", 60.0), cell("random", 50.0), cell("full", 90.0, ipc=0)]
    soft = [cell("dgs", 75.0, protocol="rded"), cell("random", 72.0, protocol="rded")]
    plain = [cell("dgs", 40.0, augment=False), cell("random", 45.0, augment=False)]
    scores = robust_scores(pd.DataFrame(hard)).to_dict("records")
    assert [row["series"] for row in scores] == ["DGS"]
    assert scores[0]["lrs"] == pytest.approx(label_robust_score(0.9, 0.6, 0.6, 0.5))
    assert math.isnan(scores[0]["ars"])
    [row] = robust_scores(pd.DataFrame(hard + soft + plain)).to_dict("records")
    assert row["lrs"] == pytest.approx(label_robust_score(0.9, 0.6, 0.75, 0.72))
    assert row["ars"] == pytest.approx(augmentation_robust_score(0.6, 0.5, 0.4, 0.45))
    assert robust_scores(pd.DataFrame(hard[:2])).empty


def test_choices_of_one_method_are_compared_by_series():
    rows = [{**PLACE, "method": "dgs", "series": f"DGS ({objective})", "pool_seed": pool, "selection_seed": 0,
             "training_seed": 0, "best": 50 + gain + pool + 0.1 * gain * pool}
            for objective, gain in (("code", 0), ("paper", 2)) for pool in range(4)]
    [row] = compare_methods(pd.DataFrame(rows), "DGS (paper)", "DGS (code)", by="series").to_dict("records")
    assert row["difference"] == pytest.approx(2.3)
    assert row["sentence"].startswith("DGS (paper) is 2.3 points above DGS (code) with 4 pools (95 % interval")
