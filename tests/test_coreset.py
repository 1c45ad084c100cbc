"""Coresets: their literal, slow definitions, which `test_rules` holds against them, and what they promise."""

import numpy as np
import pytest

from dgs_utils.selection.coresets import herding, k_center


def first_best(values, best):
    """Key of the first of the values that equal the best one up to rounding."""
    return next(i for i, value in values.items() if np.isclose(value, best, rtol=1e-9, atol=0))


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


@pytest.mark.parametrize("choose", [k_center, herding])
def test_identical_images_are_chosen_once_each(choose):
    features = np.zeros((8, 3))
    assert sorted(choose(features, 8).tolist()) == list(range(8))


def test_herding_keeps_the_mean_better_than_chance():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 16))
    mean = features.mean(axis=0)
    gap = np.linalg.norm(features[herding(features, 20)].mean(axis=0) - mean)
    random = [np.linalg.norm(features[rng.choice(400, 20, replace=False)].mean(axis=0) - mean) for _ in range(50)]
    assert gap < 0.5 * min(random)


def test_k_center_covers_better_than_chance():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 2))

    def radius(chosen):
        return np.linalg.norm(features[:, None] - features[chosen], axis=-1).min(axis=1).max()

    assert radius(k_center(features, 15)) < min(radius(rng.choice(300, 15, replace=False)) for _ in range(50))


@pytest.mark.parametrize("choose", [k_center, herding])
def test_bad_input_is_named(choose):
    features = np.ones((4, 2))
    with pytest.raises(ValueError, match="k is 5 for 4 images"):
        choose(features, 5)
    with pytest.raises(ValueError, match="one row of features"):
        choose(features[0], 1)
    features[2, 1] = np.nan
    with pytest.raises(ValueError, match="image 2 are not finite"):
        choose(features, 2)
