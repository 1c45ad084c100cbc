"""Networks that are trained on distilled sets, by name."""

from functools import partial

from dgs_utils.classifiers.networks.convnet import ConvNet
from dgs_utils.classifiers.networks.layers import NORMS, Network, stem_size
from dgs_utils.classifiers.networks.resnet import ResNet, ResNetAP
from dgs_utils.params.base import did_you_mean

NETWORKS = {
    **{f"convnet{depth}": partial(ConvNet, depth) for depth in (3, 4, 5, 6)},
    "resnet_ap10": partial(ResNetAP, (1, 1, 1, 1)),
    "resnet18": partial(ResNet, (2, 2, 2, 2)),
}


def build_network(name: str, num_classes: int, image_size: int, norm: str = "instance", channels: int = 3) -> Network:
    """Return a freshly initialised network.

    Args:
        name: a key of `NETWORKS`.
        num_classes: outputs.
        image_size: side of the images in pixels; it also decides the stem of the ResNets.
        norm: "instance" or "batch".
        channels: of the images.

    Raises:
        ValueError: an unknown name or norm, or images so small that a pool finds a single pixel to average, or that
            an instance norm finds one to normalise, which would leave nothing of it.
    """
    if name not in NETWORKS:
        raise ValueError(f"{name!r} is no network{did_you_mean(name, NETWORKS)}")
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
