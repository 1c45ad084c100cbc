"""Classifiers from elsewhere: torchvision's and timm's by name, files of weights, folders of timm's or of stage 00."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from dgs_utils.classifiers import architectures
from dgs_utils.classifiers.architectures import DGS, TIMM, TORCHVISION
from dgs_utils.classifiers.local_weights import (
    AUXILIARY_HEADS,
    build_with_weights,
    check_input_size,
    open_local_weights,
    with_size,
)
from dgs_utils.classifiers.preprocessing import timm_transform
from dgs_utils.classifiers.published_weights import PublishedWeights, find_published, list_published
from dgs_utils.classifiers.scorer import Classifier, ClassifierConfig, load_classifier
from dgs_utils.classifiers.state_dicts import READERS, Warn, read_tensors, select_state_dict
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.store.paths import resolve_path


def open_scorer(text: str, size: int = 0, warn: Warn = warnings.warn) -> Classifier:
    """Open a classifier by one string: a folder (see `open_scorer_folder`), or ``name:weights`` of `pretrained`.

    Args:
        text: such as "resnet50:IMAGENET1K_V2", "timm:resnet50:a1_in1k", "resnet18:best.pth".
        size: side in pixels of its images; 0 = as its own transform says. A folder keeps its own.
        warn: called with a sentence for each guess.
    """
    if (resolve_path(text) / "config.json").exists():
        return open_scorer_folder(resolve_path(text), warn)
    architectures.refuse_hub_address(text)
    prefix = next((prefix for prefix in (DGS, TORCHVISION, TIMM) if text.startswith(prefix)), "")
    name, colon, weights = text.removeprefix(prefix).partition(":")
    if not colon:
        raise ValueError(f"{text!r} names no classifier; give a folder with config.json, or name:weights, "
                         f"such as resnet50:IMAGENET1K_V1")
    return pretrained(prefix + name, weights, size, warn)


def pretrained(name: str, weights: str, size: int = 0, warn: Warn = warnings.warn) -> Classifier:
    """Open a classifier with weights by name or from a local file, as its library builds it and prepares its images.

    Args:
        name: such as "resnet50" (torchvision's), "timm:tf_efficientnet_lite0", "dgs:resnet18" (from a file).
        weights: such as "IMAGENET1K_V1", or "pretrained" or a tag such as "a1_in1k" for timm; or the path of a file
            that `state_dicts.read_tensors` reads. A file that the library publishes is recognised; for another, append
            ``@`` and the weights whose transform it was trained with, or put a ``.json`` of the same name beside it
            with fields of `ClassifierConfig` and of its transform. Arrays with ``background.*`` (class 0 of
            TensorFlow's 1,001) are taken for TensorFlow's: its padding, pixels in [−1, 1].
        size: side in pixels of its images; 0 = as its transform says.
        warn: called with a sentence for each guess, and for what was stripped from a file.

    Raises:
        ValueError: an unknown name, weights that cannot be downloaded or do not fit the network, or a size that the
            network cannot take.
    """
    path, transform_of = _split(weights)
    if path is not None:
        if not transform_of and path.stem in ("model", "pytorch_model") and (path.parent / "config.json").is_file():
            return open_scorer_folder(path.parent, warn)
        return open_local_weights(name, path, transform_of, size, warn)
    network = architectures.qualified_name(name)
    if network.startswith(DGS):
        raise ValueError(f"{name} is a network of this kit, which has no published weights: give a file with yours, or "
                         f"train as prepare.classifier_weights")
    return _download(find_published(list_published(network), weights, name), size)


def _split(weights: str) -> tuple[Path | None, str]:
    """Return the file that a parameter names, None if it names none, and the weights after ``@``."""
    if Path(weights).suffix.lower() in READERS:
        return resolve_path(weights), ""
    file, at, transform_of = weights.rpartition("@")
    return (resolve_path(file), transform_of) if at and Path(file).suffix.lower() in READERS else (None, "")


# ---- By name ---------------------------------------------------------------------------------------------------------

def _download(weights: PublishedWeights, size: int) -> Classifier:
    library, _, plain = weights.network.partition(":")
    title = f"the weights {weights.name} of {plain if library == 'torchvision' else weights.network.partition('.')[0]}"
    config = with_size(ClassifierConfig(weights.network, 0, weights.transform, "batch", arguments=weights.arguments),
                       size)
    check_input_size(config, weights.transform.crop)
    try:
        with torch_seeded("overwritten"):
            if library == "timm":
                network = architectures.import_timm().create_model(plain, pretrained=True)
            else:
                entry = torchvision.models.get_model_weights(plain)[weights.name]
                network = torchvision.models.get_model(plain, weights=entry)
    except Exception as error:  # the hub's client, the network and the libraries each have errors of their own
        fetch = (f"fetch them with 'curl -LO {weights.url}', on another machine if need be, and set prepare."
                 f"classifier_weights to the path of {weights.file}" if weights.url else
                 "fetch them on another machine and set prepare.classifier_weights to the file (.safetensors, .pth)")
        raise ValueError(f"{title} could not be downloaded ({' '.join(str(error).split())[:200]}); {fetch}") from None
    for head in AUXILIARY_HEADS:  # which the rebuilt network has not
        if getattr(network, head.rstrip("."), None) is not None:
            network.aux_logits = False
            setattr(network, head.rstrip("."), None)
    if getattr(network, "num_classes", 1) == 0:
        raise ValueError(f"{title} give features and no classes; choose others")
    if not all(torch.isfinite(value).all() for value in network.state_dict().values()):
        raise ValueError(f"{title} hold values that are no numbers, as those that give features alone; choose others")
    layer = architectures.output_layer(network)[1]
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    classes = architectures.timm_class_names(network) if library == "timm" else weights.classes
    return Classifier(network, replace(config, num_classes=outputs, classes=classes))


# ---- From folders ----------------------------------------------------------------------------------------------------

def open_scorer_folder(folder: Path, warn: Warn = warnings.warn) -> Classifier:
    """Open the folder of a classifier: of stage 00, or of timm as it saves it or a hub has it.

    Raises:
        ValueError: another folder, such as transformers', or its files do not belong together.
    """
    try:
        values = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return load_classifier(folder)  # which raises the error
    if not isinstance(values, dict) or not values.keys() & {"architecture", "architectures", "model_type"}:
        return load_classifier(folder)
    if "architecture" in values:
        return _timm_folder(folder, values, warn)
    raise ValueError(f"{folder} is a classifier of the library transformers ({values.get('model_type', 'unknown')}), "
                     f"which is not read; give the same network of torchvision or timm, or let transformers score the "
                     f"images and give the scores with difficulty.published_scores")


def _timm_folder(folder: Path, values: dict[str, Any], warn: Warn) -> Classifier:
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    path = next((path for path in (*files, *sorted(folder.glob("*.pth"))) if path.is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has config.json and no weights; add model.safetensors or pytorch_model.bin")
    timm = architectures.import_timm()
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=False).eval()
    except Exception as error:  # an unknown architecture, fields of a newer timm, or arguments that it does not take
        raise ValueError(f"{folder / 'config.json'} describes no classifier that timm {timm.__version__} can build "
                         f"({' '.join(str(error).split())[:200]}); correct it, or install a newer timm") from None
    cfg = {name: value for name, value in network.pretrained_cfg.items()
           if name not in ("file", "source", "state_dict", "url", "hf_hub_id", "hf_hub_filename")}
    arguments = {name: value for name, value in values.get("model_args", {}).items() if name != "num_classes"}
    config = ClassifierConfig(f"{TIMM}{values['architecture']}", network.num_classes, timm_transform(cfg), "batch",
                              classes=architectures.timm_class_names(network),
                              arguments=arguments | {"pretrained_cfg": json.loads(json.dumps(cfg))})
    state = select_state_dict(read_tensors(path), network.state_dict().keys(), path, warn)
    return Classifier(build_with_weights(config, state, path, may_resize=True), config)
