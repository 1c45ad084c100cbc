"""Networks of torchvision and timm as students and teachers: random weights, and one's own classes and image size.

``torchvision:resnet50`` and ``timm:vit_tiny_patch16_224`` are as their library has them. With ``@small`` at the end,
the first layer suits small images: a convolution 3 × 3 of stride 1 without a max pool, or patches of a quarter of the
side. Layers are the library's, so their norms are, too. Heads that torchvision adds for training alone are left out.
"""

from functools import lru_cache
from typing import Any

import torchvision
from torch import nn

from dgs_utils.classifiers import architectures
from dgs_utils.classifiers.architectures import TIMM
from dgs_utils.classifiers.modified_layers import CIFAR_STEM, first_convolution, modify
from dgs_utils.params.types import SMALL_STEM
from dgs_utils.runtime.seeds import torch_seeded

TRIED_SIZES = (8, 16, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 240, 256, 288, 320, 384, 448, 512)


def build_library_network(name: str, num_classes: int, image_size: int, channels: int = 3) -> nn.Module:
    """Return a freshly initialised network; its weights come from torch's global rng.

    Args:
        name: such as ``torchvision:resnet50`` or ``timm:resnet18@small``.
        num_classes: outputs.
        image_size: side of the images in pixels; transformers are built for it.
        channels: of the images, 3 or 1.

    Raises:
        ValueError: the library has no such network, or it cannot take the size; the sentence names one that it can.
    """
    check_library_network(name, image_size)
    arguments, stem = library_arguments(name, image_size)
    library, plain = library_name(name).split(":")
    if library == "timm":
        network = architectures.import_timm().create_model(plain, num_classes=num_classes, **arguments)
    else:
        more = {"init_weights": True} if "aux_logits" in arguments else {}
        network = torchvision.models.get_model(plain, weights=None, num_classes=num_classes, **arguments, **more)
    modify(network, channels, stem, "", num_classes)
    if stem.get("kernel_size") == 3:
        nn.init.kaiming_normal_(first_convolution(network)[1].weight, mode="fan_out", nonlinearity="relu")
    return network


def library_name(name: str) -> str:
    """Return a network's name with its library and without ``@small``.

    Raises:
        ValueError: the library has no such network, or the name says which weights, which students do not have.

    >>> library_name("torchvision:resnet50@small")
    'torchvision:resnet50'
    """
    qualified = architectures.qualified_name(name.removesuffix(SMALL_STEM))
    plain, dot, tag = qualified.partition(".")
    if dot and qualified.startswith(TIMM):
        raise ValueError(f"{name!r} names the weights {tag}, but students begin with random ones; give {plain!r}")
    return qualified


@lru_cache(maxsize=64)
def library_arguments(name: str, image_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the library's function for an image size, and the first layer of ``@small``.

    Both are fields of `scorer_config.ClassifierConfig`.

    Raises:
        ValueError: the first layer cannot be replaced, or suits small images as it is.
    """
    qualified = library_name(name)
    library, plain = qualified.split(":")
    arguments: dict[str, Any] = {"aux_logits": False} if plain in ("googlenet", "inception_v3") else {}
    fixed = plain.startswith("vit_") if library == "torchvision" else (
        getattr(architectures.import_timm().get_pretrained_cfg(plain), "fixed_input_size", False))
    if fixed:
        arguments["image_size" if library == "torchvision" else "img_size"] = image_size
    if not name.endswith(SMALL_STEM):
        return arguments, {}
    usual = {key: value for key, value in arguments.items() if key == "aux_logits"}
    first = first_convolution(architectures.build(qualified, 2, **usual))[1]
    kernel, stride = first.kernel_size[0], first.stride[0]
    if stride == 1:
        raise ValueError(f"{name!r} has a first layer of stride 1 as it is; leave {SMALL_STEM} out")
    if kernel != stride:
        return arguments, dict(CIFAR_STEM)
    if not fixed:
        return arguments, {"kernel_size": max(stride // 4, 1), "stride": max(stride // 4, 1)}
    if library == "torchvision":
        raise ValueError(f"{name!r}: torchvision has no {plain} with other patches; choose one of timm, such as "
                         f"timm:vit_tiny_patch16_224{SMALL_STEM}")
    return arguments | {"patch_size": max(stride // 4, 1)}, {}


@lru_cache(maxsize=64)
def check_library_network(name: str, image_size: int) -> None:
    """Check on PyTorch's meta device, without weights, that a network can be trained on images of a size.

    Raises:
        ValueError: the library has no such network, or it cannot take the size; the sentence names one that it can.
    """
    reason = _refusal(name, image_size)
    if not reason:
        return
    works = next((size for size in TRIED_SIZES if size > image_size and not _refusal(name, size)), 0)
    cure = f"it takes {works}; set image_size to that, or choose another network" if works else (
        "choose another network")
    if name.endswith(SMALL_STEM) and not _refusal(name.removesuffix(SMALL_STEM), image_size):
        cure = f"its first layer cannot be another, so leave {SMALL_STEM} out"
    raise ValueError(f"{name} cannot be trained on images of {image_size} pixels ({reason}); {cure}")


def _refusal(name: str, image_size: int) -> str:
    """Return why a network cannot be trained on images of a size, or "" if it can."""
    arguments, stem = library_arguments(name, image_size)
    with torch_seeded("overwritten"):
        try:
            network = architectures.build(library_name(name), 2, **arguments)
            modify(network, 3, stem, "", 2)
        except Exception as error:  # each network has errors of its own
            return architectures.short_reason(error)
        return architectures.input_error(network.train(), (3, image_size, image_size), batch=2, outputs=2)
