"""Small training sets in memory: digit scans, and noise with labels."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from dgs_utils.classifiers.image_tensors import ImageTensors

NOISE_CLASSES = 3


def digits(start: int, stop: int) -> ImageTensors:
    """Return scans as (N, 3, 8, 8) uint8."""
    bunch = load_digits()
    scans = torch.from_numpy(np.round(bunch.images[start:stop] * 255 / 16).astype(np.uint8))
    return ImageTensors(scans[:, None].repeat(1, 3, 1, 1), torch.from_numpy(bunch.target[start:stop]).long())


def noise(n: int, size: int) -> ImageTensors:
    """Return noise (n, 3, size, size) uint8 with labels of three classes."""
    rng = torch.Generator().manual_seed(n)
    return ImageTensors(torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=rng),
                        torch.arange(n) % NOISE_CLASSES)


TRAIN, TEST = digits(0, 40), digits(200, 260)
