"""Targets: scaled and predefined counts and draws against published numbers, quantiles and distances against scipy."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgs_utils.selection.histograms import bin_of, histogram
from dgs_utils.selection.targets import (
    divergence_to_target,
    draw,
    predefined_counts,
    quantile_distance,
    quantiles_of_counts,
    quantiles_of_scores,
    scale_counts,
)
from dgs_utils.selection.thresholds import log_transform

# What the kit makes itself, it reads without a word.
pytestmark = pytest.mark.filterwarnings("error:.*(images used|not in its folder):UserWarning")
DATA = json.loads((Path(__file__).parents[1] / "data" / "transform_cases.json").read_text())
CASES = {case["id"]: case for case in DATA["cases"]}
DRAWN = {name: case for name, case in CASES.items() if "pool_bins" in case}

scores_lists = st.lists(st.integers(0, 10_000), min_size=1, max_size=80).map(lambda k: np.array(k) / 1e4)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_scaled_counts_are_the_published_ones(case):
    transformed = log_transform(np.array(case["original"]) / 1e4, case["bottom"], case["top"])
    np.testing.assert_array_equal(scale_counts(transformed, case["ipc"]), case["target"])


@pytest.mark.parametrize("case", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize("seed", [0, 1])
def test_draw_takes_the_published_numbers_from_the_published_bins(case, seed):
    transformed = log_transform(np.array(case["pool"]) / 1e4, case["bottom"], case["top"])
    members = bin_of(transformed)
    assert [np.flatnonzero(members == k).tolist() for k in range(10)] == case["pool_bins"]
    target = np.array(case["target"])
    indices, shortage = draw(transformed, target, np.random.default_rng(seed))
    np.testing.assert_array_equal(shortage, case["shortage"])
    drawn = indices[: case["ipc"] - shortage.sum()]
    np.testing.assert_array_equal(histogram(transformed[drawn]), target - shortage)
    assert len(set(indices.tolist())) == len(indices) == case["ipc"]
    for k in np.flatnonzero(shortage):
        assert set(case["pool_bins"][k]) <= set(indices.tolist())  # a short bin gives all it has


@given(scores_lists, st.integers(1, 60), st.integers(1, 30), st.randoms())
def test_scaled_counts_sum_to_ipc_and_stay_within_one_of_the_share(scores, ipc, bins, random):
    found = scale_counts(scores, ipc, bins)
    assert found.sum() == ipc
    assert (found >= 0).all()
    assert (np.abs(found - ipc * histogram(scores, bins) / len(scores)) < 1).all()
    shuffled = scores.tolist()
    random.shuffle(shuffled)
    np.testing.assert_array_equal(scale_counts(shuffled, ipc, bins), found)


def test_a_draw_follows_its_rng():
    assert len({tuple(draw(np.linspace(0, 1, 40), [2, 2], np.random.default_rng(seed)).indices)
                for seed in range(20)}) > 15


@given(scores_lists, st.lists(st.integers(0, 8), min_size=1, max_size=12).filter(any), st.integers(0, 5))
def test_draw_keeps_its_contract(scores, counts, seed):
    if len(scores) < sum(counts):
        with pytest.raises(ValueError, match=f"{sum(counts)} images are wanted of only {len(scores)}"):
            draw(scores, counts, np.random.default_rng(seed))
        return
    indices, shortage = draw(scores, counts, np.random.default_rng(seed))
    again = draw(scores, counts, np.random.default_rng(seed))
    np.testing.assert_array_equal(indices, again.indices)
    assert indices.dtype == np.int64
    assert len(set(indices.tolist())) == len(indices) == sum(counts)
    assert set(indices.tolist()) <= set(range(len(scores)))
    there = histogram(scores, len(counts))
    np.testing.assert_array_equal(shortage, np.maximum(np.array(counts) - there, 0))
    found = histogram(scores[indices], len(counts))
    assert (found >= np.minimum(counts, there)).all()


def test_values_on_edges_zeros_and_ones_are_drawn_from_one_bin():
    values = np.array([0.0, 0.1, 0.2, 0.4, 0.5, 0.8, 0.9, 1.0])
    counts = histogram(values)
    indices, shortage = draw(values, counts, np.random.default_rng(0))
    assert sorted(indices.tolist()) == list(range(8))
    assert not shortage.any()
    np.testing.assert_array_equal(bin_of(values), [0, 1, 2, 4, 5, 8, 9, 9])


PUBLISHED = {
    "hill": {10: "1010331001", 20: "1112552111", 50: "1 3 5 6 10 10 6 5 3 1"},
    "ground": {10: "1111111111", 20: "2222222222", 50: "5555555555"},
    "slope": {10: "3311001100", 20: "5522111111", 50: "10 10 6 6 5 5 3 3 1 1"},
    "cliff": {10: "6301000000", 20: "9611111000", 50: "20 15 3 3 2 2 2 1 1 1"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_predefined_counts_are_the_published_tables(name):
    for ipc, text in PUBLISHED[name].items():
        expected = text.split() if " " in text else list(text)
        assert predefined_counts(name, ipc).tolist() == [int(n) for n in expected]


@given(st.sampled_from(["hill", "ground", "slope", "cliff", "uniform"]), st.integers(1, 300))
def test_other_ipcs_resize_the_nearest_table(name, ipc):
    found = predefined_counts(name, ipc)
    assert found.sum() == ipc
    assert found.shape == (10,)
    nearest = min((10, 20, 50), key=lambda published: max(published / ipc, ipc / published))
    share = predefined_counts(name, nearest) * ipc / nearest
    assert (np.abs(found - share) < 1).all()


def test_predefined_counts_name_what_is_wrong():
    with pytest.raises(ValueError, match="the predefined ones are hill, ground, slope, cliff, uniform"):
        predefined_counts("scale", 10)
    with pytest.raises(ValueError, match="ipc is 0"):
        predefined_counts("hill", 0)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [0.5, 1], [[1, 2]]])
def test_bad_counts_are_named(counts):
    with pytest.raises(ValueError, match="give a whole number of images for each bin"):
        draw([0.1, 0.9], counts, np.random.default_rng(0))


def test_bad_scores_are_named():
    for function in (lambda s: scale_counts(s, 2), lambda s: draw(s, [1], np.random.default_rng(0))):
        with pytest.raises(ValueError, match=r"transformed_scores\[1\] is nan"):
            function([0.1, np.nan])


def test_quantiles_stand_for_their_distribution():
    np.testing.assert_allclose(quantiles_of_counts([2, 0, 1, 1]), [0.0625, 0.1875, 0.625, 0.875])
    scores = np.random.default_rng(0).random(8)
    np.testing.assert_allclose(quantiles_of_scores(scores, 8), np.sort(scores))
    assert quantiles_of_scores(scores, 1)[0] == pytest.approx(np.median(scores))


def test_distances_equal_scipys():
    from scipy.stats import entropy, wasserstein_distance

    one, other = np.random.default_rng(0).random((2, 12))
    assert quantile_distance(one, other) == pytest.approx(wasserstein_distance(one, other))
    found, target = np.array([3, 0, 2]), np.array([1, 4, 0])
    assert divergence_to_target(found, target) == pytest.approx(entropy(found + 1 / 3, target + 1 / 3, base=2))
    assert divergence_to_target(target, target) == 0
