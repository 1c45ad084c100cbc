"""Batches of one epoch: all draws go to the device at once, and each batch is made there."""

from typing import NamedTuple

import torch
from torch import Tensor

from dgs_utils.classifiers.augmentation import (
    Augmentation,
    Draws,
    apply_augmentation,
    cutmix_box,
    cutmix_lambda,
    draw_augmentation,
    paste,
)
from dgs_utils.runtime.devices import to_device_packed


class TrainingBatch(NamedTuple):
    """Input of a training step."""

    images: Tensor  # (N, 3, S, S) float32, normalised
    labels: Tensor  # (N,) int64
    mixed_labels: Tensor | None = None  # (N,) int64, of the images from which CutMix pasted a box
    lam: float = 1.0  # CutMix's λ, the share of each image that is its own


class EpochLoader:
    """A pass over labelled images, (N, 3, S, S) uint8 on the device to train on, in random order, whose last, smaller
    batch is kept; a generator on the CPU is the source of every draw, batch after batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, settings: Augmentation, batch_size: int, rng: torch.Generator):
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.boxes: list[tuple[int, int, int, int]] = []
        size, drawn = images.shape[-1], []
        order = torch.randperm(len(labels), generator=rng)
        for chosen in order.split(batch_size):
            draws = draw_augmentation(len(chosen), size, settings, rng)
            if settings.cutmix:
                draws = draws._replace(partner=torch.randperm(len(chosen), generator=rng))
                self.boxes.append(cutmix_box(size, size, rng))
            drawn.append(draws)
        self.order, *sent = to_device_packed([order, *map(torch.cat, zip(*drawn, strict=True))], images.device)
        self.draws = Draws(*sent)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def rows(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Return the images (N,) of a batch, and the index in it of the one mixed into each; None without CutMix."""
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.order[part], self.draws.partner[part] if self.boxes else None

    def batch(self, index: int) -> TrainingBatch:
        """Return a batch by its index, from 0."""
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        chosen, draws = self.order[part], self.draws.rows(part)
        images, labels = apply_augmentation(self.images[chosen], draws), self.labels[chosen]
        if not self.boxes:
            return TrainingBatch(images, labels)
        box = self.boxes[index]
        return TrainingBatch(paste(images, draws.partner, box), labels, labels[draws.partner],
                     cutmix_lambda(box, *images.shape[-2:]))
