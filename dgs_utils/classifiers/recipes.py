"""Recipes of training: a protocol's numbers, some of them changed."""

from dataclasses import dataclass, field

from dgs_utils.classifiers.protocols import (
    IDC,
    NO_AUGMENTATION,
    PROTOCOLS,
    Augmentation,
    Protocol,
    training_augmentation,
)
from dgs_utils.params.base import did_you_mean


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the set.
        batch_size: the last, smaller batch of an epoch is kept.
        learning_rate: at the start.
        evaluations: tests during training, evenly spread.
        augmentation: training transforms.
        precision: "fp32" or "bf16".
        protocol: optimiser, schedule, labels, and which tests count.
        compile: "auto", "on" or "off": whether steps are compiled: by `torch.compile`, as CUDA graphs on a GPU,
            or with the layers of `networks.fused` (`should_compile_steps`).
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.01
    evaluations: int = 100
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "fp32"
    protocol: Protocol = IDC
    compile: str = "off"


def recipe_of(protocol: str, ipc: int, *, classes: int = 10, epochs: int = 0, epoch_factor: float = 1.0,
              batch_size: int = 0, learning_rate: float = 0.0, evaluations: int = 100, augment: bool = True,
              flip: bool = True, tiles: int = 1, precision: str = "fp32", compile: str = "auto") -> Recipe:
    """Return a protocol's recipe, changed by the settings.

    Args:
        protocol: a name of `protocols.PROTOCOLS`.
        ipc: images per class; 0: the full set, which is tested every epoch where others are 100 times [F §9.1].
        classes: how many there are.
        epochs: 0 = the protocol's for ``ipc``, times ``epoch_factor``.
        epoch_factor: scales the protocol's epochs.
        batch_size: 0 = the protocol's.
        learning_rate: 0 = the protocol's.
        evaluations: tests during training.
        augment: whether to use the protocol's transforms and CutMix.
        flip: whether a mirrored image still shows its class.
        tiles: the images are mosaics of tiles × tiles crops.
        precision: "fp32" or "bf16".
        compile: "on", "off", or "auto", which compiles the steps of long trainings (`training.should_compile_steps`).

    Raises:
        ValueError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"{protocol!r} is no protocol{did_you_mean(protocol, PROTOCOLS)}")
    preset = PROTOCOLS[protocol]
    epochs = epochs or preset.epochs(ipc, epoch_factor, classes)
    return Recipe(
        epochs=epochs,
        batch_size=batch_size or preset.batch_size(ipc),
        learning_rate=learning_rate or preset.learning_rate,
        evaluations=evaluations if ipc or evaluations < 100 else max(evaluations, epochs),
        augmentation=training_augmentation(preset, flip, tiles) if augment else NO_AUGMENTATION,
        precision=precision,
        protocol=preset,
        compile=compile,
    )
