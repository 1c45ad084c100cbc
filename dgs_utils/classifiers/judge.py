"""Classifiers that judge images: for difficulty scores (Eq. 6), for coreset features, as teachers.

A classifier is a network with its own preprocessing, which is saved beside its weights: a folder with ``config.json``
and ``model.safetensors``. It comes from torchvision or timm (weights by name or from a local file) or was trained here.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from dgs_utils.artifacts.files import write_json
from dgs_utils.artifacts.parts import kept
from dgs_utils.artifacts.places import locate
from dgs_utils.classifiers import architectures
from dgs_utils.classifiers.augmentation import MEAN, STD
from dgs_utils.classifiers.networks import NETWORKS, build_network
from dgs_utils.classifiers.weights import READERS, load_state, read_weights
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.pixels import load_rgb, map_files
from dgs_utils.runtime.devices import layout_of, resolve
from dgs_utils.runtime.parameters import nearest
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import torch_seeded

CHUNK = 16  # images that one thread reads at a time


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is, apart from its weights.

    Attributes:
        network: a name of `dgs_utils.classifiers.networks`, of `torchvision.models`, or ``timm:<name>``.
        num_classes: outputs.
        resize: shorter side in pixels to which images are scaled.
        crop: side in pixels of the central square that the network sees.
        mean: subtracted from RGB values in [0, 1], per channel.
        std: divides what is left.
        norm: "instance" or "batch", for our own networks.
        tensorflow_padding: strided convolutions pad right and below first, as weights converted from TensorFlow expect.
        interpolation: how images are scaled: a value of `torchvision.transforms.InterpolationMode`, antialiased.
    """

    network: str
    num_classes: int
    resize: int
    crop: int
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    norm: str = "instance"
    tensorflow_padding: bool = False
    interpolation: str = "bilinear"


