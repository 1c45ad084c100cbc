"""Coresets: what they promise of any features; `test_rules` compares them with slow definitions."""

import numpy as np
import pytest

from dgs_utils.selection.coresets import herding, k_center


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
