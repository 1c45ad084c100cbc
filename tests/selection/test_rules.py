"""Rules of selection against literal, slow definitions: with ties, with identical images, for one image and for all."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import kmeans_plusplus

from dgs_utils.methods import METHODS, resolve_method
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection import coresets
from dgs_utils.selection.rule_registry import RULE_FUNCTIONS, Candidates
from dgs_utils.selection.select import prune_hardest, select

UNTIMED = settings(deadline=None, max_examples=40)


def slow_k_center(features, k):
    centre = np.mean(features, axis=0)
    gaps = {i: np.linalg.norm(row - centre) for i, row in enumerate(features)}
    chosen = [first_best(gaps, min(gaps.values()))]
    while len(chosen) < k:
        gaps = {i: min(np.linalg.norm(features[i] - features[c]) for c in chosen)
                for i in range(len(features)) if i not in chosen}
        chosen.append(first_best(gaps, max(gaps.values())))
    return chosen


def slow_herding(features, k):
    mean, chosen = np.mean(features, axis=0), []
    for step in range(k):
        goal = (step + 1) * mean - sum((features[c] for c in chosen), np.zeros_like(mean))
        gaps = {i: np.linalg.norm(row - goal) for i, row in enumerate(features) if i not in chosen}
        chosen.append(first_best(gaps, min(gaps.values())))
    return chosen


@st.composite
def classes(draw, least=1, most=16):
    """A small class: scores with ties, some images twice, and how many to take (often one, or all)."""
    size = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    features = rng.normal(size=(size, draw(st.integers(1, 5)))) + 1
    if draw(st.booleans()):
        features = features[rng.integers(0, size, size)]
    scores = rng.integers(0, draw(st.sampled_from([2, 5, 1000])), size) / 1000
    k = draw(st.sampled_from([1, size, int(rng.integers(1, size + 1))]))
    return Candidates("a", size, np.random.default_rng(0), scores=scores, confidence=rng.random(size),
                      correct=rng.random(size) < 0.6, features=features, mean_probability=rng.random(size)), k


def first_best(values: dict, best: float, slack: float = 1e-9) -> int:
    """Key of the first of the values that equal the best one up to rounding."""
    return next(i for i, value in values.items() if abs(value - best) <= slack * max(abs(best), 1e-12))


def ranked(values) -> list[int]:
    """Indices from low to high, the first of equal ones first."""
    return sorted(range(len(values)), key=lambda i: (values[i], i))


@pytest.mark.parametrize("compute", [0.0, 0.3, 0.5, 1.0])
@given(given_class=classes())
@UNTIMED
def test_compute_aware_moves_a_window_over_the_order_of_scores(compute, given_class):
    candidates, k = given_class
    order = ranked(candidates.scores)
    start = int(compute * (candidates.size - k))
    assert select("cad", [candidates], k, compute=compute)[0].tolist() == order[start : start + k]
    for rule, end in (("easiest", 0.0), ("middle", 0.5)):
        assert select(rule, [candidates], k)[0].tolist() == select("cad", [candidates], k, compute=end)[0].tolist()
    hard = {candidates.scores[i] for i in select("hardest", [candidates], k)[0]}
    assert hard == {candidates.scores[i] for i in select("cad", [candidates], k, compute=1.0)[0]}


def slow_shares(scores, k):
    """Images a stratum: the smallest stratum first, each takes its share of what is missing."""
    low, high = min(scores), max(scores)
    strata = [[] for _ in range(50)]
    for i, score in enumerate(scores):
        place = 0 if high == low else min(int(50 * ((score - low) / (high - low))), 49)
        strata[place].append(i)
    shares, left, missing = {}, 50, k
    for stratum in sorted(strata, key=len):
        share = min(len(stratum), missing // left)
        shares |= {tuple(stratum): share} if stratum else {}
        left, missing = left - 1, missing - share
    return shares


@given(given_class=classes(most=60))
@UNTIMED
def test_stratified_selection_gives_each_stratum_its_share(given_class):
    candidates, k = given_class
    chosen = set(select("stratified", [candidates], k)[0].tolist())
    assert len(chosen) == k
    for stratum, share in slow_shares(candidates.scores.tolist(), k).items():
        assert len(chosen & set(stratum)) == share


@given(given_class=classes(most=60))
@UNTIMED
def test_ccs_is_the_stratified_choice_without_the_hardest_three_tenths(given_class):
    candidates, k = given_class
    stay = max(candidates.size - candidates.size * 3 // 10, k)
    kept = sorted(ranked(candidates.scores)[:stay])
    chosen = set(select("ccs", [candidates], k)[0].tolist())
    assert chosen <= set(kept)
    for stratum, share in slow_shares(candidates.scores[kept].tolist(), k).items():
        assert len(chosen & {kept[i] for i in stratum}) == share


@pytest.mark.parametrize("rule", sorted(RULE_FUNCTIONS.keys() - {"all", "draw", "match", "low_discrepancy", "s3"}))
@given(given_class=classes(least=2), share=st.floats(0.01, 1))
@settings(deadline=None, max_examples=10)
def test_any_rule_can_follow_a_cut(rule, given_class, share):
    candidates, k = given_class
    stay = max(candidates.size - int(share * candidates.size + 1e-9), k)
    kept = sorted(ranked(candidates.scores)[:stay])
    alone = Candidates("a", len(kept), np.random.default_rng(0), **{
        name: getattr(candidates, name)[kept]
        for name in ("keys", "scores", "confidence", "correct", "features", "mean_probability")})
    fresh = Candidates(**vars(candidates) | {"rng": np.random.default_rng(0)})
    assert select(rule, [fresh], k, cut=share)[0].tolist() == [
        kept[i] for i in select(rule, [alone], k, cut=0.0)[0]]


def test_a_cut_leaves_the_asked_number_of_images():
    assert prune_hardest(np.array([0.5, 0.1, 0.5, 0.9]), 0.5).tolist() == [0, 1]
    assert prune_hardest(np.array([0.5, 0.1, 0.5, 0.9]), 1.0, least=3).tolist() == [0, 1, 2]
    assert len(prune_hardest(np.arange(10) / 10, 0.3)) == 7  # 0.3 · 10 falls short of 3 in binary


@given(given_class=classes())
@UNTIMED
def test_moderate_takes_those_around_the_median_distance(given_class):
    candidates, k = given_class
    centre = candidates.features.mean(axis=0)
    gaps = [float(np.linalg.norm(row - centre)) for row in candidates.features]
    chosen = select("moderate", [candidates], k)[0].tolist()
    below = sorted(gaps)[: (candidates.size - k) // 2]
    assert sorted(gaps[i] for i in chosen) == pytest.approx(sorted(gaps)[len(below) : len(below) + k], abs=1e-9)


@given(given_class=classes())
@UNTIMED
def test_prototypes_are_the_centres_of_lloyds_rounds(given_class):
    candidates, k = given_class
    x, rng = candidates.features, np.random.default_rng(1)
    centres, _ = kmeans_plusplus(x, k, random_state=int(np.random.default_rng(1).integers(2**31)))
    for _ in range(20):
        nearest = [min(range(k), key=lambda c: (round(float(((row - centres[c]) ** 2).sum()), 9), c)) for row in x]
        centres = np.array([np.mean([r for r, n in zip(x, nearest, strict=True) if n == c], axis=0)
                            if c in nearest else centres[c] for c in range(k)])
    gaps = [min(float(np.linalg.norm(row - c)) for c in centres) for row in x]
    assert coresets.distances_to_centres(x, coresets.k_means(x, k, rng)) == pytest.approx(gaps, abs=1e-6)
    again = Candidates(**vars(candidates) | {"rng": np.random.default_rng(1)})
    near = select("prototypes_near", [again], k)[0]
    again = Candidates(**vars(candidates) | {"rng": np.random.default_rng(1)})
    far = select("prototypes_far", [again], k)[0]
    assert sorted(gaps[i] for i in near) == pytest.approx(sorted(gaps)[:k], abs=1e-6)
    assert sorted(gaps[i] for i in far) == pytest.approx(sorted(gaps)[len(gaps) - k :], abs=1e-6)


def similarity(a, b):
    return (1 + a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) / 2


@given(given_class=classes())
@UNTIMED
def test_facility_location_takes_the_largest_gain_at_every_step(given_class):
    candidates, k = given_class
    x, chosen = candidates.features, []

    def value(members):
        return sum(max((similarity(row, x[j]) for j in members), default=0.0) for row in x)

    found = select("facility_location", [candidates], k)[0].tolist()
    for taken in found:
        gains = {j: value([*chosen, j]) - value(chosen) for j in range(candidates.size) if j not in chosen}
        assert gains[taken] >= max(gains.values()) - 1e-5
        chosen.append(taken)


def test_the_lazy_choice_is_that_of_all_gains_on_a_larger_class():
    x = numpy_rng("facility").normal(size=(700, 6)).astype(np.float32)
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    similarities, covered, expected = (1 + unit @ unit.T) / 2, np.zeros(700), []
    for _ in range(30):
        gains = np.maximum(similarities - covered[:, None], 0).sum(axis=0)
        gains[expected] = -1
        expected.append(int(gains.argmax()))
        covered = np.maximum(covered, similarities[:, expected[-1]])
    assert coresets.facility_location(x, 30).tolist() == expected


@given(given_class=classes(most=6))
@UNTIMED
def test_d2_passes_scores_along_the_graph(given_class):
    """Up to six images, so that each has all others as neighbours and no tie decides which."""
    candidates, k = given_class
    x, scores, size = candidates.features, candidates.scores, candidates.size
    unit = np.mean([np.linalg.norm(row) for row in x])
    gap = {(i, j): float(np.linalg.norm(x[i] - x[j]) / unit) for i, j in itertools.permutations(range(size), 2)}
    density = {i: scores[i] + sum(np.exp(-gap[i, j]) * scores[j] for j in range(size) if j != i) for i in range(size)}
    found = coresets.graph_density(x, scores, k).tolist()
    for taken in found:
        assert density[taken] >= max(density.values()) - 1e-5
        own = density.pop(taken)
        for j in density:
            density[j] -= np.exp(-0.1 * gap[taken, j]) * own
    assert len(set(found)) == k


def test_d2_lets_influence_reach_only_the_nearest_neighbours():
    x = numpy_rng("d2").normal(size=(60, 3))
    [(_, distances, ids)] = coresets.nearest_neighbours(x, 5)
    for i, row in enumerate(x):
        gaps = {j: np.linalg.norm(row - other) for j, other in enumerate(x) if j != i}
        nearest = sorted(gaps, key=gaps.get)[:5]
        assert ids[i].tolist() == nearest
        assert distances[i] == pytest.approx([gaps[j] for j in nearest], abs=1e-6)
    [(_, distances, ids)] = coresets.nearest_neighbours(np.ones((30, 2), dtype=np.float32), 5)
    assert all(i not in row for i, row in enumerate(ids))
    assert not distances.any()


@given(given_class=classes())
@UNTIMED
def test_reliable_far_takes_the_reliable_first_and_then_by_score_times_distance(given_class):
    candidates, k = given_class
    x = candidates.features
    reliable = {i for i in range(candidates.size) if candidates.correct[i] and candidates.confidence[i] >= 0.5}
    chosen = []
    while len(chosen) < k:
        open_ = [i for i in range(candidates.size) if i not in chosen]
        open_ = [i for i in open_ if i in reliable] or open_
        values = {i: candidates.scores[i] * min((np.linalg.norm(x[i] - x[c]) for c in chosen), default=1.0)
                  for i in open_}
        chosen.append(first_best(values, max(values.values())))
    assert select("reliable_far", [candidates], k)[0].tolist() == chosen


def bin_of(score: float) -> int:
    return min(round(1000 * score) // 100, 9)


def has_target_counts(given_class, k, chosen):
    members = Counter(map(bin_of, given_class.scores))
    found = Counter(bin_of(given_class.scores[i]) for i in chosen)
    return all(found[b] >= min(wanted, members[b]) for b, wanted in enumerate(given_class.counts))


def is_cheapest_match(given_class, k, chosen):
    costs = np.abs(np.subtract.outer(given_class.scores, given_class.quantiles))
    best = costs[linear_sum_assignment(costs)].sum()
    return np.abs(np.sort(given_class.scores[chosen]) - given_class.quantiles).sum() == pytest.approx(best, abs=1e-9)


def leaves_the_least_excess(given_class, k, chosen):
    """Of all images left, the one after which images and target differ least, integrated on a fine grid."""
    x = np.arange(0, 1, 0.0005) + 0.00025  # scores have three digits, so that no step lies between two of its points

    def share(values):
        return (np.asarray(values)[:, None] <= x).sum(axis=0)

    target = share(given_class.reference) / len(given_class.reference)
    for n in range(1, k + 1):
        left = [i for i in range(given_class.size) if i not in chosen[: n - 1]]
        costs = {i: np.square(share(given_class.scores[[*chosen[: n - 1], i]]) - n * target).mean() for i in left}
        if chosen[n - 1] != first_best(costs, min(costs.values()), 1e-9):
            return False
    return True


def by_confidence(given_class, k, chosen):
    sign = -1 if k <= 10 else 1
    order = sorted(range(given_class.size),
                   key=lambda i: (not given_class.correct[i], sign * given_class.confidence[i], i))
    return chosen == order[:k]


def scored_first(given_class, k, chosen):
    return sum(given_class.scores[i] > 0 for i in chosen) == min(k, (given_class.scores > 0).sum())


def nearest_group(given_class, k, chosen):
    """Of one class alone, the group of k neighbours in order whose mean direction is nearest to that of real images."""
    def direction(rows):
        return np.mean([row / np.linalg.norm(row) for row in rows], axis=0)

    def cosine(group):
        a, b = direction(given_class.features[group]), direction(given_class.real_features)
        return a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) if a.any() and b.any() else 0

    groups = [list(range(start, start + k)) for start in range(0, given_class.size - k + 1, k)]
    return chosen in groups and cosine(chosen) >= max(map(cosine, groups)) - 1e-9


OTHERS = {  # rules whose definitions are not tested above
    "first": lambda given_class, k, chosen: chosen == list(range(k)),
    "all": lambda given_class, k, chosen: chosen == list(range(given_class.size)),
    "random": lambda given_class, k, chosen: chosen == np.argsort(given_class.keys, kind="stable")[:k].tolist(),
    "draw": has_target_counts, "match": is_cheapest_match, "confidence": by_confidence, "dual": scored_first,
    "low_discrepancy": leaves_the_least_excess,
    "s3": nearest_group,
    "k_center": lambda given_class, k, chosen: chosen == slow_k_center(given_class.features, k),
    "herding": lambda given_class, k, chosen: chosen == slow_herding(given_class.features, k),
}


@pytest.mark.parametrize("rule", OTHERS)
@given(given_class=classes(), seed=st.integers(0, 1000))
@UNTIMED
def test_what_a_rule_takes_is_what_its_definition_says(rule, given_class, seed):
    (candidates, k), rng = given_class, np.random.default_rng(seed)
    candidates = replace(candidates, quantiles=np.sort(rng.random(k)), reference=rng.random(30).round(3),
                         counts=rng.multinomial(k, np.ones(10) / 10),
                         real_features=rng.normal(size=(5, candidates.features.shape[1])) + 1)
    chosen = select(rule, [candidates], k)[0].tolist()
    assert OTHERS[rule](candidates, k, chosen)


@pytest.mark.parametrize("preset", [name for name, method in METHODS.items() if method.chooses])
def test_a_preset_is_its_score_and_its_rule(preset):
    method = METHODS[preset]
    source = "random" if method.source == "originals" else "pool_random"
    assert resolve_method(source, method.score, method.rule_name) == (preset, method)


@pytest.mark.parametrize("rule", ["k_center", "herding", "facility_location", "moderate", "prototypes_near",
                                  "prototypes_far", "d2", "reliable_far", "stratified", "ccs"])
def test_float32_features_of_identical_images_are_each_taken_once(rule):
    given_class = Candidates("a", 20, np.random.default_rng(0), scores=np.full(20, 0.5), confidence=np.ones(20),
                             correct=np.ones(20, bool), features=np.zeros((20, 4), dtype=np.float32))
    for k in (1, 7, 20):
        assert len(set(select(rule, [given_class], k)[0].tolist())) == k
