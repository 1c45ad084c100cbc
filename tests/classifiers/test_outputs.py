"""What classifiers of other libraries return, as difficulty: logits, probabilities, one column; else refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

import dgs_utils as dgs
from dgs_utils.classifiers.measures import MEASURES, all_measures

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES, LABELS = IMAGES[:300] / 16, LABELS[:300]
ALL = range(len(LABELS))


@pytest.fixture(scope="module")
def ten():
    return LogisticRegression(max_iter=500).fit(IMAGES, LABELS)


@pytest.fixture(scope="module")
def two():
    return LogisticRegression(max_iter=500).fit(IMAGES, LABELS == 3)


def test_probabilities_and_logits_of_one_classifier_score_alike(ten):
    expected = 1 - ten.predict_proba(IMAGES)[ALL, LABELS]
    for outputs in (ten.decision_function(IMAGES), ten.predict_proba(IMAGES), ten.predict_log_proba(IMAGES)):
        np.testing.assert_allclose(dgs.difficulty_scores(outputs, LABELS), expected, atol=1e-12)
    measures = all_measures(ten.predict_proba(IMAGES), LABELS)
    for name, logits in all_measures(ten.decision_function(IMAGES), LABELS).items():
        np.testing.assert_allclose(measures[name], logits, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("model", [RandomForestClassifier(20, random_state=0), GaussianNB()])
def test_probabilities_of_0_and_1_are_the_ends_of_every_measure(model):
    p = model.fit(IMAGES, LABELS).predict_proba(IMAGES)
    np.testing.assert_allclose(dgs.difficulty_scores(pd.DataFrame(p), LABELS), 1 - p[ALL, LABELS], atol=1e-15)
    sure = all_measures([[0.0, 1.0, 0.0]] * 2, [1, 0])
    assert {name: values.tolist() for name, values in sure.items()} == {
        name: [0, 0 if name == "entropy" else 1] for name in MEASURES}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rounded_probabilities_are_still_told(dtype):
    torch.manual_seed(0)
    p = (5 * torch.randn(20, 1000)).softmax(dim=1).to(dtype)
    target = torch.arange(20)
    exact = p.double().numpy()
    for outputs, told in ((p, exact), (exact.round(4), exact.round(4))):
        np.testing.assert_allclose(dgs.difficulty_scores(outputs, target), 1 - told[range(20), range(20)], atol=1e-15)


def test_one_column_is_class_1_of_two(two):
    labels = (LABELS == 3).astype(int)
    expected = 1 - two.predict_proba(IMAGES)[ALL, labels]
    odds, p = two.decision_function(IMAGES), two.predict_proba(IMAGES)[:, 1]
    for column in (odds, odds[:, None], torch.tensor(odds)):
        np.testing.assert_allclose(dgs.difficulty_scores(column, labels), expected, atol=1e-12)
        np.testing.assert_array_equal(dgs.difficulty_scores(column, LABELS == 3), dgs.difficulty_scores(column, labels))
    np.testing.assert_allclose(dgs.difficulty_scores(p, labels, from_="probabilities"), expected, atol=1e-12)
    assert dgs.difficulty_scores([-40.0], [0]) == pytest.approx(np.exp(-40), rel=1e-12)
    with pytest.raises(ValueError, match="log-odds or the probability of class 1; say from_"):
        dgs.difficulty_scores(p, labels)
    with pytest.raises(ValueError, match="target 2 of image 1 is no class index from 0 to 1"):
        dgs.difficulty_scores(odds[:2], [0, 2])


@given(st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=4))
def test_what_is_said_holds_whatever_the_numbers(rows):
    logits = np.array(rows)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(dgs.difficulty_scores(logits, 1, from_="logits"), 1 - p[:, 1], atol=1e-12)
    np.testing.assert_allclose(dgs.difficulty_scores(p, 1, from_="probabilities"), 1 - p[:, 1], atol=1e-12)
    again = np.exp(p) / np.exp(p).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(dgs.difficulty_scores(p, 1, from_="logits"), 1 - again[:, 1], atol=1e-12)
    if logits.min() < -0.01:
        assert (dgs.difficulty_scores(logits, 1) == dgs.difficulty_scores(logits, 1, from_="logits")).all()


def test_logits_that_happen_to_be_positive_stay_logits():
    relu = np.array([[3.0, 0.0, 0.5], [0.0, 0.0, 4.0]])
    same = np.tile([5.0, 0.0, 0.0], (3, 1))  # of a network that says the same of every image
    for logits in (relu, same, np.zeros((2, 3))):
        found = dgs.difficulty_scores(logits, 0)
        np.testing.assert_array_equal(found, dgs.difficulty_scores(logits, 0, from_="logits"))


P = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])


@pytest.mark.parametrize(("outputs", "sentence"), [
    (100 * P, "every row sums to 100"),
    (np.array([[0.9, 0.8, 0.1], [0.2, 0.1, 0.3]]), r"all lie in \[0, 1\]"),  # one sigmoid a class
    (np.where(P == 0.8, np.nan, P), "NaN or infinity"),
    (P[None], r"shape \(1, 2, 3\)"),
    ([[1.0, 2.0], [3.0]], "no array of numbers"),
    ([["cat", "dog"]], "no array of numbers"),
])
def test_what_is_neither_is_refused_in_a_sentence(outputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        dgs.difficulty_scores(outputs, 0)


@pytest.mark.parametrize("outputs", [[[2.0, -1.0, 0.0]], [[0.5, 0.1, 0.1]], [[1.5, -0.5, 0.0]]])
def test_no_probabilities_where_they_are_said(outputs):
    with pytest.raises(ValueError, match=r"row 1 of the classifier's outputs holds .* say from_='logits'"):
        dgs.difficulty_scores([[0.2, 0.3, 0.5], *outputs], 0, from_="probabilities")


@pytest.mark.parametrize(("target", "sentence"), [
    (np.eye(3, dtype=int)[[0, 2]], r"as target.argmax\(axis=1\) of one-hot rows"),
    ([[0], [2]], r"the targets have the shape \(2, 1\) for outputs of 2 images"),
    ([0, 1, 2], r"shape \(3,\) for outputs of 2 images"), ([1], r"shape \(1,\) for outputs of 2 images"),
    ([0, 3], "target 3 of image 1 is no class index from 0 to 2"),
    ([-1, 0], "target -1 of image 0"),
    ([0.0, 2.0], "float64 instead of whole numbers"),
    (["cat", "dog"], "target cat of image 0"),
    ([True, False], "bool instead of whole numbers"),
    ([[0, 1], [2]], "targets are no array"),
])
@pytest.mark.parametrize("outputs", [P, np.log(P)])
def test_targets_of_another_form_are_refused_in_a_sentence(outputs, target, sentence):
    with pytest.raises(ValueError, match=sentence):
        dgs.difficulty_scores(outputs, target)


def test_targets_of_pandas_and_a_misspelt_kind():
    np.testing.assert_array_equal(dgs.difficulty_scores(P, pd.Series([0, 2], dtype="Int64")),
                                  dgs.difficulty_scores(P, torch.tensor([0, 2], dtype=torch.uint8)))
    with pytest.raises(ValueError, match="from_ is 'probability'; did you mean 'probabilities'"):
        dgs.difficulty_scores(P, 0, from_="probability")


@pytest.mark.parametrize("outputs", [P.argmax(1), torch.tensor([1, 2]), [0, 1], np.array([[True], [False]])])
def test_predicted_labels_are_no_outputs(outputs):
    with pytest.raises(ValueError, match="one output an image is a whole number, so it may be the class that it predi"):
        dgs.difficulty_scores(outputs, [0, 1])


def test_no_zero_has_a_sign():
    for outputs in ([[1.0, 0.0]], [[900.0, -900.0]]):
        for measure in all_measures(outputs, [0]).values():
            assert not np.signbit(measure).any()
