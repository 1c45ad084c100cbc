"""Networks that are trained on distilled sets, by name."""

from functools import partial

from torch import nn

from dgs_utils.classifiers.networks.convnet import ConvNet
from dgs_utils.classifiers.networks.layers import NORMS, Network, stem_size
from dgs_utils.classifiers.networks.resnet import ResNet, ResNetAP
from dgs_utils.params.base import did_you_mean
from dgs_utils.params.types import is_library_network

NETWORKS = {
    **{f"convnet{depth}": partial(ConvNet, depth) for depth in (3, 4, 5, 6)},
    "resnet_ap10": partial(ResNetAP, (1, 1, 1, 1)),
    "resnet18": partial(ResNet, (2, 2, 2, 2)),
}


def build_network(name: str, num_classes: int, image_size: int, norm: str = "instance", channels: int = 3) -> nn.Module:
    """Return a freshly initialised network.

    Args:
        name: a key of `NETWORKS`, or a library's: ``torchvision:<name>`` or ``timm:<name>``, with ``@small`` at the end
            for a first layer for small images (`library_networks`).
        num_classes: outputs.
        image_size: side of the images in pixels; it also decides the stem of the ResNets.
        norm: "instance" or "batch"; those of libraries have their own.
        channels: of the images.

    Raises:
        ValueError: an unknown name or norm, or images so small that a pool finds a single pixel to average, or that
            an instance norm finds one to normalise, which would leave nothing of it; or a size that a library's network
            cannot take.

    >>> build_network("torchvision:resnet18@small", num_classes=10, image_size=32).fc.out_features
    10
    """
    if is_library_network(name):
        from dgs_utils.classifiers.library_networks import build_library_network  # here, since it is built on this one

        return build_library_network(name, num_classes, image_size, channels)
    if name not in NETWORKS:
        raise ValueError(f"{name!r} is no network of this kit, as torchvision:{name} or timm:{name} may be of a library"
                         f"{did_you_mean(name, NETWORKS)}")
    if norm not in NORMS:
        raise ValueError(f"{norm!r} is no norm of {name}{did_you_mean(norm, NORMS)}")
    smallest = smallest_size(name, norm)
    if image_size < smallest:
        raise ValueError(f"{name} with {norm} norm needs images of at least {smallest} pixels, not {image_size}; "
                         f"raise image_size or choose a shallower network")
    return NETWORKS[name](num_classes, image_size, norm, channels)


def smallest_size(name: str, norm: str) -> int:
    """Return the smallest image side, in pixels, at which every pool and every instance norm has 2 × 2 pixels or more.

    >>> smallest_size("convnet3", "instance"), smallest_size("resnet18", "batch")
    (8, 1)
    """
    if name.startswith("convnet"):  # the last pool, and the norm before it
        return 2 ** int(name.removeprefix("convnet"))
    if name.startswith("resnet_ap"):  # three pools that round down; a norm follows the last one
        return 16 if norm == "instance" else 8
    return 9 if norm == "instance" else 1  # three strides, which round up


__all__ = ["NETWORKS", "Network", "build_network", "smallest_size", "stem_size"]