class Classifier(nn.Module):
    """A network with its preprocessing, for evaluation only.

    Args:
        network: maps normalised images (N, 3, crop, crop) to logits (N, num_classes).
        config: its description.
    """

    def __init__(self, network: nn.Module, config: ClassifierConfig):
        super().__init__()
        self.network = network
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1) * 255, persistent=False)
        if config.tensorflow_padding:
            for module in network.modules():
                if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.padding != (0, 0):
                    module.padding = (0, 0)
                    module.register_forward_pre_hook(_pad_like_tensorflow)
        self.layout = torch.contiguous_format
        self.eval().requires_grad_(False)

    def on(self, device: torch.device) -> "Classifier":
        """Move to a device, in the layout that many images pass through it fastest."""
        self.layout = torch.channels_last if device.type == "cpu" else layout_of(self.network)
        return self.to(device, memory_format=self.layout)

    def send(self, pixels: Tensor) -> Tensor:
        """Return prepared images on the classifier's device and in its layout."""
        return pixels.to(self.mean.device, non_blocking=True).contiguous(memory_format=self.layout)

    def prepare(self, image: Image.Image) -> Tensor:
        """Return an RGB image scaled and cropped: uint8 tensor (3, crop, crop)."""
        image = transforms.resize(image, [self.config.resize], InterpolationMode(self.config.interpolation))
        return transforms.pil_to_tensor(transforms.center_crop(image, [self.config.crop]))

    def read(self, path: Path) -> Tensor:
        """Read and `prepare` an image file."""
        return self.prepare(load_rgb(path))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of prepared images (uint8, (N, 3, crop, crop))."""
        return self.network(self.normalise(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Return what enters the last linear layer, (N, D), of prepared images."""
        if hasattr(self.network, "features") and self.config.network in NETWORKS:
            return self.network.features(self.normalise(pixels))
        caught = []
        hook = _last_linear(self.network)[1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            self.forward(pixels)
        finally:
            hook.remove()
        return caught[0].flatten(1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return prepared images as the network's float input."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, in one step."""
        with kept(folder) as partial:
            partial.mkdir(parents=True)
            state = {name: value.contiguous() for name, value in self.network.state_dict().items()}
            save_file(state, partial / "model.safetensors")
            write_json(partial / "config.json", asdict(self.config))


def _without_lists(values: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON holds of a `ClassifierConfig`, with its tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def load(folder: Path) -> Classifier:
    """Open a classifier that `Classifier.save` wrote.

    Raises:
        ValueError: no such folder, or its files do not belong together.
    """
    folder = Path(folder)
    try:
        values = _without_lists(json.loads((folder / "config.json").read_text()))
        config = ClassifierConfig(**values)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} holds no classifier (config.json); finish stage 00_prepare first") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} does not describe a classifier: {error}") from None
    network, weights = network_of(config), folder / "model.safetensors"
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{weights} cannot be read ({error}); delete {folder} and run 00_prepare again") from None
    load_state(network, state, weights)
    return Classifier(network, config)


def pretrained(name: str, weights: str, size: int = 224, warn: Callable[[str], None] = warnings.warn) -> Classifier:
    """Open a classifier of torchvision or timm with weights by name or from a local file.

    Args:
        name: such as "resnet50", or "timm:tf_efficientnet_lite0".
        weights: such as "IMAGENET1K_V1" ("pretrained" for timm's own), or the path of a file that
            `weights.read_weights` reads. A ``.json`` of the same name beside it may hold fields of `ClassifierConfig`.
            Arrays with ``background.*`` (class 0 of TensorFlow's 1,001) are taken for TensorFlow's: its padding, pixels
            in [−1, 1].
        size: side of the square that the network sees; images are scaled to 256/224 of it first, or as the enum says.
            timm's classifiers see what timm says.
        warn: takes a sentence about what stood around the weights in a file.

    Raises:
        ValueError: unknown name, weights that cannot be had, or that do not fit the network.
    """
    architectures.check_architecture(name)
    if Path(weights).suffix.lower() in READERS:
        return _from_file(name, locate(weights), size, warn)
    if name.startswith(architectures.TIMM):
        return _from_timm(name, weights)
    enum = torchvision.models.get_model_weights(name)
    if weights not in enum.__members__:
        raise ValueError(f"{name} has no weights {weights!r}; choose one of {', '.join(enum.__members__)}, "
                         f"or a file ending in {', '.join(READERS)}")
    try:
        with torch_seeded("overwritten"):
            network = torchvision.models.get_model(name, weights=enum[weights])
    except OSError as error:
        url = enum[weights].url
        raise ValueError(f"the weights {weights} of {name} could not be downloaded ({error}); fetch them with "
                         f"'curl -LO {url}', on another machine if need be, and set prepare.classifier_weights to the "
                         f"path of {url.rsplit('/', 1)[-1]}") from None
    preset = enum[weights].transforms()
    resize = round(size * preset.resize_size[0] / preset.crop_size[0])
    config = ClassifierConfig(name, _last_linear(network)[1].out_features, resize, size,
                              tuple(preset.mean), tuple(preset.std), norm="batch")
    return Classifier(network, config)


def _from_timm(name: str, weights: str) -> Classifier:
    if weights != "pretrained":
        raise ValueError(f"{name} has no weights {weights!r}; give pretrained, or a file ending in "
                         f"{', '.join(READERS)}")
    with torch_seeded("overwritten"):
        network = architectures.timm_pretrained(name)
        values = architectures.timm_preprocessing(name)
    return Classifier(network, ClassifierConfig(name, _last_linear(network)[1].out_features, **values))


def open_judge(text: str, size: int = 224, warn: Callable[[str], None] = warnings.warn) -> Classifier:
    """Open a classifier by one string: a folder that `Classifier.save` wrote, or ``name:weights`` of `pretrained`."""
    if (locate(text) / "config.json").exists():
        return load(locate(text))
    name, colon, weights = text.rpartition(":") if text.startswith(architectures.TIMM) else text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} names no classifier; give a folder with config.json, or name:weights, "
                         f"such as resnet50:IMAGENET1K_V1")
    return pretrained(name, weights, size, warn)


def network_of(config: ClassifierConfig) -> nn.Module:
    """Return the network of a description, with weights to be overwritten: always the same random ones."""
    with torch_seeded("overwritten"):
        if config.network in NETWORKS:
            return build_network(config.network, config.num_classes, config.crop, config.norm)
        return architectures.blank(config.network, config.num_classes)


# ---- Many images ---------------------------------------------------------------------------------------------------

