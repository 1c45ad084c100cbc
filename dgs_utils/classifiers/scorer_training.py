"""Training of scorers and teachers on real images."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from dgs_utils.classifiers.architectures import DGS
from dgs_utils.classifiers.image_tensors import ImageTensors, load_images
from dgs_utils.classifiers.library_networks import library_arguments, library_name
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.protocols import PROTOCOLS, training_augmentation
from dgs_utils.classifiers.scorer import Classifier, ClassifierConfig
from dgs_utils.classifiers.training import EpochCallback, Recipe, train_classifier
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params.types import is_library_network
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.store.checkpoint import Checkpointer


def train_scorer(train: ImageSet | ImageTensors, test: ImageSet | ImageTensors, network: str, size: int, epochs: int,
                 seed: int = 0, flip: bool = True, precision: str = "fp32", device: str = "auto", workers: int = 0,
                 progress: Callable = no_progress, checkpointer: Checkpointer | None = None,
                 on_epoch_end: EpochCallback | None = None, protocol: str = "idc",
                 class_names: Sequence[str] = ()) -> tuple[Classifier, pd.DataFrame]:
    """Train a scorer of difficulty, or a teacher, on real images with their true labels.

    Args:
        train: images with labels from 0, as files or uint8 tensors (N, 3, size, size).
        test: images of the same classes, for the curve only.
        network: a name that `networks.build_network` takes.
        size: side in pixels that the scorer sees.
        epochs: passes over the set.
        seed: names the initial weights and every draw.
        flip: whether a mirrored image still shows its class.
        precision: "fp32" or "bf16".
        device: where the training runs.
        workers: threads that read images; 0 = one per core.
        progress: wraps the epochs.
        checkpointer: saves the state between two steps, and loads the state to resume from.
        on_epoch_end: called with the number and the network after each epoch.
        protocol: whose optimiser, schedule, transforms, norm and size of test images: "idc", or "rded" for a teacher
            of soft labels [B §3.1]. RDED's authors published their teachers' weights, but not their training, so ours
            are trained like the students.
        class_names: what the scorer's outputs are called, in label order; () for the classes of an `ImageSet`, and for
            no names with arrays.

    Returns:
        The scorer, on the CPU, and its curve: epoch, learning_rate, loss, top1 (percent).

    Raises:
        ValueError: an unknown network, or one that does not suit the size.
    """
    classes, preset = int(train.labels.max()) + 1, PROTOCOLS[protocol]
    norm, preset = "batch" if preset.temperature else "instance", replace(preset, temperature=0.0)
    on = resolve_device(device)
    with torch_seeded("prepare", "judge", seed):
        built = build_network(network, classes, size, norm)

    def tensors(images: ImageSet | ImageTensors, zoom: float) -> ImageTensors:
        loaded = images if isinstance(images, ImageTensors) else load_images(images, size, workers, zoom=zoom)
        return loaded.to(on)

    recipe = Recipe(epochs, preset.batch_size(0), preset.learning_rate, precision=precision, protocol=preset,
                    augmentation=training_augmentation(preset, flip))
    outcome = train_classifier(built.to(on), tensors(train, 1.0), tensors(test, preset.test_zoom), recipe, seed,
                               progress, stage="prepare", checkpointer=checkpointer, on_epoch_end=on_epoch_end)
    names = class_names or (train.classes if isinstance(train, ImageSet) and len(train.classes) == classes else ())
    arguments, stem = library_arguments(network, size) if is_library_network(network) else ({}, {})
    qualified = library_name(network) if is_library_network(network) else f"{DGS}{network}"
    config = ClassifierConfig(qualified, classes, ResizeCrop(round(size * preset.test_zoom), size), norm,
                              classes=tuple(names), arguments=arguments, stem=stem)
    return Classifier(built.cpu(), config), outcome.curve
