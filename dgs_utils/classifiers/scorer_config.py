"""Descriptions of scorers: ``config.json`` in their folders, and the sidecar ``.json`` of a file of weights."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dgs_utils.classifiers.architectures import DGS, TORCHVISION
from dgs_utils.classifiers.networks import NETWORKS
from dgs_utils.classifiers.preprocessing import (
    ResizeCrop,
    TimmTransform,
    Transform,
    transform_from_json,
    transform_to_json,
)
from dgs_utils.params.base import did_you_mean

LEGACY_TRANSFORM = ("resize", "crop", "mean", "std", "interpolation")  # beside the network's name in older folders
SIDECAR_FIELDS = ("norm", "tensorflow_padding", "classes", "arguments", "stem", "head", "sigmoid")


@dataclass(frozen=True)
class ClassifierConfig:
    """Description of a classifier without its weights; raises ValueError for another number of names than outputs."""

    network: str  # ``dgs:<name>`` of `dgs_utils.classifiers.networks`, ``torchvision:<name>`` or ``timm:<name>``
    num_classes: int  # outputs
    transform: Transform  # how images are prepared: the library's own transform
    norm: str = "instance"  # or "batch", for our own networks
    tensorflow_padding: bool = False  # strided convolutions pad right and below first, as weights of TensorFlow expect
    classes: tuple[str, ...] = ()  # names of the outputs, in their order: WordNet ids of ImageNet's; () if unknown
    arguments: dict[str, Any] = field(default_factory=dict)  # of the library's function: what is no weight
    stem: dict[str, Any] = field(default_factory=dict)  # of a modified first layer; see `modified_layers`
    head: str = ""  # of a modified last layer; see there
    sigmoid: bool = False  # the network has one output, the log-odds of the second of two classes against the first

    def __post_init__(self):
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"the classifier has {self.num_classes} outputs and {len(self.classes)} names of classes; "
                             f"give one name an output, or none")

    @property
    def crop(self) -> int:
        """Side in pixels of the square that the network sees."""
        return self.transform.crop

    def to_json(self) -> dict[str, Any]:
        """Return the description as plain values."""
        return json.loads(json.dumps(asdict(self) | {"transform": transform_to_json(self.transform)}))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ClassifierConfig":
        """Return the description of `to_json`, or of older folders, without library and with a flat transform.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: fields are missing, unknown or of another type.
        """
        flat = {name: values[name] for name in LEGACY_TRANSFORM if name in values}
        values = {name: value for name, value in values.items() if name not in flat}
        if ":" not in values["network"]:
            values["network"] = (DGS if values["network"] in NETWORKS else TORCHVISION) + values["network"]
        return cls(**values | {"classes": tuple(values.get("classes", ())),
                               "transform": transform_from_json(values.get("transform", flat))})


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read the ``.json`` beside a file of weights, which must be an object; {} if there is none."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); correct it, or remove it") from None
    if not isinstance(values, dict):
        raise ValueError(f'{path} is no JSON object; write one such as {{"resize": 256, "crop": 224}}, or remove it')
    return values


def apply_sidecar(config: ClassifierConfig, sidecar: dict[str, Any], path: Path) -> ClassifierConfig:
    """Return a description with the fields of a sidecar, which are those of the transform and `SIDECAR_FIELDS`.

    Raises:
        ValueError: a field is unknown or of another type.
    """
    transform = config.transform
    if isinstance(transform, TimmTransform) and sidecar.keys() & {"resize", "crop"}:
        side, data = transform.crop, transform.data  # about the same, with sizes that can be set
        transform = ResizeCrop(math.floor(side / data["crop_pct"]), side, transform.mean, transform.std,
                               data["interpolation"])
    values = config.to_json()
    prepared = json.loads(json.dumps(transform_to_json(transform)))
    known = prepared | {name: values[name] for name in SIDECAR_FIELDS}
    for name, value in sidecar.items():
        if name not in known:
            raise ValueError(f"{path}: {name} is unknown{did_you_mean(name, known)}")
        wrong = name in ("mean", "std") and isinstance(value, list) and (
            len(value) != len(known[name]) or not all(type(number) in (int, float) for number in value))
        if type(value) is not type(known[name]) or wrong:
            raise ValueError(f"{path}: {name} is {value!r}; give a value such as {known[name]!r}")
    known |= {name: known[name] | value if isinstance(value, dict) else value for name, value in sidecar.items()}
    return ClassifierConfig.from_json(values | {name: known[name] for name in SIDECAR_FIELDS}
                                      | {"transform": {name: known[name] for name in prepared}})
