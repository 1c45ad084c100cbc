"""The regression of accuracies on measures of sets: planted effects, none, and measures of easy and wrong sets."""

import numpy as np
import pandas as pd
import pytest
from set_measures import MEASURES, explained, real_features, set_measures
from small_world import make_world, outputs_below, small_classifier, write_digits

from dgs_utils.difficulty.scoring import score_images
from dgs_utils.images.image_set import ImageSet


def planted(effect: float) -> pd.DataFrame:
    """Eight rules with six sets each, that differ in their measures; the accuracy follows one of them."""
    rng = np.random.default_rng(0)
    rules = np.repeat(np.arange(8), 6)
    values = rng.normal(size=(8, len(MEASURES)))[rules] + 0.3 * rng.normal(size=(48, len(MEASURES)))
    return pd.DataFrame(values, columns=MEASURES).assign(
        series=rules, best=30 + effect * values[:, 0] + rng.normal(size=48))


def test_a_planted_effect_is_found_on_rules_left_out_and_none_where_there_is_none():
    strong, none = planted(4.0), planted(0.0)
    assert explained(strong, MEASURES) > 0.7
    assert explained(strong, MEASURES[:1]) > explained(strong, MEASURES[1:]) + 0.5
    assert explained(none, MEASURES) < 0.1


def test_measures_tell_easy_doubled_and_mislabelled_sets(tmp_path):
    with outputs_below(tmp_path):
        world = make_world(tmp_path / "world")
    scorer, prepare = small_classifier(), world["prepare"]
    real = real_features(prepare, scorer)
    plain, folder = (write_digits(tmp_path / name, 70, 82) for name in ("plain", "wrong"))
    for name in ("0", "1"):  # exchanged
        (folder / name).rename(folder / f"{name}x")
    (folder / "0x").rename(folder / "1")
    (folder / "1x").rename(folder / "0")
    good, wrong = (set_measures(place, prepare, scorer, real) for place in (plain, folder))
    assert set(good) == set(MEASURES)
    assert wrong["misclassified"] > good["misclassified"] + 0.4
    assert wrong["difficulty"] > good["difficulty"] + 0.3
    assert wrong["density"] < good["density"]
    scores = score_images(ImageSet.read(plain), scorer, np.arange(3))["score"]
    assert good["difficulty"] == pytest.approx(scores.mean())
