"""Sanity checks of scorers: every fault is planted and reported, and honest scorers are left alone."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from small_world import small_classifier

from dgs_utils.classifiers.sanity_checks import (
    best_outputs,
    better_preparation,
    other_preparations,
    scorer_sanity_checks,
    separation,
)
from dgs_utils.classifiers.scorer import Classifier

TEN = [str(digit) for digit in range(10)]
GIVEN = np.arange(10)


@cache
def digits(steps: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of a scorer of ten digits after some steps, and labels, of scans that it has not seen."""
    bunch = load_digits()
    pixels = torch.from_numpy(np.round(bunch.images[:-200] * 255 / 16).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)
    scorer = small_classifier(10, steps)
    with torch.inference_mode():
        return scorer(pixels).double().numpy(), bunch.target[:-200]


def many(outputs: int, first: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits with more outputs, of which those from ``first`` on are the digits'."""
    logits, labels = digits()
    wide = np.random.default_rng(seed).normal(logits.min(), 1.0, (len(logits), outputs))
    wide[:, first : first + 10] = logits
    return wide, labels


def some(count: int, seed: int = 0) -> np.ndarray:
    """Return ``count`` images of each digit."""
    labels, rng = digits()[1], np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == digit))[:count] for digit in range(10)])


def checked(logits, labels, index=GIVEN, **options) -> list[str]:
    return scorer_sanity_checks(logits, labels, np.asarray(index), TEN, **options)


# ---- Honest scorers --------------------------------------------------------------------------------------------------

def test_honest_scorers_are_left_alone():
    for steps in (8, 15, 30, 60):  # the first one recognises a third
        assert checked(*digits(steps)) == [], steps
    assert checked(*many(1000, 300), index=GIVEN + 300) == []
    assert checked(*many(1001, 301), index=GIVEN + 301) == []


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_small_classes_are_left_alone(count):
    for steps in (15, 60):
        logits, labels = digits(steps)
        for seed in range(10):
            rows = some(count, seed)
            assert checked(logits[rows], labels[rows]) == [], (steps, seed)


def test_a_class_that_is_honestly_confused_is_no_wrong_table():
    wide, labels = many(1000, 300)
    wide[:, 17] = wide[:, 303] + np.random.default_rng(1).normal(0.5, 0.1, len(wide))  # a near synonym wins mostly
    assert (wide[labels == 3].argmax(axis=1) == 17).mean() > 0.8
    assert checked(wide, labels, index=GIVEN + 300) == []


# ---- Planted faults --------------------------------------------------------------------------------------------------

def test_an_offset_by_one_and_the_background_class_are_reported():
    wide, labels = many(1001, 301)
    [problem] = checked(wide, labels, index=GIVEN + 300)
    assert problem.startswith("the images of each class are answered by the output 1 after the one that "
                              "prepare.class_index gives in the scorer; of 1,001 outputs, 0 is TensorFlow's background;"
                              " add 1 to each index")
    [problem] = checked(*many(1000, 300), index=GIVEN + 301)
    assert "the output 1 before the one" in problem
    assert "background" not in problem


def test_a_permutation_is_reported_with_the_right_outputs_also_where_lucky_images_hide_it():
    logits, labels = digits()
    for order in (np.roll(GIVEN, 1), GIVEN[::-1], np.random.default_rng(0).permutation(10)):
        lucky = logits.copy()
        for digit in range(10):  # one image of each class is recognised by the wrong output
            lucky[np.flatnonzero(labels == digit)[0], order[digit]] += 50
        for answers in (logits, lucky):
            wrong = np.argsort(order)
            [problem] = checked(answers, labels, wrong, names=TEN)
            moved = np.flatnonzero(wrong != GIVEN)
            assert best_outputs(answers, labels, wrong).tolist() == GIVEN.tolist()
            assert problem.startswith(f"the images of {len(moved)} of 10 classes are answered by other outputs of the "
                                      f"scorer than prepare.class_index gives: class {moved[0]} by output {moved[0]} "
                                      f"({moved[0]}), not {wrong[moved[0]]}")


def test_two_exchanged_classes_are_reported_with_ten_images_each():
    logits, labels = digits()
    rows, index = some(10), GIVEN.copy()
    index[[3, 7]] = 7, 3
    [problem] = checked(logits[rows], labels[rows], index)
    assert "of 2 of 10 classes" in problem
    assert "class 3 by output 3, not 7, class 7 by output 7, not 3; correct the table" in problem


