"""How images become a network's input: the libraries' own transforms.

Each prepares an RGB image as uint8, the same on every device; (x / 255 − mean) / std follows on the device.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from dgs_utils.classifiers.architectures import import_timm
from dgs_utils.classifiers.augmentation import MEAN, STD


@dataclass(frozen=True)
class ResizeCrop:
    """Scale the shorter side and take the centre: torchvision's `ImageClassification`, and of networks trained here."""

    resize: int  # shorter side in pixels to which images are scaled, antialiased
    crop: int  # side in pixels of the central square that the network sees; smaller images get black borders
    mean: tuple[float, ...] = MEAN  # subtracted from values in [0, 1], per channel: 3 for RGB, 1 for grey
    std: tuple[float, ...] = STD  # by which the difference is divided
    interpolation: str = "bilinear"  # a value of `torchvision.transforms.InterpolationMode`

    def __call__(self, image: Image.Image) -> Tensor:
        """Return an RGB image as the network sees it, but for mean and std: uint8 tensor (channels, crop, crop)."""
        image = transforms.resize(_to_channels(image, self.mean), [self.resize], InterpolationMode(self.interpolation))
        return transforms.pil_to_tensor(transforms.center_crop(image, [self.crop]))

    def with_size(self, size: int) -> Self:
        """Return the same for another size, with the same share of the image."""
        return replace(self, resize=round(size * self.resize / self.crop), crop=size)

    def with_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Return the same with another mean and std, whose lengths are the number of channels."""
        return replace(self, mean=tuple(mean), std=tuple(std))

    def __str__(self) -> str:
        return f"resize {self.resize}, crop {self.crop}, {self.interpolation}, {_values(self.mean, self.std)}"


@dataclass(frozen=True)
class TimmTransform:
    """`timm.data.create_transform` with the configuration of `timm.data.resolve_model_data_config`."""

    # That configuration: input_size (channels, height, width), interpolation, mean, std, crop_pct, crop_mode.
    data: dict[str, Any] = field(hash=False)

    @property
    def crop(self) -> int:
        """Side in pixels of the square that the network sees."""
        return self.data["input_size"][-1]

    @property
    def mean(self) -> tuple[float, ...]:
        """Subtracted from values in [0, 1], per channel."""
        return tuple(self.data["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """By which the difference is divided, per channel."""
        return tuple(self.data["std"])

    def __call__(self, image: Image.Image) -> Tensor:
        """Return an RGB image as the network sees it, but for mean and std: uint8 tensor (channels, height, width)."""
        prepare = import_timm().data.create_transform(**self.data, use_prefetcher=True)  # without mean and std
        return torch.from_numpy(np.array(prepare(_to_channels(image, self.mean))))

    def with_size(self, size: int) -> Self:
        """Return the same for another size, with the same share of the image."""
        return replace(self, data=self.data | {"input_size": [self.data["input_size"][0], size, size]})

    def with_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Return the same with another mean and std, whose lengths are the number of channels."""
        size = [len(mean), *self.data["input_size"][1:]]
        return replace(self, data=self.data | {"input_size": size, "mean": list(mean), "std": list(std)})

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {self.data[name]}" for name in ("crop_pct", "crop_mode") if name in self.data)
        return f"size {self.crop}, {shown}, {self.data['interpolation']}, {_values(self.mean, self.std)}"


Transform = ResizeCrop | TimmTransform


def torchvision_transform(preset: Any) -> ResizeCrop:
    """Return the transform of a torchvision ``WeightsEnum`` entry's ``transforms()``."""
    [resize], [crop] = preset.resize_size, preset.crop_size
    return ResizeCrop(resize, crop, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)


def timm_transform(pretrained_cfg: dict[str, Any]) -> TimmTransform:
    """Return timm's transform of a model with such a ``pretrained_cfg``."""
    data = import_timm().data.resolve_data_config(pretrained_cfg=pretrained_cfg)
    return TimmTransform({name: list(value) if isinstance(value, tuple) else value for name, value in data.items()})


def transform_to_json(transform: Transform) -> dict[str, Any]:
    """Return a transform as plain values."""
    return transform.data | {"library": "timm"} if isinstance(transform, TimmTransform) else asdict(transform)


def transform_from_json(values: dict[str, Any]) -> Transform:
    """Return the transform of the values of `transform_to_json`; raise TypeError for an unknown or missing name."""
    if values.get("library") == "timm":
        return TimmTransform({name: value for name, value in values.items() if name != "library"})
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return ResizeCrop(**plain)


def _to_channels(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Return an RGB image with as many channels as there are means."""
    return image.convert("L") if len(mean) == 1 else image


def _values(mean: Sequence[float], std: Sequence[float]) -> str:
    return f"mean {', '.join(f'{m:.4g}' for m in mean)}, std {', '.join(f'{s:.4g}' for s in std)}"
