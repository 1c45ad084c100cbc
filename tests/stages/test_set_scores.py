"""Scores of a set without a training: a ridge's closed form, planted sets, and τ's interval in simulation."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

import dgs_utils as dgs
from dgs_utils.difficulty.set_scores import SETS_NEEDED, rank_sets, score_features, score_trust

ROOT = Path(__file__).parents[2]
IMAGES, LABELS = load_digits(return_X_y=True)


def some_set(seed, size, noise=0.0, wrong=0.0):
    """A set of digits, disturbed on purpose; the real images are the last 400."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.choice(np.flatnonzero(LABELS[:1000] == c), size, replace=False) for c in range(10)])
    labels = np.where(rng.random(len(rows)) < wrong, (LABELS[rows] + 1) % 10, LABELS[rows])
    return IMAGES[rows] + noise * rng.normal(size=(len(rows), 64)), labels


def scored(x, labels):
    return score_features(x, labels, IMAGES[1397:], LABELS[1397:])


def test_kernel_ridge_is_its_closed_form():
    x, labels = some_set(0, 5)
    scale = np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    own, real = (x - x.mean(axis=0)) / scale, (IMAGES[1397:] - x.mean(axis=0)) / scale
    to_own, to_real = (np.exp(-cdist(rows, own, "sqeuclidean") / 128) for rows in (own, real))
    weights = np.linalg.solve(to_own + 0.01 * np.eye(len(own)), np.eye(10)[labels] - 0.1)
    expected = 100 * ((to_real @ weights).argmax(axis=1) == LABELS[1397:]).mean()
    assert scored(x, labels)["kernel_ridge"] == pytest.approx(expected)


def test_planted_faults_lower_the_scores_and_copies_raise_the_redundancy():
    good, noisy, mislabelled = (scored(*some_set(0, 10, **faults)) for faults in ({}, {"noise": 8}, {"wrong": 0.4}))
    for name in ("kernel_ridge", "linear_probe"):
        assert good[name] > noisy[name] + 5
        assert good[name] > mislabelled[name] + 5
    x, labels = some_set(0, 5)
    copies = scored(np.repeat(x, 2, axis=0) + np.random.default_rng(0).normal(0, 0.1, (100, 64)), np.repeat(labels, 2))
    assert copies["redundancy"] > good["redundancy"] + 3
    assert scored(x, labels) == scored(x, labels)


def test_digits_are_ranked_as_students_that_train_on_them_rank_them():
    sets = [some_set(seed, (8, 12, 20)[seed % 3], wrong=(0, 0.2, 0.4)[seed // 3 % 3]) for seed in range(18)]
    students = [100 * RidgeClassifier().fit(*one).score(IMAGES[1000:1397], LABELS[1000:1397]) for one in sets]
    scores = pd.DataFrame([scored(*one) for one in sets])
    trust = score_trust(scores, students)
    assert trust.loc["kernel_ridge", "low"] > 0.2
    best = rank_sets(scores, "kernel_ridge", trust)[0]
    assert students[best] > np.median(students)
    assert trust.loc["kernel_ridge", "tau"] == pytest.approx(kendalltau(scores["kernel_ridge"], students).statistic)


def test_the_interval_holds_the_true_tau_as_often_as_it_says():
    rng, held = np.random.default_rng(0), []
    true = 2 / np.pi * np.arcsin(0.6)  # of normal variables of correlation 0.6
    for _ in range(400):
        x = rng.normal(size=(2, 20))
        row = score_trust(pd.DataFrame({"a": x[0]}), 0.6 * x[0] + 0.8 * x[1]).loc["a"]
        held.append(row["low"] <= true <= row["high"])
    assert 0.9 <= np.mean(held) <= 0.99


def test_what_is_not_known_to_rank_is_refused():
    scores = pd.DataFrame({"noise": np.random.default_rng(0).random(20), "same": 1.0, "reverse": -np.arange(20.0)})
    trust = score_trust(scores, np.arange(20.0))
    for name in ("noise", "same"):
        with pytest.raises(ValueError, match=f"{name} is not known to order sets as trained students do"):
            rank_sets(scores, name, trust)
        assert "ranks none" in trust.loc[name, "sentence"]
    assert rank_sets(scores, "reverse", trust) == [*range(19, -1, -1)]
    assert trust.loc["reverse", "high"] < 0
    few = score_trust(scores[: SETS_NEEDED - 1], np.arange(SETS_NEEDED - 1.0))
    assert (few["low"] == -1).all()
    with pytest.raises(ValueError, match="accuracies has shape"):
        score_trust(scores, [1.0])


def trust_of(without=(), only=()):
    """Trust of the scores in tests/data/set_scores.csv by the committed rows of students on the same sets."""
    keys = ["method", "cut", "selection_seed"]
    scores = pd.read_csv(ROOT / "tests/data/set_scores.csv", keep_default_na=False, dtype={"selection_seed": str})
    scores = scores[~scores["method"].isin(["confidence", *without])]
    scores = scores[scores["method"].isin(only) & (scores["cut"] == "")] if only else scores
    rows = pd.read_csv(ROOT / "outputs/evidence/cifar10_rules/results.csv", keep_default_na=False, dtype={
        "selection_seed": str})
    students = rows[rows["judge"].isin(["", "cifar10_resnet_ap10"])].groupby(keys)["best"].mean()
    accuracies = [students[tuple(row)] for row in scores[keys].itertuples(index=False)]
    return score_trust(scores[["kernel_ridge", "linear_probe", "redundancy", "recognised"]], accuracies)


def test_the_page_tells_the_trust_that_follows_from_committed_rows():
    page = (ROOT / "params/set_scores.md").read_text().replace("−", "-")
    columns = [trust_of(), trust_of(["hardest"]), trust_of(only=["pool_random"])]
    assert [int(column["sets"].iloc[0]) for column in columns] == [20, 19, 8]
    for name in columns[0].index:
        [line] = [line for line in page.split("\n") if line.startswith(f"| {name.replace('_', ' ')} |")]
        stated = [[float(n) for n in re.findall(r"-?\.\d\d", cell)] for cell in line.split("|")[2:-1]]
        for column, numbers in zip(columns, stated, strict=True):
            assert numbers == column.loc[name, ["tau", "low", "high"]].astype(float).round(2).tolist()


@pytest.mark.parametrize(("arrays", "message"), [
    ((np.ones((4, 2)), [0, 0, 1, 1], np.ones((2, 3)), [0, 1]), "features have the shapes"),
    ((np.ones((3, 2)), [0, 0, 1], np.ones((2, 2)), [0, 1]), "class 1 has a single image"),
])
def test_bad_arrays_are_named(arrays, message):
    with pytest.raises(ValueError, match=message):
        score_features(*arrays)


def test_a_set_of_files_is_scored_by_a_scorer(tmp_path):
    from small_world import small_classifier, write_digits

    mine, real = (dgs.ImageSet.read(write_digits(tmp_path / name, *span)) for name, span in
                  (("mine", (0, 6)), ("real", (40, 60))))
    found = dgs.score_set(mine, real, small_classifier())
    assert set(found) == {"kernel_ridge", "linear_probe", "redundancy", "recognised"}
    assert all(0 <= value <= 100 for value in found.values())
    assert found["linear_probe"] > 50
    other = dgs.ImageSet.read(write_digits(tmp_path / "two", 0, 6, classes=("0", "1")))
    with pytest.raises(ValueError, match="read both with the same list of classes"):
        dgs.score_set(other, real, small_classifier())
