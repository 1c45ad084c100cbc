"""Differentiable siamese augmentation (DSA): the same random transform for real and synthetic images, with gradients.

Strengths are those of the published distribution-matching code [F §10.4]. One draw serves every image of a call, so
that what is compared has been transformed alike.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FAMILIES = ("color", "crop", "cutout", "flip", "scale", "rotate")
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
PADDING = 0.125  # of the side, for crops
HOLE = 0.5  # of the side, for cutout
SCALE = 1.2  # largest factor, and the inverse of the smallest
DEGREES = 15.0


def draw_family(families: tuple[str, ...], rng: torch.Generator) -> str:
    """Draw one family of transforms."""
    return families[int(torch.randint(len(families), (), generator=rng))]


def draw_numbers(rng: torch.Generator) -> list[float]:
    """Draw what any one transform needs: three uniform numbers in [0, 1)."""
    return torch.rand(3, generator=rng).tolist()


def apply_siamese(images: Tensor, family: str, numbers: list[float]) -> Tensor:
    """Apply one of `FAMILIES` to images (N, C, H, W), with the same `draw_numbers` for all of them."""
    return _TRANSFORMS[family](images, *numbers)


def _color(images: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    images = images + (brightness - 0.5) * BRIGHTNESS
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (saturation * SATURATION) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + CONTRAST) + mean


def _crop(images: Tensor, down: float, right: float, _: float) -> Tensor:
    height, width = images.shape[-2:]
    pad_y, pad_x = (int(side * PADDING + 0.5) for side in (height, width))
    top, left = int(down * (2 * pad_y + 1)), int(right * (2 * pad_x + 1))
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    return padded[..., top : top + height, left : left + width]


def _cutout(images: Tensor, down: float, right: float, _: float) -> Tensor:
    height, width = images.shape[-2:]
    hole_y, hole_x = (int(side * HOLE + 0.5) for side in (height, width))
    top, left = int(down * (height + 1)) - hole_y // 2, int(right * (width + 1)) - hole_x // 2
    mask = torch.ones(height, width, dtype=images.dtype, device=images.device)
    mask[max(top, 0) : max(top + hole_y, 0), max(left, 0) : max(left + hole_x, 0)] = 0
    return images * mask


def _scale(images: Tensor, vertical: float, horizontal: float, _: float) -> Tensor:
    y, x = (number * (SCALE - 1 / SCALE) + 1 / SCALE for number in (vertical, horizontal))
    return _affine(images, [[x, 0.0, 0.0], [0.0, y, 0.0]])


def _rotate(images: Tensor, turn: float, *_: float) -> Tensor:
    angle = math.radians((turn - 0.5) * 2 * DEGREES)
    return _affine(images, [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])


def _affine(images: Tensor, matrix: list[list[float]]) -> Tensor:
    theta = images.new_tensor(matrix).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


_TRANSFORMS = {"color": _color, "crop": _crop, "cutout": _cutout, "scale": _scale, "rotate": _rotate,
               "flip": lambda images, chance, *_: images.flip(3) if chance < 0.5 else images}
