"""Evaluation protocols: how a classifier is trained on a distilled set, and which of its tests counts.

Published tables mix protocols that differ by several points on the same images [B §1], so every result names its own
and results of different protocols never share a table. This module is settings only and imports no torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the training transforms."""

    crop: float = 0.5  # smallest share of the image that a random resized crop keeps; 1 switches cropping off
    ratio: float = 4 / 3  # largest aspect ratio of a crop; the smallest is its inverse
    flip: float = 0.5  # probability of mirroring
    jitter: float = 0.4  # largest α of brightness, contrast and saturation
    lighting: float = 0.1  # standard deviation of the PCA lighting's α
    cutmix: bool = True  # mix every batch
    tiles: int = 1  # the image is a mosaic of tiles × tiles parts, whose columns and rows are shuffled before the crop


@dataclass(frozen=True)
class Protocol:
    """A published way of training and testing."""

    label: str  # the family of published numbers that it belongs to [B §1]
    epochs_by_ipc: tuple[tuple[int, int], ...]  # (IPC, epochs) pairs; the first whose IPC is not exceeded holds
    full_epochs: int  # epochs for more images per class than that, and for the full set
    batch_by_ipc: tuple[tuple[int, int], ...]  # (IPC, batch size) pairs, as above
    full_batch: int  # batch size for more
    learning_rate: float  # at the start
    optimiser: str  # an entry of `optimisers.OPTIMISERS`
    # Factor on the learning rate during an epoch (from 1), given the number of epochs.
    rate: Callable[[int, int], float]
    augmentation: Augmentation = field(default_factory=Augmentation)  # training transforms
    temperature: float = 0.0  # of a teacher's soft labels; 0 for hard labels
    # A second forward pass of each batch, which only moves the running statistics of batch norm.
    extra_pass: bool = False
    test_zoom: float = 1.0  # test images are scaled to this many times their size before the centre crop
    counted_after: float = 0.0  # share of the epochs after which tests count towards the best
    hundred_classes: float = 1.0  # factor on the epochs of sets with 100 classes or more

    def epochs(self, ipc: int, factor: float = 1.0, classes: int = 10) -> int:
        """Return the number of epochs for ``ipc`` images per class (0: the full set), scaled by ``factor``."""
        share = self.hundred_classes if classes >= 100 else 1.0
        return max(round(_by_ipc(self.epochs_by_ipc, ipc, self.full_epochs) * share * factor), 1)

    def batch_size(self, ipc: int) -> int:
        """Return the batch size for ``ipc`` images per class (0: the full set)."""
        return _by_ipc(self.batch_by_ipc, ipc, self.full_batch)

    def counts(self, epoch: int, epochs: int) -> bool:
        """Return whether a test after ``epoch`` (from 1) of ``epochs`` counts; the last always does."""
        return epoch > self.counted_after * epochs or epoch == epochs


def _by_ipc(pairs: tuple[tuple[int, int], ...], ipc: int, beyond: int) -> int:
    return next((value for most, value in pairs if 0 < ipc <= most), beyond)


def steps_rate(epoch: int, epochs: int) -> float:
    """Return the rate's factor during ``epoch`` (from 1): × 0.2 after floor(2E/3) and again after floor(5E/6).

    >>> [round(steps_rate(epoch, 6), 2) for epoch in (1, 4, 5, 6)]
    [1.0, 1.0, 0.2, 0.04]
    """
    return 0.2 ** ((epoch > 2 * epochs // 3) + (epoch > 5 * epochs // 6))


def half_cosine_rate(epoch: int, epochs: int) -> float:
    """Return the rate's factor during ``epoch`` (from 1): the first half of a cosine, from 1 to ½.

    >>> half_cosine_rate(1, 300), round(half_cosine_rate(151, 300), 3)
    (1.0, 0.854)
    """
    return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / (2 * epochs)))


# Minimax and IDC, hard labels [F §9.1]: what the paper's tables are made with.
IDC = Protocol(
    label="H-A",
    epochs_by_ipc=((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500)), full_epochs=300,
    batch_by_ipc=(), full_batch=64,
    learning_rate=0.01, optimiser="sgd", rate=steps_rate, hundred_classes=2 / 3,
)

# RDED, soft labels of a teacher [B §3.1]. Its CutMix works in place, so the extra pass sees the mixed images.
RDED = Protocol(
    label="S-R",
    epochs_by_ipc=(), full_epochs=300,
    batch_by_ipc=((1, 10), (10, 50)), full_batch=100,
    learning_rate=0.001, optimiser="adamw", rate=half_cosine_rate,
    augmentation=Augmentation(crop=1.0, jitter=0.0, lighting=0.0),
    temperature=20.0, extra_pass=True, test_zoom=8 / 7, counted_after=0.8,
)

# UAG, hard labels by AdamW. Its rate, weight decay and steps of the rate are known at second hand, and that it reports
# the last epoch, over three seeds that all sets share, as `repeats` has them. What is not known is as in IDC, whose
# steps it has: epochs, batches, transforms, norm. So no published value is shown beside its runs.
UAG = replace(IDC, label="UAG", learning_rate=0.001, optimiser="adamw", counted_after=1.0)

PROTOCOLS = {"idc": IDC, "rded": RDED, "uag": UAG}
NO_AUGMENTATION = Augmentation(crop=1.0, flip=0.0, jitter=0.0, lighting=0.0, cutmix=False)  # images as they are


def training_augmentation(protocol: Protocol, mirrored: bool, tiles: int = 1) -> Augmentation:
    """Return a protocol's training transforms for a set whose mirror images are still images of their class, or not.

    Its images may be mosaics of tiles × tiles crops, as RDED makes them; its protocol shuffles them and then keeps at
    least 1/tiles of the area.
    """
    augmentation = protocol.augmentation if mirrored else replace(protocol.augmentation, flip=0.0)
    return replace(augmentation, tiles=tiles, crop=1 / tiles) if protocol.temperature and tiles > 1 else augmentation
