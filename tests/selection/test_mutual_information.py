"""What images tell about their class: against scikit-learn's mutual information and log loss, and where it is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import log_loss, mutual_info_score

from dgs_utils.classifiers.measures import all_measures
from dgs_utils.selection.mutual_information import mutual_information


def scored(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return all_measures(logits, labels)["cross_entropy"]


@given(seed=st.integers(0, 1000), images=st.integers(2, 60), classes=st.integers(2, 7), scale=st.floats(0.1, 4))
def test_it_is_the_entropy_of_classes_less_the_log_loss(seed, images, classes, scale):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, scale, (images, classes)), rng.integers(0, classes, images)
    found = mutual_information(scored(logits, labels), labels)
    loss = log_loss(labels, special.softmax(logits, axis=1), labels=range(classes)) / np.log(2)
    entropy = stats.entropy(np.bincount(labels), base=2)
    assert found.cross_entropy == pytest.approx(loss)
    assert found.class_entropy == pytest.approx(entropy)
    assert found.information == pytest.approx(entropy - loss)
    assert found.information <= found.class_entropy <= np.log2(classes) + 1e-12


def test_a_scorer_that_knows_the_conditional_shares_reaches_the_mutual_information():
    """Images of three kinds; the scorer gives the share of each class among a kind, the best that it can know."""
    rng = np.random.default_rng(0)
    kinds, labels = rng.integers(0, 3, 500), rng.integers(0, 4, 500)
    labels = np.where(kinds == 0, 0, labels)
    table = np.array([[np.mean(labels[kinds == kind] == name) for name in range(4)] for kind in range(3)])
    best = mutual_information(scored(np.log(table + 1e-300)[kinds], labels), labels)
    assert best.information == pytest.approx(mutual_info_score(kinds, labels) / np.log(2))
    worse = mutual_information(scored(np.log(0.9 * table + 0.025)[kinds], labels), labels)
    assert worse.information < best.information  # any other scorer bounds it from below


def test_classes_of_any_name_and_a_scorer_that_is_worse_than_none():
    labels = np.array(["a", "b"] * 10)
    certain = mutual_information(np.zeros(20), labels)
    assert certain == pytest.approx((1, 0, 1, 0))
    shares = mutual_information(np.full(20, np.log(2) / (1 + np.log(2))), labels)
    assert shares.information == pytest.approx(0)
    wrong = mutual_information(np.full(20, 0.9), labels)
    assert wrong.information == pytest.approx(1 - 9 / np.log(2))
    assert np.isnan(mutual_information([0.1], ["a"]).error)


def test_the_error_is_that_of_a_mean():
    values = np.array([0.1, 0.4, 0.2, 0.3])
    bits = values / (1 - values) / np.log(2)
    assert mutual_information(values, [0, 1, 0, 1]).error == pytest.approx(stats.sem(bits))


@pytest.mark.parametrize(("measure", "classes", "sentence"), [
    ([0.1, 1.0], [0, 1], r"cross_entropy\[1\] is 1\.0, .*round_scores = 0"),
    ([0.1, np.nan], [0, 1], r"cross_entropy\[1\] is nan"),
    ([0.1], [0, 1], "shape"), ([], [], "at least one")])
def test_what_cannot_be_taken_is_refused(measure, classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        mutual_information(measure, classes)
