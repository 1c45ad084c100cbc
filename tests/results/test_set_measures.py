"""The regression of accuracies on measures of sets: planted effects, none, and measures of easy and wrong sets."""

import numpy as np
import pandas as pd
import pytest
from set_measures import MEASURES, TABLE, explained, real_features, set_measures, within_rules
from small_world import make_world, outputs_below, small_classifier, write_digits

from dgs_utils.difficulty.scoring import score_images
from dgs_utils.images.image_set import ImageSet
from dgs_utils.results.rows import read_results


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


def test_what_the_evidence_says_of_measures_follows_from_their_table():
    sets = pd.read_csv(TABLE, dtype={"key": str})
    rows = read_results([TABLE.parent / name for name in ("cifar10_pools", "cifar10_ipc")]).set_index("key")
    assert (rows.loc[sets["key"], "best"].to_numpy() == sets["best"]).all()
    assert len(sets) == (rows["ipc"] > 1).sum() == 232
    page = " ".join((TABLE.parent / "README.md").read_text().partition("What do the easiest have")[2].split())
    ten, fifty = (part for _, part in sets.groupby("ipc"))
    for rule, part in ten.groupby("series"):
        told = [f"{value:.2f}".removeprefix("0") for value in part[MEASURES].mean()]
        told[2] = f"{part['effective'].mean():.1f}"
        line = f"| {rule} | {part['best'].mean():.1f} | {' | '.join(told)} |"
        assert (line in page) == (rule in ("Easiest", "DGS", "Random of pool", "Hardest"))
    others = ten[ten["series"] != "Hardest"]
    for words, value in (("an R² of {} with ten", explained(ten, ["difficulty"])),
                         ("worse than the mean ({})", explained(ten, MEASURES)),
                         ("predicts anything** ({} at best)", max(explained(others, [name]) for name in MEASURES)),
                         ("different images give {}, fewer", explained(fifty, ["effective"])),
                         ("and difficulty {}, over", explained(fifty, ["difficulty"])),
                         ("R² of {} at best", max(explained(within_rules(part), [name], "selection_seed")
                                                  for part in (ten, fifty) for name in MEASURES))):
        assert words.format(f"{value:.2f}".replace("0.", ".").replace("-", "−")) in page
    assert others.groupby("series")[["effective", "coverage"]].mean().idxmin().tolist() == ["Easiest", "Easiest"]
