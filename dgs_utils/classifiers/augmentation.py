"""Training transforms of the published evaluator, batched on the device with parameters of its own for each image.

In order [F §9.2]: random resized crop, horizontal flip, colour jitter, PCA lighting, ImageNet normalisation; then
CutMix on the whole batch. Everything after the crop is affine in a pixel's colour (contrast refers to the mean
luminance, which follows from the mean colour), so each image needs one 3 × 3 matrix and one offset in all.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dgs_utils.classifiers.protocols import Augmentation
from dgs_utils.images.pixels import LUMINANCE
from dgs_utils.runtime.devices import to_device_packed

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training images, RGB in [0, 1]; so is the next line
STD = (0.229, 0.224, 0.225)
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]."""
    return images.float().div_(255)


def normalise(images: Tensor) -> Tensor:
    """Return images (N, 3, H, W) in [0, 1] with ImageNet's mean and deviation taken out."""
    mean, std = (values[:, None, None] for values in constants(images.device, images.dtype)[:2])
    return (images - mean) / std


class Draws(NamedTuple):
    """Random numbers of the transforms of N images: one row an image; no columns, (N, 0), if a transform is off."""

    tiles: Tensor  # (N, 2, tiles) int64, the order of a mosaic's rows and columns
    boxes: Tensor  # (N, 4) int64, see `crop_boxes`
    mirrored: Tensor  # (N,) bool
    orders: Tensor  # (N, 3) int64, see `jitter_map`
    alphas: Tensor  # (N, 3) float32, of the colour jitter
    light: Tensor  # (N, 3) float32, of the PCA lighting
    partner: Tensor  # (N,) int64, the image of the batch whose box is pasted by CutMix

    def to(self, device: torch.device) -> "Draws":
        """Return the draws on a device, by one copy."""
        return Draws(*to_device_packed(self, device))

    def rows(self, part: slice) -> "Draws":
        """Return the draws of some of the images."""
        return Draws(*(values[part] for values in self))


def draw_augmentation(n: int, size: int, settings: Augmentation, rng: torch.Generator) -> Draws:
    """Draw the numbers of `apply_augmentation` for ``n`` images of ``size`` pixels, without CutMix's partners."""
    none = torch.empty(n, 0)
    tiles = boxes = none
    mirrored = torch.zeros(n, dtype=torch.bool)
    if settings.tiles > 1:
        tiles = torch.rand(2, n, settings.tiles, generator=rng).argsort(2).transpose(0, 1)
    if settings.crop < 1 or settings.flip > 0:
        boxes = crop_boxes(n, size, settings.crop, settings.ratio, rng)
        mirrored = torch.rand(n, generator=rng) < settings.flip
    orders = torch.rand(n, 3, generator=rng).argsort(1)
    alphas = (torch.rand(n, 3, generator=rng) * 2 - 1) * settings.jitter
    light = torch.randn(n, 3, generator=rng) * settings.lighting
    return Draws(tiles, boxes, mirrored, orders, alphas, light, none)


def augment(images: Tensor, settings: Augmentation, rng: torch.Generator) -> Tensor:
    """Draw, by a generator on the CPU, and transform a batch for training (see `apply_augmentation`)."""
    return apply_augmentation(images, draw_augmentation(len(images), images.shape[-1], settings, rng).to(images.device))


def apply_augmentation(images: Tensor, draws: Draws) -> Tensor:
    """Return a batch (N, 3, S, S) uint8, transformed for training by draws on its device: float32, normalised.

    Raises:
        ValueError: the images cannot be cut into as many tiles as were drawn.
    """
    if draws.tiles.numel():
        images = shuffle_tiles(images, *draws.tiles.unbind(1))
    images = to_float(images)
    if draws.boxes.numel():
        images = crop_and_resize(images, draws.boxes, draws.mirrored)
    matrix, offset = jitter_map(images.mean((2, 3)), draws.orders, draws.alphas)
    offset = offset + lighting_offset(draws.light)
    mean, std, *_ = constants(images.device, images.dtype)
    return apply_map(images, matrix / std[:, None], (offset - mean) / std)


