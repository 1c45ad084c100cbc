"""How difficult an image is for a classifier (Eq. 6), and other measures on the same scale."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import special


def difficulty_scores(logits: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Return 1 − softmax(logits)[target] over all classes (Eq. 6).

    Args:
        logits: shape (N, classes), or (classes,) for one image; NumPy or torch, any float type.
        target: index of the true class among the logits: one for all, or shape (N,).

    Returns:
        float64 array of shape (N,), or () for one image, in [0, 1]; computed so that scores near 0 keep their digits.

    Raises:
        ValueError: logits that are not finite, or a target out of range.
    """
    return _difficulty(*_log_softmax(logits, target))


def all_measures(logits: ArrayLike, target: ArrayLike) -> dict[str, np.ndarray]:
    """Return every measure of `MEASURES` by name, from one softmax; arguments as `difficulty_scores`."""
    log_p, target = _log_softmax(logits, target)
    return {name: measure(log_p, target) for name, measure in MEASURES.items()}


def probabilities(logits: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return softmax probabilities (float64, the logits' shape) and targets, checked; arguments as `difficulty_scores`.
    """
    log_p, target = _log_softmax(logits, target)
    return np.exp(log_p), target


def _difficulty(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.clip(-np.expm1(_of_target(log_p, target)), 0, 1)


def _cross_entropy(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return c / (1 + c) with c = −ln p(target): cross-entropy, compressed onto [0, 1)."""
    loss = np.maximum(-_of_target(log_p, target), 0)
    return loss / (1 + loss)


def _margin(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (1 − m) / 2 with m = p(target) − the largest other probability; above 1/2 the image is misclassified."""
    p = np.exp(log_p)
    own = _of_target(p, target)
    np.put_along_axis(p, target[..., None], -1, axis=-1)
    return np.clip((1 - (own - p.max(axis=-1))) / 2, 0, 1)


def _entropy(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the entropy of the prediction over the logarithm of the number of classes; the target plays no part."""
    return np.clip(special.entr(np.exp(log_p)).sum(axis=-1) / np.log(log_p.shape[-1]), 0, 1)


def _el2n(log_p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return ‖p − one-hot(target)‖₂ / √2, the error norm of Paul et al. (2021) over its largest value."""
    p = np.exp(log_p)
    np.put_along_axis(p, target[..., None], _of_target(p, target)[..., None] - 1, axis=-1)
    return np.clip(np.sqrt((p**2).sum(axis=-1) / 2), 0, 1)


# By name: functions of ln p (N, classes) and target (N,), in [0, 1], 0 the easiest.
MEASURES: dict[str, Callable] = {"difficulty": _difficulty, "margin": _margin, "cross_entropy": _cross_entropy,
                                 "entropy": _entropy, "el2n": _el2n}


def _log_softmax(logits: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(logits, torch.Tensor):
        logits = logits.detach().double().cpu().numpy()
    logits = np.asarray(logits, dtype=np.float64)
    if isinstance(target, torch.Tensor):
        target = target.detach().cpu().numpy()
    target = np.broadcast_to(np.asarray(target), logits.shape[:-1])
    if not np.isfinite(logits).all():
        raise ValueError("the classifier's output holds NaN or infinity; use precision 'fp32' or check its weights")
    if not np.issubdtype(target.dtype, np.integer) or (target < 0).any() or (target >= logits.shape[-1]).any():
        raise ValueError(f"a target is no class index from 0 to {logits.shape[-1] - 1}; check the class index table")
    return special.log_softmax(logits, axis=-1), target


def _of_target(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, target[..., None], axis=-1)[..., 0]
