"""Latents of a whole training set, encoded once: posterior mean and deviation of each image and of its mirror image.

Every epoch still draws a fresh sample and a fresh flip from them, at no cost.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgs_utils.diffusion.autoencoder import Autoencoder
from dgs_utils.images.image_set import ImageSet, load_squares
from dgs_utils.runtime.progress import no_progress
from dgs_utils.store.partial_results import write_verified


@dataclass
class Latents:
    """Posterior of every training image."""

    mean: Tensor  # (N, M, C, H, W) float32, scaled as the diffusion model sees it; M is 2 with mirror images, else 1
    std: Tensor  # same shape, or (0,) for an autoencoder without noise
    labels: Tensor  # (N,) int64 of the data set's own classes

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, indices: Tensor, rng: torch.Generator) -> Tensor:
        """Sample latents (n, C, H, W) of images ``indices`` (n,), each mirrored with probability ½ where possible."""
        mirrors = torch.randint(self.mean.shape[1], indices.shape, generator=rng)
        latents = self.mean[indices, mirrors]
        if self.std.numel():
            latents = latents + self.std[indices, mirrors] * torch.randn(latents.shape, generator=rng)
        return latents

    def save(self, path: Path) -> None:
        """Write the three tensors as safetensors."""
        with write_verified(path) as partial:
            save_file({"mean": self.mean, "std": self.std, "labels": self.labels}, partial)

    @classmethod
    def load(cls, path: Path) -> "Latents":
        """Read what `save` wrote."""
        return cls(**load_file(path))


@torch.no_grad()
def encode(images: ImageSet, autoencoder: Autoencoder, size: int, mirror: bool, workers: int = 0, batch_size: int = 64,
           progress: Callable = no_progress, warn: Callable[[str], None] = warnings.warn) -> Latents:
    """Encode a set of images, centre-cropped to ``size`` [F §3.5], with their mirror images where asked.

    Images are encoded in batches; only the latents stay in memory. ``warn`` takes a sentence if colours are lost.

    Raises:
        FloatingPointError: latents of an image are NaN or infinite; the sentence names it.
    """
    squares = iter(progress(load_squares(images, size, workers), label="latents", total=len(images)))
    means = stds = torch.empty(0)
    start = coloured = 0
    while batch := list(islice(squares, batch_size)):
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1
        coloured += int((pixels != pixels[:, :1]).flatten(1).any(1).sum())
        views = [pixels, pixels.flip(3)] if mirror else [pixels]
        for view, image in enumerate(views):
            mean, std = autoencoder.encode(image)
            if not means.numel():
                means = torch.empty(len(images), len(views), *mean.shape[1:])
                stds = torch.empty_like(means) if std is not None else stds
            means[start : start + len(batch), view] = mean.cpu()
            if std is not None:
                stds[start : start + len(batch), view] = std.cpu()
        for values in (means, stds)[: 1 + (stds.numel() > 0)]:
            sound = values[start : start + len(batch)].flatten(1).isfinite().all(1).tolist()
            if not all(sound):
                raise FloatingPointError(f"the autoencoder makes latents of {images.paths[start + sound.index(False)]} "
                                         f"that are NaN or infinite; its weights are damaged, fetch them again")
        start += len(batch)
    if coloured and autoencoder.channels == 1:
        warn(f"{coloured} of {len(images)} images have colours, and prepare.channels is 1: their luminance is used; "
             f"set it to 3 for a diffusion model of colours")
    return Latents(means, stds, torch.tensor(images.labels))
