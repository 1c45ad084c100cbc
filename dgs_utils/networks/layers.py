"""What the three networks share: normalisation by name, and their interface."""

import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.GroupNorm):
    """Group norm with one group a channel, with weights: what the published code calls "instance" [F §9.3].

    Computed by `F.instance_norm`, which gives the same numbers and is faster on the CPU.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each sample (N, C, H, W) over its pixels."""
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


NORMS = {"instance": InstanceNorm, "batch": nn.BatchNorm2d}


class Network(nn.Module):
    """A classifier that can show its last features."""

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, D) that the last linear layer sees, for pictures (N, C, H, W)."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes) of features (N, D)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of pictures (N, C, H, W)."""
        return self.classify(self.features(x))


def initialise(network: nn.Module) -> None:
    """Draw convolution weights from N(0, 2/(k²·out)); norms start as the identity [F §9.3]."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def stem_of(image_size: int) -> str:
    """Return which stem a ResNet gets: "small" up to 64 pixels, "mid" up to 128, else "large" [F §9.3]."""
    return "small" if image_size <= 64 else "mid" if image_size <= 128 else "large"
