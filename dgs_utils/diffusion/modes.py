"""Modes that a pool's images are drawn towards: MGD3's k-means centres [F §11], and centres stratified by difficulty.

There are as many modes as images, and image i is drawn towards mode i. A pool of another size has other modes, so that
these pools do not nest.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dgs_utils.selection.histograms import bin_of, check_scores
from dgs_utils.selection.targets import class_target

BINS = 10


def modes_of(latents: Tensor, count: int) -> Tensor:
    """Return MGD3's modes of a class: ``count`` k-means centres of its real latents.

    Args:
        latents: (N, C, S, S), N ≥ count.
        count: images of the pool.

    Returns:
        (count, C, S, S) float32.
    """
    from sklearn.cluster import KMeans  # loading it takes a second, which other pools are spared

    found = KMeans(count, random_state=0, n_init="auto").fit(latents.flatten(1).numpy())
    return torch.from_numpy(found.cluster_centers_).view(-1, *latents.shape[1:]).float()


def stratified_modes(latents: Tensor, scores: ArrayLike, count: int, shape: str = "scale") -> Tensor:
    """Return modes of a class that have the difficulties of a target: k-means centres inside bins of difficulty.

    Args:
        latents: (N, C, S, S) of the class's originals, N ≥ count.
        scores: shape (N,), their difficulty, in [0, 1], over ten equal bins of which they are divided.
        count: images of the pool.
        shape: how many modes each bin has: "scale", in proportion to its originals, or a name of `targets.PREDEFINED`.
            What a bin has too few originals for goes to the nearest bins that have more, the easier first.

    Returns:
        (count, C, S, S) float32, from the easiest bin to the hardest.
    """
    scores = check_scores(scores, "scores")
    members = bin_of(scores, BINS)
    counts = within(class_target(scores, count, shape, bins=BINS).counts, np.bincount(members, minlength=BINS))
    return torch.cat([modes_of(latents[torch.from_numpy(members == k)], int(counts[k]))
                      for k in np.flatnonzero(counts)])


def within(wanted: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return counts per bin with the sum of the wanted ones, none above its bin's size; the sizes sum to no less."""
    counts = np.minimum(wanted, sizes)
    for lacking in np.flatnonzero(wanted > sizes):
        left = int(wanted[lacking] - sizes[lacking])
        for other in sorted(range(len(counts)), key=lambda k: (abs(k - lacking), k)):
            moved = min(left, int(sizes[other] - counts[other]))
            counts[other] += moved
            left -= moved
    return counts
