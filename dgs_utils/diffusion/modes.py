"""Modes that guide a pool's images: MGD3's k-means centres [F §11], and centres stratified by difficulty.

Image i is guided towards mode i, and there are as many modes as images. So pools of different sizes do not nest.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dgs_utils.selection.histograms import bin_of, check_scores
from dgs_utils.selection.targets import class_target

DIFFICULTY_BINS = 10


def kmeans_modes(latents: Tensor, count: int) -> Tensor:
    """Return MGD3's modes of a class, (count, C, S, S) float32: k-means centres of its real latents (N, C, S, S).

    N is at least ``count``.
    """
    from sklearn.cluster import KMeans  # loading it takes a second, which other pools are spared

    clusters = KMeans(count, random_state=0, n_init="auto").fit(latents.flatten(1).numpy())
    return torch.from_numpy(clusters.cluster_centers_).view(-1, *latents.shape[1:]).float()


def stratified_modes(latents: Tensor, scores: ArrayLike, count: int, shape: str = "scale") -> Tensor:
    """Return modes of a class that have the difficulties of a target: k-means centres inside bins of difficulty.

    Args:
        latents: (N, C, S, S) of the class's originals, N ≥ count.
        scores: shape (N,), their difficulty in [0, 1], which has ten equal bins.
        count: images of the pool.
        shape: how many modes each bin has: "scale", in proportion to its originals, or a name of `targets.PREDEFINED`.
            A bin with too few originals gives the rest to the nearest bins that have more, the easier first.

    Returns:
        (count, C, S, S) float32, from the easiest bin to the hardest.
    """
    scores = check_scores(scores, "scores")
    members = bin_of(scores, DIFFICULTY_BINS)
    wanted = class_target(scores, count, shape, bins=DIFFICULTY_BINS).counts
    counts = cap_counts(wanted, np.bincount(members, minlength=DIFFICULTY_BINS))
    return torch.cat([kmeans_modes(latents[torch.from_numpy(members == k)], int(counts[k]))
                      for k in np.flatnonzero(counts)])


def cap_counts(wanted: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return counts per bin with the sum of the wanted ones, none above its bin's size; the sizes sum to no less.

    >>> cap_counts(np.array([3, 0, 1]), np.array([1, 5, 5])).tolist()
    [1, 2, 1]
    """
    counts = np.minimum(wanted, sizes)
    for lacking in np.flatnonzero(wanted > sizes):
        left = int(wanted[lacking] - sizes[lacking])
        for other in sorted(range(len(counts)), key=lambda k: (abs(k - lacking), k)):
            moved = min(left, int(sizes[other] - counts[other]))
            counts[other] += moved
            left -= moved
    return counts