@cache
def constants(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return mean, deviation, luminance and eigenvalues (3,), eigenvectors and identity (3, 3) on a device, cached:
    copying them for each batch would halt a GPU each time.
    """
    with torch.inference_mode(False):  # a tensor made for inference could not take part in training later
        values = [torch.tensor(numbers, dtype=dtype) for numbers in (MEAN, STD, LUMINANCE, EIGENVALUES, EIGENVECTORS)]
        return to_device_packed([*values, torch.eye(3, dtype=dtype)], device)


def shuffle_tiles(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Shuffle the columns of tiles, and the rows, of each image of a batch (N, C, S, S), as RDED does [B §3.1], to the
    orders (N, tiles) int64; raise ValueError if S is not a multiple of the number of tiles.
    """
    n, tiles = rows.shape
    side = images.shape[-1] // tiles
    if side * tiles != images.shape[-1]:
        raise ValueError(f"images of {images.shape[-1]} pixels cannot be cut into {tiles} × {tiles} tiles; "
                         f"choose an image_size that {tiles} divides")
    parts = images.unflatten(3, (tiles, side)).unflatten(2, (tiles, side)).permute(0, 2, 4, 1, 3, 5)
    one = torch.arange(n, device=images.device)[:, None, None]
    return parts[one, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 4, 2, 5).reshape_as(images)


def crop_boxes(n: int, size: int, least: float, ratio: float, rng: torch.Generator) -> Tensor:
    """Draw crop boxes as torchvision's RandomResizedCrop does: up to ten tries each, else the whole image. They are
    (N, 4) int64: top, left, height, width.
    """
    tries = 10
    area = size**2 * (least + (1 - least) * torch.rand(n, tries, generator=rng, dtype=torch.float64))
    spread = math.log(ratio)
    aspect = ((torch.rand(n, tries, generator=rng, dtype=torch.float64) * 2 - 1) * spread).exp()
    width, height = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (width <= size) & (height <= size) & (width > 0) & (height > 0)
    first = fits.int().argmax(1, keepdim=True)
    some = fits.any(1)
    width = torch.where(some, width.gather(1, first)[:, 0], size)
    height = torch.where(some, height.gather(1, first)[:, 0], size)
    top, left = (torch.rand(n, 2, generator=rng, dtype=torch.float64)
                 * (size + 1 - torch.stack([height, width], 1))).long().unbind(1)
    return torch.stack([top, left, height, width], 1)


def crop_and_resize(images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Cut a box out of each image (N, C, S, S), scale it to full size (bilinear) and mirror it if drawn.

    A box is never larger than the image, so it is only ever enlarged, and antialiasing makes no difference.
    """
    size = images.shape[-1]
    top, left, height, width = boxes.to(images.dtype).unbind(1)
    centres = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size

    def source(start: Tensor, length: Tensor, places: Tensor) -> Tensor:
        inside = (places * length[:, None] - 0.5).clamp(min=0)  # beyond the box its border pixel repeats
        pixel = start[:, None] + torch.minimum(inside, length[:, None] - 1)
        return (2 * pixel + 1) / size - 1

    rows = source(top, height, centres.expand(len(images), -1))
    columns = source(left, width, torch.where(mirrored[:, None], centres.flip(0), centres))
    grid = torch.stack([columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jitter_map(mean: Tensor, orders: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colour map x → matrix·x + offset of brightness, contrast and saturation in a given order.

    Each operation blends the image with a reference, x + α·(reference − x): black for brightness, the mean luminance
    for contrast, the pixel's own luminance for saturation. Nothing is clamped.

    Of N images with these mean colours (N, 3), ``orders`` (N, 3) int64 are the operations (0 brightness, 1 contrast, 2
    saturation) in the order of application, ``alphas`` (N, 3) the α of each step; (N, 3, 3) and (N, 3) are returned.
    """
    _, _, weights, _, _, identity = constants(mean.device, mean.dtype)
    matrix, offset = identity.expand(len(mean), 3, 3), torch.zeros_like(mean)
    for operation, alpha in zip(orders.unbind(1), alphas.unbind(1), strict=True):
        contrast, saturation = (operation == 1) * alpha, (operation == 2) * alpha
        luminance = ((matrix @ mean[..., None])[..., 0] + offset) @ weights
        step = (1 - alpha)[:, None, None] * identity + saturation[:, None, None] * weights.expand(3, 3)
        matrix = step @ matrix
        offset = (step @ offset[..., None])[..., 0] + (contrast * luminance)[:, None]
    return matrix, offset


def lighting_offset(alphas: Tensor) -> Tensor:
    """Return the colour (N, 3) that PCA lighting adds for alphas (N, 3)."""
    _, _, _, values, vectors, _ = constants(alphas.device, alphas.dtype)
    return (alphas * values) @ vectors.T


def apply_map(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Map the colours of images (N, 3, H, W) by matrix (N, 3, 3) and offset (N, 3)."""
    return torch.baddbmm(offset[:, :, None], matrix, images.flatten(2)).view_as(images)


def cutmix(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Draw and paste one box of a permuted batch (N, C, H, W) into the batch, in place (see `paste`); return the
    images, the permutation (N,) behind the box, and the share of each image that is still its own.
    """
    partner = torch.randperm(len(images), generator=rng)
    height, width = images.shape[-2:]
    box = cutmix_box(height, width, rng)
    [partner] = to_device_packed([partner], images.device)
    return paste(images, partner, box), partner, cutmix_lambda(box, height, width)


def paste(images: Tensor, partner: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Paste a box (top, bottom, left, right) of the images ``partner`` (N,) into a batch, in place."""
    top, bottom, left, right = box
    images[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return images


def cutmix_lambda(box: tuple[int, int, int, int], height: int, width: int) -> float:
    """Return the share of an image that is still its own beside the box."""
    top, bottom, left, right = box
    return 1 - (bottom - top) * (right - left) / (height * width)


def cutmix_box(height: int, width: int, rng: torch.Generator) -> tuple[int, int, int, int]:
    """Draw a box of share 1 − λ, λ ~ Beta(1, 1), around a uniform centre and cut off at the border."""
    keep, y, x = torch.rand(3, generator=rng, dtype=torch.float64).tolist()  # Beta(1, 1) is uniform
    half_height, half_width = (int(side * math.sqrt(1 - keep)) // 2 for side in (height, width))
    y, x = int(y * height), int(x * width)
    return (max(y - half_height, 0), min(y + half_height, height), max(x - half_width, 0), min(x + half_width, width))
