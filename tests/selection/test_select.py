"""Selectors: each against its own definition, and all against the contract of the interface."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgs_utils.methods import METHODS
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.feature_rules import s3
from dgs_utils.selection.rule_registry import RULE_FUNCTIONS, Candidates
from dgs_utils.selection.select import select
from dgs_utils.selection.targets import quantiles_of_scores, scale_counts


def make_candidates(name="a", size=30, ipc=5, seed=0):
    rng = np.random.default_rng(seed)
    originals = rng.beta(1, 2, 80)
    return Candidates(
        name=name, size=size, rng=numpy_rng("test", seed, name), scores=rng.beta(0.5, 1, size),
        confidence=rng.random(size), correct=rng.random(size) < 0.6, counts=scale_counts(originals, ipc),
        quantiles=quantiles_of_scores(originals, ipc), reference=originals, features=rng.normal(size=(size, 4)) + 1,
        real_features=rng.normal(size=(20, 4)) + 1, mean_probability=rng.random(size))


@pytest.mark.parametrize("name", sorted(RULE_FUNCTIONS))
@given(seed=st.integers(0, 1000), size=st.integers(5, 40))
@settings(max_examples=15, deadline=None)
def test_every_selector_returns_distinct_images_and_repeats_itself(name, seed, size):
    ipc = 5
    first, second = (
        select(name, [make_candidates("a", size, ipc, seed), make_candidates("b", size, ipc, seed + 1)], ipc)
        for _ in range(2))
    for one, again in zip(first, second, strict=True):
        assert len(set(one.tolist())) == (size if name == "all" else ipc)
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("name", sorted(RULE_FUNCTIONS))
def test_order_of_classes_does_not_matter(name):
    def classes():
        return [make_candidates(c, 40, 5, seed) for seed, c in enumerate("abcd")]

    forward, backward = select(name, classes(), 5), select(name, classes()[::-1], 5)[::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_method_of_the_tables_that_selects_has_its_selector():
    missing = {m.rule_name for m in METHODS.values() if m.source in ("originals", "pool")} - RULE_FUNCTIONS.keys()
    assert not missing


def s3_value(classes, chosen, ipc):
    def direction(x):
        mean = np.mean([v / np.linalg.norm(v) for v in x], axis=0)
        return mean / np.linalg.norm(mean)

    centres = [direction(c.features[g * ipc : (g + 1) * ipc]) for c, g in zip(classes, chosen, strict=True)]
    pull = sum(-np.log(1 - m @ direction(c.real_features)) for m, c in zip(centres, classes, strict=True))
    push = sum(np.log(1 - centres[i] @ centres[j]) for i, j in combinations(range(len(centres)), 2))
    return 0.4 * pull + 0.9 * push


def test_s3_reaches_a_choice_that_no_single_change_improves():
    ipc = 4
    classes = [make_candidates(name, 20, ipc, seed) for seed, name in enumerate("abc")]
    chosen = [int(indices[0]) // ipc for indices in s3(classes, ipc)]
    value = s3_value(classes, chosen, ipc)
    for i, g in product(range(3), range(5)):
        other = [*chosen[:i], g, *chosen[i + 1 :]]
        assert s3_value(classes, other, ipc) <= value + 1e-9
    assert [indices.tolist() for indices in s3(classes, ipc)] == [list(range(4 * g, 4 * g + 4)) for g in chosen]


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="no selection rule 'best'"):
        select("best", [make_candidates()], 5)
    with pytest.raises(ValueError, match="class a has 30 images for ipc 31"):
        select("first", [make_candidates()], 31)


def test_a_selector_that_breaks_its_contract_is_caught(monkeypatch):
    monkeypatch.setitem(RULE_FUNCTIONS, "twice", lambda candidates, ipc: np.zeros(ipc, int))
    with pytest.raises(ValueError, match="'twice' returned 5 indices of class a, of which 1 are distinct"):
        select("twice", [make_candidates()], 5)
