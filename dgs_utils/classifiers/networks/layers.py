"""Normalisation by name, initial weights, and the interface of all networks."""

from torch import Tensor, nn

from dgs_utils.classifiers.networks.fused import Fusible


def instance_norm(channels: int) -> nn.GroupNorm:
    """Return group norm with one group a channel, with weights: what the published code calls "instance" [F §9.3]."""
    return nn.GroupNorm(channels, channels)


NORMS = {"instance": instance_norm, "batch": nn.BatchNorm2d}


class Network(Fusible):
    """A classifier that can show its last features."""

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, D) that the last linear layer sees, for images (N, C, H, W)."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes) of features (N, D)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of images (N, C, H, W)."""
        return self.classify(self.features(x))


def initialise(network: nn.Module) -> None:
    """Draw convolution weights from N(0, 2/(k²·out)); norms start as the identity [F §9.3]."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def stem_size(image_size: int) -> str:
    """Return a ResNet's stem: "small" up to 64 pixels, "mid" up to 128, else "large" [F §9.3].

    >>> stem_size(64), stem_size(128), stem_size(224)
    ('small', 'mid', 'large')
    """
    return "small" if image_size <= 64 else "mid" if image_size <= 128 else "large"
