"""Mutual information of images and classes: a plug-in estimate of I(T; Y), the second term of Eq. 5.

T is an image drawn from a set, Y its class. I(T; Y) = H(Y) − H(Y | T), and the cross-entropy of any prediction of Y
from T is at least H(Y | T). A scorer's mean cross-entropy on the set therefore gives a lower bound (Barber & Agakov,
2003): class information that the scorer misses does not count. Expectations are means over images.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr


class Information(NamedTuple):
    """Result of `mutual_information`, in bits."""

    class_entropy: float  # H(Y) of the set's classes, at most log2 of their number
    cross_entropy: float  # of the scorer's predictions, the mean over images; not below 0
    # The difference: lower bound on I(T; Y), at most ``class_entropy``, and below 0 where the scorer predicts the
    # classes worse than their shares do.
    information: float
    error: float  # standard error of ``cross_entropy``, and so of ``information``, over images; NaN for a single one


def mutual_information(measure: ArrayLike, classes: ArrayLike) -> Information:
    """Estimate the mutual information of a set's images and their classes, in bits.

    Args:
        measure: cross-entropy of one scorer for each image, shape (N,), as `measures.MEASURES` compresses it onto
            [0, 1): c / (1 + c) with c = −ln p(class). A mean over several scorers cannot be taken back to theirs.
        classes: shape (N,), of any type.

    Raises:
        ValueError: no images, shapes that differ, or a value outside [0, 1), such as a 1 that rounding has made.
    """
    compressed, labels = np.asarray(measure, dtype=np.float64), np.asarray(classes)
    if compressed.ndim != 1 or compressed.shape != labels.shape or not len(labels):
        raise ValueError(f"cross_entropy has shape {compressed.shape} and classes {labels.shape}; give one of each for "
                         f"every image, at least one")
    bad = np.flatnonzero(~((compressed >= 0) & (compressed < 1)))
    if bad.size:
        raise ValueError(f"cross_entropy[{bad[0]}] is {compressed[bad[0]]}, and it is in [0, 1) before rounding; score "
                         f"again with difficulty.round_scores = 0")
    bits = compressed / (1 - compressed) / np.log(2)
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    entropy, mean = float(entr(shares).sum() / np.log(2)), float(bits.mean())
    error = float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else np.nan
    return Information(entropy, mean, entropy - mean, error)
