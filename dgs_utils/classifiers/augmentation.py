"""Training transforms of the published evaluator, batched on the device with parameters of its own for each image.

In order [F §9.2]: random resized crop, horizontal flip, colour jitter, PCA lighting, ImageNet normalisation; then
CutMix on the whole batch. Everything after the crop is affine in a pixel's colour (contrast refers to the mean
luminance, which follows from the mean colour), so each image needs one 3 × 3 matrix and one offset in all.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training images, RGB in [0, 1]; so is the next line
STD = (0.229, 0.224, 0.225)
LUMINANCE = (0.299, 0.587, 0.114)
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@dataclass(frozen=True)
class Augmentation:
    """Which transforms are used, and how strongly.

    Attributes:
        crop: smallest share of the image that a random resized crop keeps; 1 switches cropping off.
        ratio: largest aspect ratio of a crop; the smallest is its inverse.
        flip: probability of mirroring.
        jitter: largest α of brightness, contrast and saturation.
        lighting: standard deviation of the PCA lighting's α.
        cutmix: mix every batch.
        tiles: the image is a mosaic of tiles × tiles parts, whose columns and rows are shuffled before the crop.
    """

    crop: float = 0.5
    ratio: float = 4 / 3
    flip: float = 0.5
    jitter: float = 0.4
    lighting: float = 0.1
    cutmix: bool = True
    tiles: int = 1


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]."""
    return images.float().div_(255)


def normalise(images: Tensor) -> Tensor:
    """Return images (N, 3, H, W) in [0, 1] with ImageNet's mean and deviation taken out."""
    mean, std = (images.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    return (images - mean) / std


def augment(images: Tensor, settings: Augmentation, rng: torch.Generator) -> Tensor:
    """Transform a batch for training.

    Args:
        images: (N, 3, S, S) uint8.
        settings: see `Augmentation`.
        rng: a CPU generator, source of every draw.

    Returns:
        (N, 3, S, S) float32, normalised.
    """
    n, size = len(images), images.shape[-1]
    if settings.tiles > 1:
        images = shuffle_tiles(images, settings.tiles, rng)
    images = to_float(images)
    if settings.crop < 1 or settings.flip > 0:
        boxes = crop_boxes(n, size, settings.crop, settings.ratio, rng)
        mirrored = torch.rand(n, generator=rng) < settings.flip
        images = crop_and_resize(images, boxes.to(images.device), mirrored.to(images.device))
    orders = torch.rand(n, 3, generator=rng).argsort(1)
    alphas = (torch.rand(n, 3, generator=rng) * 2 - 1) * settings.jitter
    light = torch.randn(n, 3, generator=rng) * settings.lighting
    matrix, offset = jitter_map(images.mean((2, 3)), orders.to(images.device), alphas.to(images.device))
    offset = offset + lighting_offset(light.to(images.device))
    mean, std = images.new_tensor(MEAN), images.new_tensor(STD)
    return apply_map(images, matrix / std[:, None], (offset - mean) / std)


def shuffle_tiles(images: Tensor, tiles: int, rng: torch.Generator) -> Tensor:
    """Shuffle the columns of tiles, and the rows, of each image of a batch (N, C, S, S), as RDED does [B §3.1].

    Raises:
        ValueError: S is not a multiple of ``tiles``.
    """
    n, side = len(images), images.shape[-1] // tiles
    if side * tiles != images.shape[-1]:
        raise ValueError(f"images of {images.shape[-1]} pixels cannot be cut into {tiles} × {tiles} tiles; "
                         f"choose an image_size that {tiles} divides")
    rows, columns = torch.rand(2, n, tiles, generator=rng).argsort(2).to(images.device)
    parts = images.unflatten(3, (tiles, side)).unflatten(2, (tiles, side)).permute(0, 2, 4, 1, 3, 5)
    one = torch.arange(n, device=images.device)[:, None, None]
    return parts[one, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 4, 2, 5).reshape_as(images)


def crop_boxes(n: int, size: int, least: float, ratio: float, rng: torch.Generator) -> Tensor:
    """Draw crop boxes as torchvision's RandomResizedCrop does: up to ten tries each, else the whole image.

    Returns:
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
    """Cut a box out of each image, scale it to full size (bilinear) and mirror it where asked.

    A box is never larger than the image, so it is only ever enlarged, and antialiasing makes no difference.

    Args:
        images: (N, C, S, S) float.
        boxes: (N, 4) top, left, height, width.
        mirrored: (N,) bool.
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

    Args:
        mean: (N, 3) mean colour of each image.
        orders: (N, 3) int64, the operations (0 brightness, 1 contrast, 2 saturation) in the order of application.
        alphas: (N, 3), α of each step of that order.

    Returns:
        matrix (N, 3, 3) and offset (N, 3).
    """
    weights = mean.new_tensor(LUMINANCE)
    identity = torch.eye(3, dtype=mean.dtype, device=mean.device)
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
    return (alphas * alphas.new_tensor(EIGENVALUES)) @ alphas.new_tensor(EIGENVECTORS).T


def apply_map(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Map the colours of images (N, 3, H, W) by matrix (N, 3, 3) and offset (N, 3)."""
    return torch.baddbmm(offset[:, :, None], matrix, images.flatten(2)).view_as(images)


def cutmix(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Paste one box of a permuted batch into the batch, in place.

    Args:
        images: (N, C, H, W).
        rng: a CPU generator.

    Returns:
        The images, the permutation (N,) behind the box, and the share of each image that is still its own.
    """
    height, width = images.shape[-2:]
    partner = torch.randperm(len(images), generator=rng).to(images.device)
    top, bottom, left, right = cutmix_box(height, width, rng)
    images[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return images, partner, 1 - (bottom - top) * (right - left) / (height * width)


def cutmix_box(height: int, width: int, rng: torch.Generator) -> tuple[int, int, int, int]:
    """Draw a box of share 1 − λ, λ ~ Beta(1, 1), around a uniform centre and cut off at the border."""
    keep, y, x = torch.rand(3, generator=rng, dtype=torch.float64).tolist()  # Beta(1, 1) is uniform
    half_height, half_width = (int(side * math.sqrt(1 - keep)) // 2 for side in (height, width))
    y, x = int(y * height), int(x * width)
    return (max(y - half_height, 0), min(y + half_height, height), max(x - half_width, 0), min(x + half_width, width))
