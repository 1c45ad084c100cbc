"""The clipped logarithm and the search for its thresholds, against published numbers and the equations."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgs_utils.selection.histograms import bin_of, edges, histogram, largest_remainder
from dgs_utils.selection.thresholds import apply_scale, fit_scale, log_transform, search_thresholds

DATA = json.loads((Path(__file__).parents[1] / "data" / "transform_cases.json").read_text())
CASES = {case["id"]: case for case in DATA["cases"]}
DEGENERATE = {case["id"]: case for case in DATA["degenerate"]}
AS_TEXT = [lambda k: np.array(k) / 1e4, lambda k: np.array(k) * 1e-4]  # two ways to store four decimals as float64

scores_lists = st.lists(st.integers(0, 10_000), min_size=3, max_size=60).map(lambda k: np.array(k) / 1e4)


@pytest.mark.parametrize("stored", AS_TEXT, ids=["decimal", "product"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_thresholds_and_target_are_the_published_ones(case, stored):
    found = search_thresholds(stored(case["pool"]), case["ipc"] // 2)
    assert (found.bottom, found.top) == (case["bottom"], case["top"])
    if "objective" in case:
        expected = np.array([[float(value) for value in row] for row in case["objective"]])
        np.testing.assert_allclose(found.objective, expected, rtol=0, atol=1e-9)
    transformed = log_transform(stored(case["original"]), found.bottom, found.top)
    np.testing.assert_array_equal(histogram(transformed), case["histogram"])
    np.testing.assert_array_equal(largest_remainder(case["histogram"], case["ipc"]), case["target"])


@pytest.mark.parametrize("case", [c for c in CASES.values() if "log_pool" in c], ids=lambda c: c["id"])
def test_transformed_scores_are_the_published_ones(case):
    for name in ("pool", "original"):
        found = log_transform(np.array(case[name]) / 1e4, case["bottom"], case["top"])
        np.testing.assert_allclose(found, case[f"log_{name}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("objective", ["code", "paper"])
@pytest.mark.filterwarnings("ignore:every pair:UserWarning", "ignore:the scores have no spread:UserWarning")
def test_degenerate_input_gives_finite_transformed_scores(case, objective):
    pool, limit = np.array(case["pool"]) / 1e4, max(1, case["ipc"] // 2)
    bottom, top, surface = search_thresholds(pool, limit, objective=objective)
    assert 0 <= bottom < limit
    assert 0 <= top < limit
    assert surface.shape == (limit, limit)
    assert not np.isnan(surface).any()
    transformed = log_transform(pool, bottom, top, objective)
    assert ((transformed >= 1e-4) & (transformed <= 1)).all()


def reference_transform(scores, bottom, top, reading):
    """Eqs. 7–8 score by score, in the two readings of the documentation."""
    ordered = sorted(scores)
    lo, hi = ordered[bottom], ordered[len(ordered) - 1 - top]
    if reading == "code":
        lo = lo or 1e-4
        clipped = [min(max(x, lo), hi) for x in scores]
        return [max(math.log(x / lo) / math.log(hi / lo), 1e-4) for x in clipped]
    clipped = [x + 1e-4 if lo <= x <= hi else 1e-4 for x in scores]
    least, most = min(clipped), max(clipped)
    return [max(math.log(x / least) / math.log(most / least), 1e-4) for x in clipped]


def reference_divergence(p, q):
    """KL(p ‖ q) in bits of two lists of counts."""
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return math.inf
    return sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("reading", ["code", "paper"])
@pytest.mark.parametrize("bins", [4, 10])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_objective_equals_its_equation(reading, bins, weight):
    scores = np.random.default_rng(3).beta(0.4, 1.2, 80)
    found = search_thresholds(scores, 6, weight, reading, bins)
    raw, uniform = histogram(scores, bins).tolist(), [1] * bins
    expected = np.empty((6, 6))
    for bottom in range(6):
        for top in range(6):
            h = np.histogram(reference_transform(scores, bottom, top, reading), bins=bins, range=(0, 1))[0].tolist()
            if reading == "code":
                terms = reference_divergence(raw, h), reference_divergence(uniform, h)
            else:
                h, smooth = [n + 1 for n in h], [n + 1 for n in raw]
                terms = reference_divergence(h, smooth), reference_divergence(h, uniform)
            expected[bottom, top] = sum(w * t for w, t in zip((weight, 1 - weight), terms, strict=True) if w > 0)
    np.testing.assert_allclose(found.objective, expected, atol=1e-12)
    assert expected[found.bottom, found.top] == pytest.approx(expected.min(), abs=1e-12)


@pytest.mark.parametrize("reading", ["code", "paper"])
def test_paper_and_code_treat_the_hardest_clipped_images_oppositely(reading):
    scores = np.array([0.1, 0.2, 0.4, 0.8, 0.9])
    found = log_transform(scores, 1, 1, reading)
    np.testing.assert_allclose(found, reference_transform(scores, 1, 1, reading), atol=1e-15)
    assert found[0] == 1e-4
    assert found[4] == (1 if reading == "code" else 1e-4)


@given(scores_lists, st.integers(0, 20), st.integers(0, 20), st.sampled_from(["code", "paper"]), st.randoms())
@pytest.mark.filterwarnings("ignore:the scores have no spread:UserWarning")
def test_transform_stays_in_range_is_monotone_and_ignores_order(scores, bottom, top, reading, random):
    bottom, top = bottom % len(scores), top % len(scores)
    if bottom + top >= len(scores):
        with pytest.raises(ValueError, match="cross"):
            log_transform(scores, bottom, top, reading)
        return
    found = log_transform(scores, bottom, top, reading)
    assert found.dtype == np.float64
    assert ((found >= 1e-4) & (found <= 1)).all()
    order = np.argsort(scores, kind="stable")
    kept = order if reading == "code" else order[: len(order) - top]  # "paper" sends the hardest back to the bottom
    kept = kept[scores[kept] <= scores[order[len(order) - 1 - top]]]
    assert (np.diff(found[kept]) >= 0).all()
    shuffled = list(range(len(scores)))
    random.shuffle(shuffled)
    np.testing.assert_array_equal(log_transform(scores[shuffled], bottom, top, reading), found[shuffled])


@given(scores_lists, st.integers(1, 8), st.sampled_from(["code", "paper"]))
@settings(max_examples=50)
@pytest.mark.filterwarnings("ignore:every pair:UserWarning", "ignore:the scores have no spread:UserWarning")
def test_search_agrees_with_the_transform_at_every_usable_pair(scores, limit, objective):
    surface = search_thresholds(scores, limit, objective=objective).objective
    raw = histogram(np.rint(scores * 1e4) * 1e-4).tolist()
    for bottom, top in np.argwhere(np.isfinite(surface)):
        h = histogram(log_transform(scores, int(bottom), int(top), objective)).tolist()
        if objective == "code":
            terms = reference_divergence(raw, h), reference_divergence([1] * 10, h)
        else:
            h, smooth = [n + 1 for n in h], [n + 1 for n in raw]
            terms = reference_divergence(h, smooth), reference_divergence(h, [1] * 10)
        assert surface[bottom, top] == pytest.approx(sum(terms) / 2, abs=1e-9)


@given(scores_lists, st.randoms())
@settings(max_examples=50)
@pytest.mark.filterwarnings("ignore:every pair:UserWarning")
def test_search_ignores_the_order_of_images(scores, random):
    shuffled = scores.tolist()
    random.shuffle(shuffled)
    first, second = search_thresholds(scores, 5), search_thresholds(shuffled, 5)
    assert first[:2] == second[:2]
    np.testing.assert_array_equal(first.objective, second.objective)


def test_every_value_belongs_to_one_bin_as_in_numpy():
    values = np.array([*(k / 20 for k in range(21)), np.nextafter(0.5, 0), 0.30000000000000004, 0.7000000000000001])
    for bins in (2, 7, 10, 25):
        np.testing.assert_array_equal(histogram(values, bins), np.histogram(values, bins=bins, range=(0, 1))[0])
        on_edge = bin_of(edges(bins), bins)
        np.testing.assert_array_equal(on_edge, [*range(bins), bins - 1])


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_equal_scores_are_kept_untransformed_with_a_warning(value):
    with pytest.warns(UserWarning, match="no spread"):
        found = log_transform([value] * 30, 0, 0)
    np.testing.assert_array_equal(found, np.full(30, max(value, 1e-4)))
    with pytest.warns(UserWarning, match="nothing is clipped"):
        assert search_thresholds([value] * 30, 5)[:2] == (0, 0)


def test_all_pairs_infinite_falls_back_to_no_clipping_with_a_warning():
    scores = [0.2] * 10 + [0.9] * 10  # two values fill two bins at the most
    with pytest.warns(UserWarning, match="nothing is clipped"):
        found = search_thresholds(scores, 4)
    assert found[:2] == (0, 0)
    assert np.isinf(found.objective).all()


def test_mostly_zero_scores_never_win_by_nan():
    scores = np.array([0.0] * 46 + [0.2, 0.5, 0.7, 0.9])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = search_thresholds(scores, 5)
    assert not np.isnan(found.objective).any()
    assert np.isinf(found.objective[:, 4]).all()  # four clipped at the top leave hi = 0 below lo = 1e-4


def test_no_search_range_means_no_clipping():
    found = search_thresholds([0.1, 0.2, 0.3], 0)
    assert found[:2] == (0, 0)
    assert found.objective.shape == (0, 0)


def test_pairs_beyond_a_small_class_are_infinite():
    found = search_thresholds(np.linspace(0.01, 1, 30), 40)
    bottom, top = np.nonzero(np.isfinite(found.objective))
    assert (bottom + top < 30).all()
    assert found.bottom + found.top < 30


def test_shared_scale_applies_one_function_to_both_sets():
    pool, originals = np.array([0.01, 0.1, 0.5, 1.0]), np.array([0.001, 0.05, 0.5])
    scale = fit_scale(pool, 0, 0)
    expected = [1e-4, math.log(5) / math.log(100), log_transform(pool, 0, 0)[2]]
    np.testing.assert_allclose(apply_scale(originals, scale), expected)


@pytest.mark.parametrize(("scores", "message"), [
    ([0.1, float("nan")], r"scores\[1\] is nan"),
    ([0.1, 1.2], r"scores\[1\] is 1.2"),
    ([-0.1, 0.2], r"scores\[0\] is -0.1"),
    ([], "at least one"),
    ([[0.1, 0.2]], "one score per image"),
])
def test_bad_scores_are_named(scores, message):
    for function in (lambda: log_transform(scores, 0, 0), lambda: search_thresholds(scores, 3)):
        with pytest.raises(ValueError, match=message):
            function()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="cross"):
        log_transform([0.1, 0.2, 0.3], 2, 1)
    with pytest.raises(ValueError, match="at least 0"):
        log_transform([0.1, 0.2, 0.3], -1, 0)
    with pytest.raises(ValueError, match="'code', 'paper' or 'none'"):
        search_thresholds([0.1, 0.2], 2, objective="both")
    with pytest.raises(ValueError, match="weight 2"):
        search_thresholds([0.1, 0.2], 2, weight=2)
