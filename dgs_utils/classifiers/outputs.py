"""Outputs of classifiers as log-probabilities: from logits, probabilities, or a binary classifier's one column."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import special

from dgs_utils.params.base import did_you_mean

OutputScale = Literal["auto", "logits", "probabilities"]
SCALES = ("auto", "logits", "probabilities")
ROUNDING = 0.01  # by which rows of probabilities may miss 1: float16, or a few decimals, over many classes


def log_probabilities(outputs: ArrayLike, target: ArrayLike,
                      from_: OutputScale = "auto") -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of a classifier's probabilities, and the targets, both checked.

    "auto" takes rows that are not negative and sum to 1 as probabilities, and outputs with a number below 0 or above 1
    as logits (as log-probabilities are: softmax does not change them). Outputs that may be either are refused.

    Args:
        outputs: shape (N, classes), or (classes,) for one image; NumPy or torch, any number type. Shape (N,) or (N, 1)
            with N targets is a binary classifier's: log-odds or probability of class 1.
        target: index of the true class: one for all, or shape (N,).
        from_: "logits", "probabilities", or "auto".

    Returns:
        float64 (N, classes) or (classes,), and int64 (N,) or ().

    Raises:
        ValueError: outputs that are neither, not finite or ambiguous, or targets of another form or out of range.
    """
    if from_ not in SCALES:
        raise ValueError(f"from_ is {from_!r}{did_you_mean(str(from_), SCALES)}")
    problem = "the classifier's outputs are no array of numbers; give (images, classes)"
    numbers = _as_array(outputs, problem)
    target = _as_array(target, "the targets are no array; give one class index an image")
    try:
        values = numbers.astype(np.float64)
    except (ValueError, TypeError):
        raise ValueError(problem) from None
    if values.ndim not in (1, 2) or not values.shape[-1]:
        raise ValueError(f"the classifier's outputs have the shape {values.shape}; give (images, classes), or "
                         f"(classes,) for one image")
    binary = (values.ndim == 1 and target.ndim == 1) or values.shape[1:] == (1,)
    if binary and values.size and numbers.dtype.kind in "biu":
        raise ValueError("the classifier's one output an image is a whole number, so it may be the class that it "
                         "predicts, of which no difficulty is known; give its logits or probabilities, as floats")
    values = values.reshape(-1) if binary else values
    count = len(values) if binary else values.shape[-1]
    _check_targets(target, values.shape if binary else values.shape[:-1], 2 if binary else count)
    if not np.isfinite(values).all():
        raise ValueError("the classifier's output holds NaN or infinity; use precision 'fp32' or check its weights")
    if (_detect_scale(values, binary) if from_ == "auto" else from_) == "logits":
        columns = np.stack([np.zeros_like(values), values], axis=-1) if binary else values
        log_p = special.log_softmax(columns, axis=-1)
    else:
        columns = np.stack([1 - values, values], axis=-1) if binary else values
        _check_probabilities(columns)
        with np.errstate(divide="ignore"):
            log_p = np.log(np.clip(columns, 0, 1))
    return log_p, np.broadcast_to(target.astype(np.int64), log_p.shape[:-1])


def _as_array(values: Any, problem: str) -> np.ndarray:
    """Return numbers of any library as an array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # NumPy has no bf16
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(problem) from None
    whole = array.dtype == object and all(isinstance(value, int | np.integer) for value in array.flat)
    return array.astype(np.int64) if whole else array


def _check_targets(target: np.ndarray, images: tuple[int, ...], classes: int) -> None:
    if target.shape not in ((), images):
        raise ValueError(f"the targets have the shape {target.shape} for outputs of {images[0] if images else 1} "
                         f"images, a row each; give one class index an image, as target.argmax(axis=1) of one-hot "
                         f"rows, or one for all")
    if target.dtype == bool and classes == 2:
        return
    known = np.issubdtype(target.dtype, np.integer)
    bad = (target < 0) | (target >= classes) if known else np.ones(target.shape, bool)
    if bad.any():
        image = f" of image {int(bad.argmax())}" if target.ndim else ""
        raise ValueError(f"the target {target.flat[bad.argmax()]!s}{image} is no class index from 0 to {classes - 1} "
                         f"{'' if known else f'({target.dtype} instead of whole numbers) '}among the classifier's "
                         f"outputs; give the place of each image's class among them")


def _detect_scale(values: np.ndarray, binary: bool) -> Literal["logits", "probabilities"]:
    """Return what outputs are; raise ValueError if the numbers allow both."""
    if not values.size or values.min() < -ROUNDING or not values.any():
        return "logits"
    if binary:
        if values.max() > 1:
            return "logits"
        raise ValueError("the classifier's one output an image lies in [0, 1] for all images, so it may be the "
                         "log-odds or the probability of class 1; say from_='logits' or from_='probabilities'")
    sums = values.sum(axis=-1)
    if sum_to_one(values):
        return "probabilities"
    alike = sums.size > 1 and np.allclose(sums, sums.flat[0], rtol=1e-3) and (values != values[0]).any()
    if values.max() <= 1 or alike:
        raise ValueError(f"the classifier's outputs are no plain logits, since none is negative and "
                         f"{f'every row sums to {sums.flat[0]:g}' if alike else 'all lie in [0, 1]'}, and no "
                         f"probabilities, since these sum to 1 in each row; divide rows by their sums, or say "
                         f"from_='logits'")
    return "logits"


def _check_probabilities(columns: np.ndarray) -> None:
    if not sum_to_one(columns):
        rows = np.atleast_2d(columns)
        number, row = next((number, row) for number, row in enumerate(rows) if not sum_to_one(row))
        raise ValueError(f"row {number} of the classifier's outputs holds numbers from {row.min():g} to "
                         f"{row.max():g} that sum to {row.sum():g}, and probabilities lie in [0, 1] "
                         f"and sum to 1; say from_='logits', or divide rows by their sums")


def sum_to_one(columns: np.ndarray) -> bool:
    """Return whether outputs (..., C) are probabilities of C classes, up to the rounding of half precision."""
    return bool((columns >= -ROUNDING).all() and (abs(columns.sum(axis=-1) - 1) <= ROUNDING).all())
