"""Temperatures and calibration errors: against formulas written out, other libraries, and planted temperatures."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from dgs_utils.classifiers.calibration import calibration_error, fit_temperature, reliability


def planted(temperature: float, images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and labels that are drawn at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, 6)) * 4
    return logits, (logits / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)


def log_loss(logits, labels, temperature):
    return -log_softmax(logits / temperature, axis=1)[range(len(labels)), labels].mean()


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_planted_temperature_is_inside_its_interval_and_the_least_loss_is_that_of_a_grid(temperature):
    logits, labels = planted(temperature, 3000)
    fitted = fit_temperature(torch.tensor(logits), labels)
    assert fitted.low < temperature < fitted.high
    assert (fitted.value == 1) == (fitted.low <= 1 <= fitted.high)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    losses = [log_loss(logits, labels, t) for t in grid]
    assert fitted.estimate == pytest.approx(grid[np.argmin(losses)], rel=0.003)
    ends = [2 * len(labels) * (log_loss(logits, labels, t) - log_loss(logits, labels, fitted.estimate))
            for t in (fitted.low, fitted.high)]
    assert ends == pytest.approx([3.8415, 3.8415], abs=0.01)  # the 95 % quantile of χ² with one degree of freedom


def test_the_interval_covers_as_often_as_it_says():
    covered = [(lambda t: t.low <= 2 <= t.high)(fit_temperature(*planted(2.0, 150, seed))) for seed in range(200)]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_it_corrects_no_more_than_the_images_ask_for():
    logits = np.eye(4)[np.arange(40) % 4] * 2.0
    fitted = fit_temperature(logits, np.arange(40) % 4)  # all right, so that the least loss is at 0
    assert fitted.low == pytest.approx(0.05)
    assert fitted.value == fitted.high < 1
    assert fit_temperature(logits[:4], np.arange(4)).value == 1  # of four images nothing is known
    wrong = fit_temperature(logits, (np.arange(40) + 1) % 4)
    assert wrong.high == pytest.approx(20)
    assert wrong.value == wrong.low > 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ten_images_a_class_of_digits_do_no_harm():
    images, labels = load_digits(return_X_y=True)
    changes, estimates = [], []
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(len(labels))
        train, rest = order[:1000], order[1000:]
        network = MLPClassifier((64,), max_iter=60, random_state=seed).fit(images[train], labels[train])
        logits = np.maximum(images @ network.coefs_[0] + network.intercepts_[0], 0) @ network.coefs_[1]
        logits += network.intercepts_[1]
        held_out = np.concatenate([rest[labels[rest] == digit][:10] for digit in range(10)])
        test = np.setdiff1d(rest, held_out)
        fitted = fit_temperature(logits[held_out], labels[held_out])
        changes.append([log_loss(logits[test], labels[test], value) - log_loss(logits[test], labels[test], 1)
                        for value in (fitted.value, fitted.estimate)])
        estimates.append(fitted.estimate)
    careful, bold = np.array(changes).T
    assert careful.max() < 0.02  # nats
    assert bold.max() > careful.max()  # the least loss of so few images is another matter
    assert max(estimates) / min(estimates) > 1.5


def test_calibration_error_is_its_formula_and_reliability_has_every_image():
    rng = np.random.default_rng(1)
    p = softmax(rng.normal(size=(500, 7)) * 2, axis=1)
    labels = rng.integers(7, size=500)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(10) / 10:
        part = (confidence > low) & (confidence <= low + 0.1)
        if part.any():
            expected += part.mean() * abs(confidence[part].mean() - correct[part].mean())
    assert calibration_error(confidence, correct, 10) == pytest.approx(expected, abs=1e-12)
    rows = reliability(confidence, correct)
    assert rows["images"].sum() == 500
    assert (rows["images"] * rows["accuracy"]).sum() == pytest.approx(correct.sum())


def test_it_is_the_error_of_torchmetrics():
    metrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    rng = np.random.default_rng(2)
    p = softmax(rng.normal(size=(800, 5)) * 2, axis=1)
    labels = rng.integers(5, size=800)
    theirs = metrics.classification.MulticlassCalibrationError(num_classes=5, n_bins=15, norm="l1")
    ours = calibration_error(p.max(axis=1), p.argmax(axis=1) == labels)
    assert ours == pytest.approx(float(theirs(torch.tensor(p), torch.tensor(labels))), abs=1e-6)


def test_the_estimate_is_one_over_netcals():
    scaling = pytest.importorskip("netcal.scaling", reason="netcal is not installed")
    logits, labels = planted(1.7, 1500)
    theirs = scaling.TemperatureScaling()
    theirs.fit(softmax(logits, axis=1), labels)
    weight = float(np.ravel(theirs.weights)[0])
    assert fit_temperature(logits, labels).estimate == pytest.approx(1 / weight, rel=0.01)
