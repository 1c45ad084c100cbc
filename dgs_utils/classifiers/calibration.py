"""How far a scorer's probabilities can be trusted: calibration error, reliability, and the temperature that mends it.

A temperature T divides the logits before softmax (Guo et al., 2017): it changes how sure a scorer is, never which class
it takes an image for. Fitted to few images it can do harm, so it comes with an interval.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaincinv, log_softmax

from dgs_utils.classifiers.outputs import log_probabilities

BOUNDS = (0.05, 20.0)  # of temperatures
BINS = 15  # of confidence, as in Guo et al. (2017)


class Temperature(NamedTuple):
    """A fitted temperature."""

    value: float  # to divide logits by: the end of the interval that is nearest to 1, or 1 where the interval holds 1
    estimate: float  # the temperature of the least log loss
    low: float  # lower end of the interval; the least of `BOUNDS` where the images do not bound it
    high: float  # upper end, the same
    images: int  # number of images that it was fitted to


def fit_temperature(logits: ArrayLike, target: ArrayLike) -> Temperature:
    """Fit the temperature of a scorer to images that it was not trained on, with its 95 % profile likelihood interval.

    The interval holds every T whose log likelihood is less than half a χ² quantile below the largest. Its end nearest
    to 1 is the least correction that the images ask for: it never did harm where the estimate did, in few images of
    which all are recognised, whose least log loss is at T → 0.

    Args:
        logits: shape (N, classes), N ≥ 1, two classes or more; NumPy or torch.
        target: index of the true class among the logits: one for all, or shape (N,).

    Raises:
        ValueError: logits that are not finite, or targets that are no class indices.

    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(2000, 5)) * 3
    >>> labels = (logits / 2 + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn at a temperature of 2
    >>> fitted = fit_temperature(logits, labels)
    >>> bool(fitted.low < 2 < fitted.high), round(fitted.estimate, 1)
    (True, 2.0)
    """
    values, target = log_probabilities(logits, target, "logits")
    own = np.take_along_axis(values, target[:, None], axis=1)

    def loss(log_t: float) -> float:
        return -float(np.sum(log_softmax(values * np.exp(-log_t), axis=1)[np.arange(len(own)), target]))

    ends = np.log(BOUNDS)
    best = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-7})
    limit = best.fun + gammaincinv(0.5, 0.95)  # half of a quantile of χ² with one degree of freedom
    low, high = (_crossing(lambda log_t: loss(log_t) - limit, best.x, end) for end in ends)
    estimate, low, high = np.exp([best.x, low, high]).tolist()
    return Temperature(float(np.clip(1.0, low, high)), estimate, low, high, len(values))


def _crossing(excess: Callable[[float], float], best: float, end: float) -> float:
    """Return where a function that is negative at ``best`` becomes 0 on the way to ``end``; the end if it does not."""
    return end if excess(end) <= 0 else brentq(excess, best, end)


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """Return how often a scorer is right where it is how sure, the points of a reliability diagram.

    Args:
        confidence: largest probability of each image, in [0, 1].
        correct: whether the scorer's first choice is the class of the image.
        bins: equal intervals of confidence (open below, closed above).

    Returns:
        A row for each interval with images: images, confidence and accuracy, the last two as means.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    table = pd.DataFrame({"bin": index, "confidence": confidence, "accuracy": correct})
    return table.groupby("bin").agg(images=("confidence", "size"), confidence=("confidence", "mean"),
                                    accuracy=("accuracy", "mean")).reset_index(drop=True)


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy in the rows of `reliability`.

    >>> calibration_error([0.9, 0.9, 0.9, 0.9], [True, True, True, False])
    0.15
    """
    rows = reliability(confidence, correct, bins)
    gaps = (rows["confidence"] - rows["accuracy"]).abs()
    return round(float((gaps * rows["images"]).sum() / rows["images"].sum()), 12)
