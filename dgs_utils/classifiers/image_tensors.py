"""Labelled images in memory, as trainings take them: uint8 tensors, decoded once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from dgs_utils.images.image_set import ImageSet, load_squares
from dgs_utils.runtime.progress import no_progress


@dataclass
class ImageTensors:
    """Labelled images on a device: images (N, 3, S, S) uint8, labels (N,) int64.

    Raises:
        ValueError: another shape or type.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self):
        shape, labels = tuple(self.images.shape), tuple(self.labels.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"the images are {self.images.dtype} of shape {shape}; give uint8 of shape (N, 3, S, S), "
                             f"or arrays to ImageTensors.from_arrays")
        if self.labels.dtype != torch.int64 or labels != shape[:1]:
            raise ValueError(f"the labels are {self.labels.dtype} of shape {labels} for {shape[0]} images; "
                             f"give one int64 label from 0 for each")

    @classmethod
    def from_arrays(cls, images: ArrayLike, labels: ArrayLike) -> "ImageTensors":
        """Take images from arrays, on the CPU.

        Args:
            images: uint8 of shape (N, S, S) for grey, or (N, S, S, 3) for RGB.
            labels: whole numbers from 0, shape (N,).

        Raises:
            ValueError: another shape or type, or a negative label.
        """
        pixels, numbers = np.asarray(images), np.asarray(labels)
        if pixels.dtype != np.uint8 or pixels.shape[3:] not in ((), (3,)) or pixels.ndim not in (3, 4):
            raise ValueError(f"the images are {pixels.dtype} of shape {pixels.shape}; give uint8 of shape (N, S, S) or "
                             f"(N, S, S, 3)")
        if not np.issubdtype(numbers.dtype, np.integer) or (numbers < 0).any():
            raise ValueError("the labels are not whole numbers from 0; give each image the number of its class")
        pixels = pixels[..., None].repeat(3, axis=-1) if pixels.ndim == 3 else pixels
        return cls(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(numbers.astype(np.int64)))

    def to(self, device: torch.device) -> "ImageTensors":
        """Return the images on another device."""
        return ImageTensors(self.images.to(device), self.labels.to(device))


def load_images(images: ImageSet, size: int, workers: int = 0, progress: Callable = no_progress,
                zoom: float = 1.0) -> ImageTensors:
    """Decode a set: shorter side scaled to ``size`` × ``zoom`` (bilinear, antialiased), centre crop of ``size``, uint8.

    Raises:
        ValueError: an image cannot be read; the sentence names it.
    """

    def crop(image, side):
        return tv.center_crop(tv.resize(image, round(side * zoom), antialias=True), side)

    stack = np.empty((len(images), size, size, 3), dtype=np.uint8)
    squares = load_squares(images, size, workers, crop)
    for index, square in enumerate(progress(squares, label="images", total=len(images))):
        stack[index] = square
    return ImageTensors(torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous(), torch.tensor(images.labels))