def read_batches(root: Path, names: Sequence[str], judges: Sequence[Classifier], batch_size: int,
                 workers: int = 0) -> Iterator[list[Tensor]]:
    """Yield batches of prepared images, read ahead in threads: memory does not grow with their number.

    Args:
        root: folder that the names start from.
        names: file names.
        judges: classifiers; those with the same preprocessing share one tensor.
        batch_size: images per batch.
        workers: threads; 0 = one per core.

    Yields:
        One uint8 tensor (n, 3, crop, crop) per classifier.
    """
    sizes = [(judge.config.resize, judge.config.crop, judge.config.interpolation) for judge in judges]
    readers = dict(zip(sizes, judges, strict=True))

    def read(chunk: Sequence[str]) -> dict[tuple[int, int, str], Tensor]:
        images = [load_rgb(root / name) for name in chunk]
        return {size: torch.stack([judge.prepare(p) for p in images]) for size, judge in readers.items()}

    batches = [names[start : start + batch_size] for start in range(0, len(names), batch_size)]
    chunks = map_files(read, (batch[c : c + CHUNK] for batch in batches for c in range(0, len(batch), CHUNK)), workers)
    for batch in batches:
        parts = list(islice(chunks, -(-len(batch) // CHUNK)))
        yield [torch.cat([part[size] for part in parts]) for size in sizes]


@torch.inference_mode()
def features_of(images: ImageSet, judge: Classifier, device: str = "auto", batch_size: int = 128, workers: int = 0,
                progress: Callable = silent) -> np.ndarray:
    """Return the features of every image of a set, in table order: float32 array (N, D)."""
    judge = judge.on(resolve(device))
    names = images.table["file_name"].to_numpy()
    batches = progress(read_batches(images.root, names, [judge], batch_size, workers), label="features",
                       total=-(-len(names) // batch_size))
    with images.class_named():
        return np.concatenate([judge.features(batch.to(judge.mean.device)).float().cpu().numpy() for batch, in batches])


# ---- Weights from files ----------------------------------------------------------------------------------------------

def _from_file(name: str, path: Path, size: int, warn: Callable[[str], None]) -> Classifier:
    if not path.is_file():
        raise ValueError(f"prepare.classifier_weights is {path}, which does not exist; give the file with the weights "
                         f"of {name}")
    with torch_seeded("overwritten"):
        network = architectures.blank(name)
    state = read_weights(path, set(network.state_dict()), warn)
    tensorflow = any(key.startswith("background.") for key in state)
    state = {key: value for key, value in state.items() if not key.startswith("background.")}
    head = _last_linear(network)[0]
    if f"{head}.weight" not in state:
        raise ValueError(f"{path} has no {head}.weight, but {min(state)}, so it does not hold the weights of {name}; "
                         f"give those of that network, or its right name as prepare.classifier")
    values: dict[str, Any] = {"network": name, "num_classes": len(state[f"{head}.weight"]),
                              "resize": round(size * 256 / 224), "crop": size, "norm": "batch"}
    if name.startswith(architectures.TIMM):
        with torch_seeded("overwritten"):
            values |= architectures.timm_preprocessing(name)
    if tensorflow:
        values |= {"mean": (0.5,) * 3, "std": (0.5,) * 3, "tensorflow_padding": True}
    beside = path.with_suffix(".json")
    config = ClassifierConfig(**values | (_described(beside, values) if beside.exists() else {}))
    network = network_of(config)
    load_state(network, state, path)
    return Classifier(network, config)


def _described(path: Path, values: dict) -> dict:
    """Read fields of `ClassifierConfig` from the file beside weights.

    Raises:
        ValueError: it is no JSON object, or a field is unknown or of another kind.
    """
    try:
        given = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); correct it, or remove it") from None
    if not isinstance(given, dict):
        raise ValueError(f'{path} is no JSON object; write one such as {{"resize": 256, "crop": 224}}, or remove it')
    defaults = asdict(ClassifierConfig("", 1, 1, 1)) | values
    for name, value in given.items():
        if name not in defaults:
            raise ValueError(f"{path}: {name} is unknown{nearest(name, defaults)}")
        kind = list if isinstance(defaults[name], tuple) else type(defaults[name])
        if type(value) is not kind or (kind is list and [type(v) for v in value] not in ([float] * 3, [int] * 3)):
            raise ValueError(f"{path}: {name} is {value!r}; give a value such as {defaults[name]!r}")
    return _without_lists(given)


def _last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no linear layer at its end; choose another classifier")
    return layers[-1]


def _pad_like_tensorflow(convolution: nn.Conv2d, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Pad so that the output has ceil(size / stride) pixels, the odd one on the right and below."""
    x, = inputs
    pads = []
    sides = zip(x.shape[:1:-1], convolution.kernel_size[::-1], convolution.stride[::-1], strict=True)
    for size, kernel, stride in sides:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return (F.pad(x, pads),)
