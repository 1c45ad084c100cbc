"""Teachers: scorers that give soft labels to protocols of distillation."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

from dgs_utils.classifiers.augmentation import MEAN, STD
from dgs_utils.classifiers.scorer import Classifier
from dgs_utils.classifiers.training import Teacher


def teacher_of(scorer: Classifier, index: ArrayLike | None = None) -> Teacher:
    """Return a scorer as the teacher of soft labels.

    Args:
        scorer: on the device to train on.
        index: shape (classes,), its output of each label; None where label i is output i.
    """
    columns = slice(None) if index is None else torch.tensor(np.asarray(index), device=scorer.mean.device)
    size, mean, std = scorer.config.crop, scorer.mean.new_tensor(MEAN), scorer.mean.new_tensor(STD)

    def soft_labels(images: torch.Tensor) -> torch.Tensor:
        pixels = 255 * (images * std[:, None, None] + mean[:, None, None])
        if images.shape[-1] != size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        return scorer(pixels)[:, columns]

    return soft_labels