def test_a_scorer_that_guesses_is_reported():
    logits, labels = digits()
    rng = np.random.default_rng(0)
    for answers in (rng.normal(size=logits.shape), np.eye(10)[np.full(len(labels), 4)] + 1e-3 * rng.normal(
            size=logits.shape)):  # noise, and a head that always says the same
        [problem] = checked(answers, labels)
        assert "no better than guessing among the 10 classes" in problem
    right = np.arange(100) < 16
    labels = np.arange(100) % 10
    tails = sum(math.comb(100, k) * 0.1**k * 0.9 ** (100 - k) for k in range(16, 101))
    assert 0.03 < tails < 0.05  # so 16 of 100 pass where answers are spread evenly
    answers = np.eye(10)[np.where(right, labels, (labels + 1 + np.arange(100) // 10 % 9) % 10)]
    assert not any("guessing" in problem for problem in checked(answers, labels))


def test_a_scorer_that_prefers_outputs_without_the_task_is_advised_to_leave_them_out():
    wide, labels = many(1000, 300)
    wide[:, 0] += 100
    [problem] = checked(wide, labels, index=GIVEN + 300)
    assert "takes 0 of 1597 original images for their class among all its 1,000 outputs" in problem
    assert problem.endswith("set difficulty.over to task")


def test_a_class_that_is_never_recognised_is_named():
    logits, labels = digits()
    answers, rng = logits.copy(), np.random.default_rng(0)
    others = rng.choice(np.flatnonzero((labels != 5) & (logits.argmax(axis=1) != 5)), (labels == 5).sum())
    answers[labels == 5] = logits[others]  # the folder of class 5 holds images of the others
    [problem] = checked(answers, labels)
    assert problem == ("the scorer recognises no original image of class 5; check the class's index in "
                       "prepare.class_index, and its images")


def test_another_accuracy_than_the_known_one_is_reported():
    weak = digits(8)
    accuracy = (weak[0].argmax(axis=1) == weak[1]).mean()
    assert checked(*weak, expected=accuracy, expected_by="own") == []
    assert checked(*weak, expected=1.9 * accuracy, expected_by="published") == []
    [problem] = checked(*weak, expected=accuracy + 0.2, expected_by="own")
    assert f"recognises {accuracy:.0%} of 1597 original images, and had after its training an accuracy of" in problem
    [problem] = checked(*weak, expected=min(1.0, 2.4 * accuracy), expected_by="published")
    assert "was published with an accuracy of" in problem


def test_a_wrong_preprocessing_is_reported_with_the_right_one():
    bunch, scorer = load_digits(), small_classifier(10, 60)
    pixels = torch.from_numpy(np.round(bunch.images[:256] * 255 / 16).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)
    labels, ways = bunch.target[:256], other_preparations(scorer, pixels)
    assert "pixels in [-1, 1]" not in ways  # its own
    with torch.inference_mode():
        own = scorer(pixels).numpy()
        others = {name: scorer(seen).numpy() for name, seen in ways.items()}
        by_hand = scorer.network(pixels / 255)
    np.testing.assert_allclose(others["pixels in [0, 1]"], by_hand, atol=1e-3)
    assert better_preparation(own, others, labels, GIVEN) == []
    wrong = Classifier(scorer.network, replace(scorer.config, transform=replace(
        scorer.config.transform, mean=(0.0,) * 3, std=(1 / 255,) * 3)))
    with torch.inference_mode():
        others = {name: wrong(seen).numpy() for name, seen in other_preparations(wrong, pixels).items()}
        bad = wrong(pixels).numpy()
    np.testing.assert_allclose(others["pixels in [-1, 1]"], own, atol=1e-2)
    [problem] = better_preparation(bad, others, labels, GIVEN)
    assert "with pixels in [-1, 1]; give the transform that it was trained with" in problem


def test_separation_is_scikit_learns_area_under_the_curve():
    logits, labels = digits(8)
    areas, _ = separation(logits, labels, 10)
    expected = [[roc_auc_score(labels == digit, logits[:, output]) for output in range(10)] for digit in range(10)]
    np.testing.assert_allclose(areas, expected, atol=1e-12)
