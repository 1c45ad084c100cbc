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
    """How a classifier is trained."""

    epochs: int  # passes over the set
    batch_size: int = 64  # the last, smaller batch of an epoch is kept
    learning_rate: float = 0.01  # at the start
    evaluations: int = 100  # tests during training, evenly spread
    augmentation: Augmentation = field(default_factory=Augmentation)  # training transforms
    precision: str = "fp32"  # "fp32" or "bf16"
    protocol: Protocol = IDC  # optimiser, schedule, labels, and which tests count
    # "auto", "on" or "off": whether steps are compiled: by `torch.compile`, as CUDA graphs on a GPU, or with the layers
    # of `networks.fused` (`should_compile_steps`).
    compile: str = "off"


def recipe_of(protocol: str, ipc: int, *, classes: int = 10, epochs: int = 0, epoch_factor: float = 1.0,
              batch_size: int = 0, learning_rate: float = 0.0, evaluations: int = 100, augment: bool = True,
              flip: bool = True, tiles: int = 1, precision: str = "fp32", compile: str = "auto") -> Recipe:
    """Return the `Recipe` of a protocol of `protocols.PROTOCOLS`, changed by the settings; 0 is the protocol's own.

    Args:
        protocol, classes: its name, and how many classes there are.
        ipc: images per class; 0: the full set, which is tested every epoch where others are 100 times [F §9.1].
        epochs, epoch_factor: in place of the protocol's for ``ipc``, and by which these are scaled.
        augment: whether to use the protocol's transforms and CutMix.
        flip, tiles: whether a mirrored image still shows its class; the images are mosaics of tiles × tiles crops.
        batch_size, learning_rate, evaluations, precision, compile: see `Recipe`.

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
