"""How difficult an image is for a classifier (Eq. 6), and other measures on the same scale."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from dgs_utils.classifiers.outputs import OutputScale, log_probabilities

IMPOSSIBLE = 1e300  # cross-entropy of a probability of 0, which c / (1 + c) makes 1


def difficulty_scores(logits: ArrayLike, target: ArrayLike, *, from_: OutputScale = "auto") -> np.ndarray:
    """Return 1 − the probability of the true class among all classes (Eq. 6).

    Args:
        logits: a classifier's outputs, shape (N, classes), or (classes,) for one image; NumPy or torch, any number
            type. With N targets, shape (N,) or (N, 1) is a binary classifier's: log-odds or probability of class 1.
        target: index of the true class among the outputs: one for all, or shape (N,).
        from_: "logits", of which softmax is taken, or "probabilities"; "auto" detects which, if the numbers allow it.

    Returns:
        float64 array of shape (N,), or () for one image, in [0, 1]; computed so that scores near 0 keep their digits.

    Raises:
        ValueError: outputs that are not finite, that may be logits or probabilities, or are neither; or targets that
            are no class indices, out of range, or not one an image.

    >>> difficulty_scores([[0.9, 0.1], [0.4, 0.6]], target=0).round(3)
    array([0.1, 0.6])
    """
    return _difficulty(*log_probabilities(logits, target, from_))


def all_measures(logits: ArrayLike, target: ArrayLike, *, from_: OutputScale = "auto") -> dict[str, np.ndarray]:
    """Return every measure of `MEASURES` by name; arguments as `difficulty_scores`."""
    log_p, target = log_probabilities(logits, target, from_)
    return {name: measure(log_p, target) for name, measure in MEASURES.items()}


def probabilities(logits: ArrayLike, target: ArrayLike, *,
                  from_: OutputScale = "auto") -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (float64, the outputs' shape) and targets, checked; arguments as `difficulty_scores`."""
    log_p, target = log_probabilities(logits, target, from_)
    return np.exp(log_p), target


def _difficulty(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    return _within(-np.expm1(_of_target(log_p, target)))


def _cross_entropy(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return c / (1 + c) with c = −ln p(target): cross-entropy, compressed onto [0, 1)."""
    loss = _within(-_of_target(log_p, target), IMPOSSIBLE)
    return loss / (1 + loss)


def _margin(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (1 − m) / 2 with m = p(target) − the largest other probability; above 1/2 the image is misclassified."""
    p = np.exp(log_p)
    own = _of_target(p, target)
    np.put_along_axis(p, target[..., None], -1, axis=-1)
    return _within((1 - (own - p.max(axis=-1))) / 2)


def _entropy(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the entropy of the prediction over the logarithm of the number of classes; the target is not used."""
    return _within(special.entr(np.exp(log_p)).sum(axis=-1) / np.log(log_p.shape[-1]))


def _el2n(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return ‖p − one-hot(target)‖₂ / √2, the error norm of Paul et al. (2021) over its largest value."""
    p = np.exp(log_p)
    np.put_along_axis(p, target[..., None], _of_target(p, target)[..., None] - 1, axis=-1)
    return _within(np.sqrt((p**2).sum(axis=-1) / 2))


# By name: functions of ln p (N, classes) and target (N,), in [0, 1], 0 the easiest.
MEASURES: dict[str, Callable] = {"difficulty": _difficulty, "margin": _margin, "cross_entropy": _cross_entropy,
                                 "entropy": _entropy, "el2n": _el2n}


def _of_target(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, target[..., None], axis=-1)[..., 0]


def _within(values: np.ndarray, largest: float = 1) -> np.ndarray:
    """Return values of which rounding leaves none below 0 or above the largest, and no 0 with a sign."""
    return np.clip(values, 0, largest) + 0.0
