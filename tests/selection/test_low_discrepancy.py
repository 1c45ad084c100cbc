"""The order of which every prefix follows the target: its sequence, its bound, its nesting, and it beside the draw."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dgs_utils.selection.difficulty_guided_sampler import DifficultyGuidedSampler
from dgs_utils.selection.rule_registry import Candidates
from dgs_utils.selection.score_rules import low_discrepancy
from dgs_utils.selection.select import select
from dgs_utils.selection.targets import class_target
from dgs_utils.selection.transforms import transform_class


def order_of(scores, reference, size):
    candidates = Candidates("a", len(scores), np.random.default_rng(0), scores=scores, reference=reference)
    return select("low_discrepancy", [candidates], size)[0]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 50), st.sampled_from([0.3, 1, 4]),
       st.sampled_from([0, 1, 3]))
def test_every_prefix_is_within_the_bound_of_the_target(seed, size, originals, shape, digits):
    rng = np.random.default_rng(seed)
    scores, reference = rng.beta(shape, 1, size).round(digits), rng.beta(1, shape, originals).round(digits)
    order, x = order_of(scores, reference, size), np.sort(reference)
    share = np.arange(1, originals) / originals
    spread = (np.diff(x) * share * (1 - share)).sum()  # V
    assert spread <= 0.25
    gaps, left = 0.0, set(range(size))
    for n in range(1, size + 1):
        gaps += np.sqrt(np.abs(np.subtract.outer(reference, scores[sorted(left)])).min(axis=1).mean())
        left.remove(order[n - 1])
        assert wasserstein_distance(scores[order[:n]], reference) <= np.sqrt(spread / n) + gaps / n + 1e-9


def test_where_the_pool_has_everything_it_is_close_at_once():
    """Far closer than the bound of 1/(2√n): at most three quarters of an image's share at any n."""
    grid = np.linspace(0, 1, 2001)
    order = order_of(grid, grid, 64)
    for n in range(1, 65):
        assert wasserstein_distance(grid[order[:n]], grid) <= 0.75 / n


def test_sets_of_all_ipcs_nest():
    rng = np.random.default_rng(0)
    scores, reference = rng.random(60), rng.beta(1, 2, 100)
    whole = order_of(scores, reference, 60).tolist()
    assert sorted(whole) == list(range(60))
    assert all(order_of(scores, reference, n).tolist() == whole[:n] for n in range(1, 60))


def test_it_follows_real_scans_more_closely_than_the_draw():
    """Of each class of digits, at all IPCs to 20: on average at less than 85 % of the draw's distance."""
    images, labels = load_digits(return_X_y=True)
    scorer = LogisticRegression(C=1e-3, max_iter=2000).fit(images[:600], labels[:600])
    scores = 1 - scorer.predict_proba(images)[np.arange(len(labels)), labels]
    gaps = {"draw": [], "low_discrepancy": []}
    for c in range(10):
        pool, real = (np.flatnonzero(labels[rows] == c) + rows.start for rows in (slice(600, 1797), slice(0, 600)))
        scaled = transform_class(scores[pool], scores[real], 5)
        for ipc in range(1, 21):
            for seed in range(5):
                one = Candidates("a", len(pool), np.random.default_rng(seed), scores=scaled.pool,
                                 **class_target(scaled.originals, ipc)._asdict())
                for rule, found in gaps.items():
                    found.append(wasserstein_distance(scaled.pool[select(rule, [one], ipc)[0]], scaled.originals))
    draw, ordered = (np.mean(found) for found in gaps.values())
    assert ordered < 0.85 * draw


def test_the_sampler_has_it_too():
    rng = np.random.default_rng(0)
    originals, pool = rng.beta(1, 2, 80), rng.beta(0.5, 2, 100)
    sampler = DifficultyGuidedSampler(8, rule="low_discrepancy", objective="none").fit(originals, ["a"] * 80)
    small = DifficultyGuidedSampler(5, rule="low_discrepancy", objective="none").fit(originals, ["a"] * 80)
    chosen = sampler.select(pool, ["a"] * 100)
    assert small.select(pool, ["a"] * 100).tolist() == chosen[:5].tolist()
    assert low_discrepancy(Candidates("a", 100, rng, scores=pool, reference=originals), 8).tolist() == chosen.tolist()
