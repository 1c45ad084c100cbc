"""Coresets: images that represent a class in feature space [F §10.2–10.3].

Both functions choose within one class, greedily and without chance; among equally good images (to 1e-9, so that
rounding noise decides nothing) the first wins.
"""

import numpy as np


def k_center(features, k: int) -> np.ndarray:
    """Choose ``k`` images so that every image is near a chosen one (greedy K-Center).

    The first centre is the image nearest to the class mean; each further one is the image farthest from its nearest
    centre.

    Args:
        features: shape (N, D), one row an image.
        k: number of images, 1 … N.

    Returns:
        int64 array of shape (k,), in the order of choice.

    Raises:
        ValueError: bad shape, non-finite features, or ``k`` out of range.
    """
    features = _check(features, k)
    chosen = np.empty(k, dtype=np.int64)
    chosen[0] = _first_smallest(_squared_distances(features, features.mean(axis=0)))
    nearest = np.full(len(features), np.inf)
    for step in range(1, k):
        nearest = np.minimum(nearest, _squared_distances(features, features[chosen[step - 1]]))
        nearest[chosen[:step]] = -1  # identical images are at distance 0, like the centres
        chosen[step] = np.argmax(nearest >= nearest.max() * (1 - 1e-9))
    return chosen


def herding(features, k: int) -> np.ndarray:
    """Choose ``k`` images whose running mean follows the class mean (Welling, 2009).

    At step j, from 0, the image not yet chosen that is nearest to (j + 1) · mean − (sum of the chosen ones).

    Args, returns and errors as `k_center`.
    """
    features = _check(features, k)
    mean = features.mean(axis=0)
    chosen = np.empty(k, dtype=np.int64)
    total = np.zeros_like(mean)
    taken = np.zeros(len(features), dtype=bool)
    for step in range(k):
        distances = np.where(taken, np.inf, _squared_distances(features, (step + 1) * mean - total))
        chosen[step] = _first_smallest(distances)
        taken[chosen[step]] = True
        total += features[chosen[step]]
    return chosen


def _squared_distances(features: np.ndarray, point: np.ndarray) -> np.ndarray:
    return ((features - point) ** 2).sum(axis=1)


def _first_smallest(values: np.ndarray) -> int:
    return int(np.argmax(values <= values.min() * (1 + 1e-9)))


def _check(features, k: int) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2:
        raise ValueError(f"features have shape {features.shape}; give one row of features per image")
    if not np.isfinite(features).all():
        raise ValueError(f"the features of image {np.argwhere(~np.isfinite(features))[0][0]} are not finite; "
                         f"check that image and the classifier")
    if not 1 <= k <= len(features):
        raise ValueError(f"k is {k} for {len(features)} images; choose 1 to {len(features)}")
    return features
