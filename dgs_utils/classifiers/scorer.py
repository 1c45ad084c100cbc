"""Classifiers as scorers of difficulty (Eq. 6), for coreset features, and as teachers.

A classifier is a network with its own preprocessing. Its folder has ``config.json`` and ``model.safetensors``. It was
trained here, or comes from a library (see `pretrained`).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dgs_utils.classifiers import architectures
from dgs_utils.classifiers.modified_layers import modify
from dgs_utils.classifiers.scorer_config import ClassifierConfig
from dgs_utils.classifiers.state_dicts import load_checked
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb, map_files
from dgs_utils.runtime.devices import memory_format, resolve_device
from dgs_utils.runtime.progress import count_processed, no_progress
from dgs_utils.store.atomic import write_json
from dgs_utils.store.partial_results import write_verified

IMAGES_PER_TASK = 16  # of a reading thread


class Classifier(nn.Module):
    """A network, which maps normalised images (N, channels, crop, crop) to outputs, with its preprocessing, for
    evaluation only.
    """

    def __init__(self, network: nn.Module, config: ClassifierConfig):
        super().__init__()
        self.network = network
        self.config = config
        self.register_buffer("mean", torch.tensor(config.transform.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.transform.std).view(1, -1, 1, 1), persistent=False)
        if config.tensorflow_padding:
            for module in network.modules():
                if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.padding != (0, 0):
                    module.padding = (0, 0)
                    module.register_forward_pre_hook(_pad_like_tensorflow)
        self.layout = torch.contiguous_format
        self.eval().requires_grad_(False)

    def on(self, device: torch.device) -> "Classifier":
        """Move to a device, in the layout that many images pass through it fastest."""
        self.layout = torch.channels_last if device.type == "cpu" else memory_format(self.network)
        return self.to(device, memory_format=self.layout)

    def send(self, pixels: Tensor) -> Tensor:
        """Return prepared images on the classifier's device and in its layout."""
        return pixels.to(self.mean.device, non_blocking=True).contiguous(memory_format=self.layout)

    def prepare(self, image: Image.Image) -> Tensor:
        """Return an RGB image as the network sees it, but for mean and std: uint8 tensor (channels, crop, crop)."""
        return self.config.transform(image)

    def read(self, path: Path) -> Tensor:
        """Read and `prepare` an image file."""
        return self.prepare(load_rgb(path))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of prepared images (uint8, (N, channels, crop, crop))."""
        outputs = self.network(self.normalise(pixels))
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1) if self.config.sigmoid else outputs

    def features(self, pixels: Tensor) -> Tensor:
        """Return what enters the last layer, (N, D), of prepared images; the mean over the image where that is one."""
        if self.config.network.startswith(architectures.DGS):
            return self.network.features(self.normalise(pixels))
        caught = []
        layer = architectures.output_layer(self.network)[1]
        hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            self.forward(pixels)
        finally:
            hook.remove()
        return caught[0].mean((2, 3)) if isinstance(layer, nn.Conv2d) else caught[0].flatten(1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return prepared images as the network's float input, in the steps in which the libraries do it."""
        return (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, in one step."""
        with write_verified(folder) as partial:
            partial.mkdir(parents=True)
            state = {name: value.clone(memory_format=torch.contiguous_format)  # no two share their memory
                     for name, value in self.network.state_dict().items()}
            save_file(state, partial / "model.safetensors")
            write_json(partial / "config.json", self.config.to_json())


def load_classifier(folder: Path) -> Classifier:
    """Open a classifier that `Classifier.save` wrote, or raise ValueError."""
    path, weights = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    try:
        config = ClassifierConfig.from_json(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} holds no classifier (config.json); finish stage 00_prepare first") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a classifier: {error}") from None
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{weights} cannot be read ({error}); delete {folder} and run 00_prepare again") from None
    try:
        network = build_from_config(config)
    except ValueError:
        raise
    except Exception as error:  # the libraries' own, of values that were edited
        raise ValueError(f"{path} describes no classifier that can be built ({type(error).__name__}: {error}); restore "
                         f"it, or make {folder} again") from None
    load_checked(network, state, weights, config.network)
    return Classifier(network, config)


def build_from_config(config: ClassifierConfig) -> nn.Module:
    """Return the network of a description, with weights to be overwritten: always the same random ones."""
    outputs = 1 if config.sigmoid else config.num_classes
    network = architectures.build(config.network, outputs, config.crop, config.norm, **config.arguments)
    if not config.network.startswith(architectures.DGS):
        modify(network, len(config.transform.mean), config.stem, config.head, outputs)
    return network.eval()


# ---- Many images ---------------------------------------------------------------------------------------------------

def read_batches(root: Path, names: Sequence[str], scorers: Sequence[Classifier], batch_size: int,
                 workers: int = 0) -> Iterator[list[Tensor]]:
    """Yield batches of prepared images, one uint8 tensor (n, channels, crop, crop) per classifier; those with the same
    preprocessing share one. Files are read ahead in threads, by default one per core: memory does not grow.
    """
    transforms = [scorer.config.transform for scorer in scorers]
    first = [transforms.index(transform) for transform in transforms]  # scorer with the same transform

    def read(names: Sequence[str]) -> dict[int, Tensor]:
        images = [load_rgb(root / name) for name in names]
        return {index: torch.stack([scorers[index].prepare(image) for image in images]) for index in set(first)}

    batches = [names[start : start + batch_size] for start in range(0, len(names), batch_size)]
    tasks = (batch[start : start + IMAGES_PER_TASK] for batch in batches
             for start in range(0, len(batch), IMAGES_PER_TASK))
    pixels = map_files(read, tasks, workers)
    for batch in batches:
        parts = list(islice(pixels, -(-len(batch) // IMAGES_PER_TASK)))
        yield [torch.cat([part[index] for part in parts]) for index in first]


@torch.inference_mode()
def extract_features(images: ImageSet, scorer: Classifier, device: str = "auto", batch_size: int = 128,
                     workers: int = 0, progress: Callable = no_progress, *, logits: bool = False) -> np.ndarray:
    """Return the features of every image of a set, or its ``logits``, in table order: float32 array (N, D)."""
    scorer = scorer.on(resolve_device(device))
    names = images.table["file_name"].to_numpy()
    batches = count_processed(read_batches(images.root, names, [scorer], batch_size, workers), lambda pixels: pixels[0],
                        progress, "logits" if logits else "features", len(names))
    answer = scorer if logits else scorer.features
    with images.naming_class():
        return np.concatenate([answer(scorer.send(batch)).float().cpu().numpy() for batch, in batches])


def _pad_like_tensorflow(convolution: nn.Conv2d, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Pad so that the output has ceil(size / stride) pixels, the odd one on the right and below."""
    x, = inputs
    pads = []
    sides = zip(x.shape[:1:-1], convolution.kernel_size[::-1], convolution.stride[::-1], strict=True)
    for size, kernel, stride in sides:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return (F.pad(x, pads),)
