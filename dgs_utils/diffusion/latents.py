"""Latents of a whole training set, encoded once: posterior mean and deviation of each picture and of its mirror image.

Every epoch still draws a fresh sample and a fresh flip from them, at no cost.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgs_utils.artifacts import atomic


@dataclass
class Latents:
    """Posterior of every training picture.

    Attributes:
        mean: (N, M, C, H, W) float32, scaled as the diffusion model sees it; M is 2 with mirror images, else 1.
        std: same shape, or (0,) for an autoencoder without noise.
        labels: (N,) int64 of the data set's own classes.
    """

    mean: Tensor
    std: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Sample latents (n, C, H, W) of pictures ``indices`` (n,), each mirrored with probability ½ where possible."""
        mirrors = torch.randint(self.mean.shape[1], indices.shape, generator=generator)
        latents = self.mean[indices, mirrors]
        if self.std.numel():
            latents = latents + self.std[indices, mirrors] * torch.randn(latents.shape, generator=generator)
        return latents

    def save(self, path: Path) -> None:
        """Write the three tensors as safetensors."""
        with atomic(path) as partial:
            save_file({"mean": self.mean, "std": self.std, "labels": self.labels}, partial)

    @classmethod
    def load(cls, path: Path) -> "Latents":
        """Read what `save` wrote."""
        return cls(**load_file(path))
