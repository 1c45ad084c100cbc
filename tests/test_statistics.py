"""Statistics against closed formulas, textbook values, simulation and the published worked values."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dgs_utils.results.dd_ranking import augmentation_robust_score, label_robust_score, robust_scores
from dgs_utils.results.noise import pools_needed, sources_of_noise, variance_components
from dgs_utils.results.rows import SEEDS
from dgs_utils.results.summaries import binomial_error

PERCENT = st.floats(0, 100)


# ---- A single test --------------------------------------------------------------------------------------------------

def test_binomial_error_of_the_published_test_sets():
    assert binomial_error(37.5, 500) == pytest.approx(2.165, abs=1e-3)  # "2.2 points"
    assert binomial_error(37.5, 3929) == pytest.approx(0.772, abs=1e-3)  # "0.8 on fastai's 3,929"


# ---- Where the noise comes from --------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(("effect", "n"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_sample_sizes_are_the_textbooks(effect, n):
    assert pools_needed(std=2.0 / effect, gain=2.0) == n  # Cohen's tables: 80 % power, 5 % two-sided


@pytest.mark.parametrize(("std", "rough"), [(1.0, 4), (1.9, 14), (2.4, 23)])
def test_pools_for_a_two_point_gain(std, rough):
    # The rough numbers take the deviation for known; the t test, which must estimate it, needs one or two pools more.
    assert rough < pools_needed(std) <= rough + 2


def power_of(n: int, std: float, gain: float) -> float:
    """Return the power of a two-sided t test at 5 %: the mean over what the deviation may be estimated to be."""
    freedom, shift = 2 * n - 2, gain / std * (n / 2) ** 0.5
    share, weight = np.polynomial.legendre.leggauss(500)
    bounds = stats.t.isf(0.025, freedom) * np.sqrt(stats.chi2.ppf((share + 1) / 2, freedom) / freedom)
    return float((weight * (stats.norm.sf(bounds - shift) + stats.norm.cdf(-bounds - shift))).sum() / 2)


@pytest.mark.parametrize("std", [0.0175, 0.0575, 0.0725, 0.13, 0.1925, 0.3, 0.5, 1.0, 1.9, 4.0])
def test_pools_found_are_the_fewest_that_have_the_power(std):
    n = pools_needed(std, gain=2.0)
    assert power_of(n, std, 2.0) > 0.8
    assert n == 2 or power_of(n - 1, std, 2.0) < 0.8


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


# ---- Grids and tables of runs ----------------------------------------------------------------------------------------

PLACE = {"protocol": "idc", "dataset": "digits", "network": "convnet3", "ipc": 10, "augment": True, "epoch_factor": 1.0}


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


SEEDED = {"pool_seed": "", "selection_seed": "", "training_seed": 0}


def cell(method: str, best: float, **place) -> dict:
    return {**PLACE, **SEEDED, "method": method, "series": method.upper(), "best": best, **place}


def test_scores_come_where_their_runs_are():
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


def scaled(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def slow_score(rows: list[dict], own: dict) -> tuple[float, float] | None:
    """Return both scores of one training, from those that differ from it in nothing but their role."""
    fixed = ("prepare_seed", "fine_tune_seed", "training_seed", "test_list", "image_size", "split", "epoch_factor")

    def only(**role) -> float:
        asked = {**{name: own[name] for name in fixed}, "ipc": own["ipc"], "augment": True, "protocol": "idc", **role}
        if asked["method"] != "dgs":
            asked["fine_tune_seed"] = ""
        else:
            asked |= {name: own[name] for name in ("pool_seed", "selection_seed")}
        found = [row["best"] for row in rows if all(row[name] == value for name, value in asked.items())]
        return found[0] / 100 if len(found) == 1 else math.nan

    chance = {"method": "random", "selection_seed": own["selection_seed"]}
    ours, random = only(method="dgs"), only(**chance)
    soft = only(method="dgs", protocol="rded"), only(**chance, protocol="rded")
    best, other = (ours, random) if any(map(math.isnan, soft)) else soft
    lrs = scaled(0.5 * (best - other) - 0.5 * (only(method="full", ipc=0, selection_seed="") - ours))
    ars = scaled(0.5 * (ours - random) + 0.5 * (only(method="dgs", augment=False) - only(**chance, augment=False)))
    return None if math.isnan(lrs) and math.isnan(ars) else (lrs, ars)


AXES = {"prepare_seed": ["0", "1"], "fine_tune_seed": ["0", "1"], "pool_seed": ["0", "1"], "selection_seed": [0, 1],
        "training_seed": [0, 1], "test_list": ["a", "b"], "image_size": [32, 64], "split": ["holdout", "fastai"],
        "epoch_factor": [0.02, 1.0]}


def run_grid(varied: set[str], rng: np.random.Generator) -> list[dict]:
    """Return a row for each training of a grid over some axes, but for those that chance leaves out."""
    unique: dict[tuple, dict] = {}
    for values in itertools.product(*(AXES[name] if name in varied else AXES[name][:1] for name in AXES)):
        place = dict(zip(AXES, values, strict=True))
        real = {**place, "pool_seed": "", "fine_tune_seed": ""}
        whole = {**real, "ipc": 0, "selection_seed": ""}
        arms = {"dgs": (f"DGS ({place['fine_tune_seed']})", place), "random": ("Random", real), "full": ("Full", whole)}
        for (method, (series, kept)), role in itertools.product(arms.items(), ({}, {"protocol": "rded"},
                                                                               {"augment": False})):
            unique[method, *kept.items(), *role.items()] = cell(method, 0.0, **kept, **role) | {"series": series}
    return [row | {"best": 100 * rng.random()} for row in unique.values() if rng.random() < 0.9]


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(list(AXES)), min_size=1, max_size=3), st.integers(0, 10_000))
def test_scores_are_those_of_single_trainings_whatever_else_was_run(varied, seed):
    rng = np.random.default_rng(seed)
    rows = run_grid(varied, rng)
    scores = robust_scores(pd.DataFrame(rows).sample(frac=1, random_state=seed))
    scores = scores.assign(fine_tune_seed=scores["series"].str[5:-1])
    found = {tuple(map(str, key)): (lrs, ars) for *key, lrs, ars in
             scores[[*AXES, "lrs", "ars"]].to_numpy(dtype=object)}
    expected = {tuple(str(row[name]) for name in AXES): slow_score(rows, row) for row in rows
                if row["method"] == "dgs" and row["protocol"] == "idc" and row["augment"]}
    expected = {key: pair for key, pair in expected.items() if pair}
    assert found.keys() == expected.keys()
    for key, pair in expected.items():
        assert found[key] == pytest.approx(pair, nan_ok=True)


@pytest.mark.parametrize("other", [{"image_size": 64}, {"split": "fastai"}, {"epoch_factor": 0.5}, {"test_list": "b"},
                                   {"prepare_seed": "1"}, {"precision": "bf16"}])
def test_scores_never_mix_conditions(other):
    place = {**PLACE, "image_size": 32, "split": "imagenet", "epoch_factor": 1.0, "test_list": "a", "prepare_seed": "0",
             "precision": "fp32"}
    cells = [cell("dgs", 60.0, **place), cell("random", 50.0, **place), cell("full", 90.0, **{**place, "ipc": 0})]
    far = [{**row, **other, "best": row["best"] - 20} for row in cells]
    [row] = robust_scores(pd.DataFrame(cells)).to_dict("records")
    assert row["lrs"] == pytest.approx(label_robust_score(0.9, 0.6, 0.6, 0.5))
    assert [row["lrs"] for row in robust_scores(pd.DataFrame(cells + far)).to_dict("records")] == pytest.approx(
        [label_robust_score(0.9, 0.6, 0.6, 0.5), label_robust_score(0.7, 0.4, 0.4, 0.3)])
    assert robust_scores(pd.DataFrame([cells[0], *far[1:]])).empty
    assert robust_scores(pd.DataFrame([*cells, {**cells[1], "norm": "batch"}])).empty  # two that could be the control
