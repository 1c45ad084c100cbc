"""Classifiers from files of weights: published files are identified, and every guess is stated in a warning."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dgs_utils.classifiers import architectures
from dgs_utils.classifiers.architectures import DGS, TIMM, TORCHVISION
from dgs_utils.classifiers.modified_layers import CIFAR_STEM, detect_modifications
from dgs_utils.classifiers.networks import NETWORKS, build_network
from dgs_utils.classifiers.preprocessing import ResizeCrop, Transform
from dgs_utils.classifiers.published_weights import PublishedWeights, find_published, identify_file, list_published
from dgs_utils.classifiers.scorer import Classifier, ClassifierConfig, build_from_config
from dgs_utils.classifiers.scorer_config import apply_sidecar, read_sidecar
from dgs_utils.classifiers.state_dicts import (
    StateDict,
    Warn,
    count_matching,
    load_checked,
    read_tensors,
    select_state_dict,
)
from dgs_utils.images.classes import imagenet_names

AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")  # of torchvision's Inception networks, for training alone
CIFAR_SIDE = 32  # pixels of the images that `CIFAR_STEM` is made for
TENSORFLOW = "background."  # names of class 0 of TensorFlow's 1,001


def with_size(config: ClassifierConfig, size: int) -> ClassifierConfig:
    """Return a description for another image size; 0 keeps its own."""
    return replace(config, transform=config.transform.with_size(size)) if size else config


def check_input_size(config: ClassifierConfig, usual: int) -> None:
    """Raise ValueError if a network cannot take the size of its description; ``usual`` is its own."""
    channels, size = len(config.transform.mean), config.crop
    reason = "" if size == usual else architectures.input_error(build_from_config(config), (channels, size, size))
    if reason:
        raise ValueError(f"{config.network} sees {usual} pixels and cannot take {size} ({reason}); set "
                         f"prepare.classifier_size to 0 or {usual}")


def open_local_weights(name: str, path: Path, transform_of: str, size: int, warn: Warn) -> Classifier:
    """Open a classifier whose weights are in a file; see `pretrained`. ``transform_of`` names the published weights
    with whose transform it was trained; "" if unknown.
    """
    network = architectures.qualified_name(name)
    if not path.is_file():
        raise ValueError(f"prepare.classifier_weights is {path}, which does not exist; give the file with the weights "
                         f"of {name}")
    tensors, sidecar = read_tensors(path), read_sidecar(path.with_suffix(".json"))
    if network.startswith(DGS) or (name in NETWORKS and _is_ours(name, tensors)):
        return _open_ours(DGS + network.rpartition(":")[2], path, tensors, size, sidecar, warn)
    published = list_published(network)
    origin = find_published(published, transform_of, name) if transform_of else identify_file(path, published)
    transform_known = origin is not None or {"resize", "crop"} <= sidecar.keys()
    origin = origin or published[0]
    reference = architectures.build(origin.network, 2, **origin.arguments | sidecar.get("arguments", {}))
    state = select_state_dict(tensors, reference.state_dict().keys(), path, warn)
    origin = _fit_image_size(origin, reference, state, size or sidecar.get("crop", 0))
    from_tensorflow = any(key.startswith(TENSORFLOW) for key in state)
    state = {key: value for key, value in state.items() if not key.startswith((TENSORFLOW, *AUXILIARY_HEADS))}
    config, state = _fit_layers(origin, reference, state, path, warn)
    if from_tensorflow:
        config = replace(config, transform=config.transform.with_normalisation((0.5,) * 3, (0.5,) * 3),
                         tensorflow_padding=True, classes=tuple(imagenet_names()))
    elif not transform_known:
        warn(_transform_warning(path, origin, published, config))
    config = apply_sidecar(with_size(config, size), sidecar, path.with_suffix(".json"))
    check_input_size(config, origin.transform.crop)
    return Classifier(build_with_weights(config, state, path), config)


def _is_ours(name: str, tensors: StateDict) -> bool:
    """Return whether weights are of our network of a name that torchvision has, too."""
    ours, theirs = build_network(name, 1, 64), architectures.build(TORCHVISION + name)
    return count_matching(tensors, ours.state_dict()) > count_matching(tensors, theirs.state_dict())


def _open_ours(network: str, path: Path, tensors: StateDict, size: int, sidecar: dict[str, Any],
               warn: Warn) -> Classifier:
    pixels = size or sidecar.get("crop", 0)
    if not pixels:
        raise ValueError(f"{path} holds weights of {network}, and not for images of how many pixels; set prepare."
                         f"classifier_size to that")
    norm = "batch" if any(key.endswith("running_mean") for key in tensors) else "instance"
    reference = architectures.build(network, 2, pixels, norm)
    state = select_state_dict(tensors, reference.state_dict().keys(), path, warn)
    head = f"{architectures.output_layer(reference)[0]}.weight"
    if head not in state:
        raise ValueError(f"{path} has no {head}, so it does not hold the weights of {network}")
    config = ClassifierConfig(network, len(state[head]), ResizeCrop(pixels, pixels), norm)
    config = apply_sidecar(config, sidecar, path.with_suffix(".json"))
    built = build_from_config(config)
    load_checked(built, state, path, network)
    return Classifier(built, config)


def _fit_image_size(origin: PublishedWeights, reference: nn.Module, state: StateDict, size: int) -> PublishedWeights:
    """Return published weights with the network built for images of ``size`` pixels, if it has to be, as transformers
    do.
    """
    if not size or not (_misshapen(reference, state) or architectures.input_error(reference, (3, size, size))):
        return origin
    arguments = origin.arguments | {"image_size" if origin.network.startswith(TORCHVISION) else "img_size": size}
    try:
        with torch.device("meta"):
            network = architectures.build(origin.network, 2, **arguments)
    except Exception:  # it takes no size, or not this one
        return origin
    return origin if _misshapen(network, state) else replace(origin, transform=origin.transform.with_size(size),
                                                             arguments=arguments)


def _misshapen(network: nn.Module, state: StateDict) -> list[str]:
    """Return names of weights with other shapes in a network, except for its output layers."""
    outputs = architectures.output_layers(network)
    return [name for name, value in network.state_dict().items()
            if name in state and state[name].shape != value.shape and name.rpartition(".")[0] not in outputs]


# ---- Layers and transforms -------------------------------------------------------------------------------------------

def _fit_layers(origin: PublishedWeights, reference: nn.Module, state: StateDict, path: Path,
                warn: Warn) -> tuple[ClassifierConfig, StateDict]:
    """Return the description of the network that weights come from, and the weights under its names."""
    try:
        modified, state = detect_modifications(reference, state)
    except ValueError as error:
        problem = str(error).replace("this network", origin.network)
        raise ValueError(f"{path} {problem}; give the weights of {origin.network}, or the right name of theirs"
                         ) from None
    transform: Transform = origin.transform
    arguments, sidecar = dict(origin.arguments), path.with_suffix(".json").name
    if modified.channels == 1 != len(transform.mean):
        transform = transform.with_normalisation([sum(transform.mean) / 3], [sum(transform.std) / 3])
        arguments |= {"transform_input": False} if "transform_input" in arguments else {}
        warn(f"{path} takes grey images; taken: the mean {transform.mean[0]:.3f} and std {transform.std[0]:.3f}, of "
             f"the three channels of {origin.network}; if it was trained with others, write them into {sidecar}")
    if modified.stem:
        transform = ResizeCrop(CIFAR_SIDE, CIFAR_SIDE, transform.mean, transform.std)
        described = json.dumps({"stem": CIFAR_STEM, "resize": CIFAR_SIDE, "crop": CIFAR_SIDE})
        warn(f"{path} has a first convolution for small images, of 3×3; taken: stride 1, no max pool after it, and "
             f"images of {CIFAR_SIDE} pixels, which weights do not record; if it is otherwise, write {described} into "
             f"{sidecar} and correct it")
    if modified.outputs == 1:
        warn(f"{path} has one output; taken: the log-odds (before the sigmoid) of class 1 against class 0")
    classes = origin.classes if modified.outputs == len(origin.classes) else ()
    return ClassifierConfig(origin.network, max(modified.outputs, 2), transform, "batch", arguments=arguments,
                            classes=classes, stem=modified.stem, head=modified.head,
                            sigmoid=modified.outputs == 1), state


def _transform_warning(path: Path, origin: PublishedWeights, published: list[PublishedWeights],
                       config: ClassifierConfig) -> str:
    """Return the sentence on the transform that is assumed for weights of unknown origin, with the candidates."""
    others: dict[str, str] = {}
    for other in published:
        if str(other.transform) != str(origin.transform):
            others.setdefault(str(other.transform), other.name)
    listed = ", or ".join(f"that of {name} ({text})" for text, name in list(others.items())[:3])
    return (f"{path} is none of the files that are published for {origin.network}, so it is unknown how its images "
            f"were prepared; taken: that of {origin.name or 'the library'} ({config.transform})"
            f"{f'; others are {listed}' if others else ''}; if it was another, append @ and its name to the path, or "
            f"write it into {path.with_suffix('.json').name}")


def build_with_weights(config: ClassifierConfig, state: StateDict, path: Path, may_resize: bool = False) -> nn.Module:
    """Return the network of a description with weights, or raise ValueError where they do not fit.

    timm itself reads weights under older names of its own, or those of their authors, and, if it ``may_resize`` as in
    its own folders, interpolates those for another image size.
    """
    network = build_from_config(config)
    try:
        load_checked(network, state, path, config.network)
        return network
    except ValueError as error:
        own = network.state_dict()
        resized = [name for name in _misshapen(network, state) if state[name].numel() != own[name].numel()]
        if resized and not may_resize and state.keys() == own.keys():
            raise ValueError(f"{error}; or, if they are for images of another size than {config.crop}, set "
                             f"prepare.classifier_size to that") from None
        if not config.network.startswith(TIMM):
            raise
        problem = error
    overlay = {"state_dict": dict(state), "num_classes": config.num_classes}
    try:
        return architectures.import_timm().create_model(
            config.network.removeprefix(TIMM), pretrained=True, pretrained_cfg_overlay=overlay,
            num_classes=config.num_classes, **config.arguments)
    except Exception:  # whose own error is a list of all names
        raise problem from None
