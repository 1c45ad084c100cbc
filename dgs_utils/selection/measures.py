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
    log_p, target = _log_softmax(logits, target)
    return np.clip(-np.expm1(_of_target(log_p, target)), 0, 1)


def cross_entropy(logits: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Return c / (1 + c) with c = −ln p(target): cross-entropy, compressed onto [0, 1)."""
    log_p, target = _log_softmax(logits, target)
    loss = np.maximum(-_of_target(log_p, target), 0)
    return loss / (1 + loss)


def margin(logits: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Return (1 − m) / 2 with m = p(target) − the largest other probability; above 1/2 the image is misclassified."""
    log_p, target = _log_softmax(logits, target)
    p = np.exp(log_p)
    own = _of_target(p, target)
    np.put_along_axis(p, target[..., None], -1, axis=-1)
    return np.clip((1 - (own - p.max(axis=-1))) / 2, 0, 1)


def entropy(logits: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Return the entropy of the prediction over the logarithm of the number of classes; the target plays no part."""
    log_p, _ = _log_softmax(logits, target)
    return np.clip(special.entr(np.exp(log_p)).sum(axis=-1) / np.log(log_p.shape[-1]), 0, 1)


def el2n(logits: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Return ‖p − one-hot(target)‖₂ / √2, the error norm of Paul et al. (2021) over its largest value."""
    log_p, target = _log_softmax(logits, target)
    p = np.exp(log_p)
    np.put_along_axis(p, target[..., None], _of_target(p, target)[..., None] - 1, axis=-1)
    return np.clip(np.sqrt((p**2).sum(axis=-1) / 2), 0, 1)


MEASURES: dict[str, Callable] = {"difficulty": difficulty_scores, "margin": margin, "cross_entropy": cross_entropy,
                                 "entropy": entropy, "el2n": el2n}


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
