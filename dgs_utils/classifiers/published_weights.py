"""Published weights of torchvision's and timm's classifiers, and which of them a file contains."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torchvision

from dgs_utils.classifiers.architectures import TIMM, TORCHVISION, import_timm
from dgs_utils.classifiers.preprocessing import Transform, timm_transform, torchvision_transform
from dgs_utils.classifiers.state_dicts import READERS
from dgs_utils.images.classes import imagenet_names

HASH = re.compile(r"(?<![0-9a-f])([0-9a-f]{8,10})(?![0-9a-f])")  # the beginning of a file's SHA-256, in its name


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that a library publishes."""

    network: str  # with its library; timm's includes the tag
    name: str  # such as IMAGENET1K_V2, or a1_in1k; "" for timm's defaults of a network without weights
    url: str  # of the file; "" if only a hub has it
    transform: Transform
    arguments: dict[str, Any] = field(default_factory=dict)  # with which the library builds the network for them
    classes: tuple[str, ...] = ()  # names of the outputs
    aliases: tuple[str, ...] = ()  # all names that the library accepts

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def digest(self) -> str:
        """Beginning of the file's SHA-256, if its name has it."""
        return (HASH.findall(self.file) or [""])[-1]


def published_accuracy(network: str, weights: str) -> float:
    """Return the share of ImageNet's validation images that torchvision says published weights recognise; 0 if unknown.

    >>> round(published_accuracy("resnet50", "IMAGENET1K_V2"), 3), published_accuracy("resnet50", "best.pth")
    (0.809, 0.0)
    """
    plain, name = network.removeprefix(TORCHVISION), weights.rpartition("@")[2].rpartition(".")[2]
    known = torchvision.models.list_models(module=torchvision.models)
    entry = torchvision.models.get_model_weights(plain).__members__.get(name) if plain in known else None
    return entry.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1", 0.0) / 100 if entry else 0.0


def list_published(network: str) -> list[PublishedWeights]:
    """Return all published weights of a network of torchvision or timm, timm's default first; of a timm name with a
    tag only those.
    """
    if network.startswith(TORCHVISION):
        plain = network.removeprefix(TORCHVISION)
        return [_of_torchvision(network, plain, entry) for entry in torchvision.models.get_model_weights(plain)]
    timm, plain = import_timm(), network.removeprefix(TIMM)
    names = [plain] if "." in plain else timm.list_models(f"{plain}.*", pretrained=True)
    default = timm.models.get_pretrained_cfg(plain, allow_unregistered=False)
    names.sort(key=lambda name: name.partition(".")[2] != (default.tag if default else ""))
    return [_of_timm(name, is_default=index == 0) for index, name in enumerate(names or [plain])]


def _of_torchvision(network: str, plain: str, entry: Any) -> PublishedWeights:
    arguments: dict[str, Any] = {}
    if plain in ("googlenet", "inception_v3"):  # whose files have heads for training alone
        arguments = {"transform_input": True, "aux_logits": False}
    elif plain.startswith("vit_"):
        arguments = {"image_size": entry.meta["min_size"][0]}
    elif plain.startswith("maxvit_"):
        arguments = {"input_size": list(entry.meta["min_size"])}
    names = [name for name, same in type(entry).__members__.items() if same is entry]  # DEFAULT is an alias
    aliases = tuple(form for name in names for form in (name, f"{type(entry).__name__}.{name}"))
    classes = tuple(imagenet_names())  # by WordNet id, in the order of torchvision's categories
    return PublishedWeights(network, entry.name, entry.url, torchvision_transform(entry.transforms()), arguments,
                            classes if len(entry.meta["categories"] or ()) == len(classes) else (), aliases)


def _of_timm(name: str, is_default: bool) -> PublishedWeights:
    config, tag = import_timm().models.get_pretrained_cfg(name), name.partition(".")[2]
    values = config.to_dict() if config else {}
    return PublishedWeights(TIMM + name, tag, values.get("url") or "", timm_transform(values),
                            aliases=(tag, name, *(["pretrained"] if is_default else [])))


def find_published(published: list[PublishedWeights], name: str, title: str) -> PublishedWeights:
    """Return published weights by any name that their library accepts: ``IMAGENET1K_V2``, ``DEFAULT``,
    ``ResNet50_Weights.DEFAULT``, ``a1_in1k``, ``resnet50.a1_in1k``, or ``pretrained`` for timm's default; raise
    ValueError where none of the network called ``title`` has that name.
    """
    for weights in published:
        if name and name in weights.aliases:
            return weights
    known = ", ".join(weights.name for weights in published if weights.name) or "none"
    raise ValueError(f"{title} has no weights {name!r}; choose one of {known}, or give a file of weights "
                     f"({', '.join(READERS)})")


def identify_file(path: Path, published: list[PublishedWeights]) -> PublishedWeights | None:
    """Return the published weights that a file contains, by its name, the hash in its name, or its content."""
    by_digest = {weights.digest: weights for weights in published if weights.digest}
    named = [weights for weights in published if weights.file == path.name]
    named += [by_digest[digest] for digest in HASH.findall(path.name) if digest in by_digest]
    if named or not by_digest:
        return named[0] if named else None
    with path.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    return next((weights for digest, weights in by_digest.items() if content.startswith(digest)), None)
