"""One pass over a training set: all that is drawn for it goes to the device at once, and each batch is made there."""

from typing import NamedTuple

import torch
from torch import Tensor

from dgs_utils.classifiers.augmentation import (
    Augmentation,
    Draws,
    cutmix_box,
    draw_transforms,
    own_share,
    paste,
    transform,
)
from dgs_utils.runtime.devices import send


class Batch(NamedTuple):
    """What a training step sees.

    Attributes:
        images: (N, 3, S, S) float32, normalised.
        labels: (N,) int64.
        behind: (N,) int64, labels of the images that CutMix pasted a box of; None without CutMix.
        own: share of each image that is its own.
    """

    images: Tensor
    labels: Tensor
    behind: Tensor | None = None
    own: float = 1.0


class Epoch:
    """A pass over labelled images in random order, whose last, smaller batch is kept.

    Args:
        images: (N, 3, S, S) uint8, on the device to train on.
        labels: (N,) int64, there too.
        settings: the transforms.
        batch_size: images a step.
        rng: `torch.Generator` on the CPU, source of every draw, batch after batch.
    """

    def __init__(self, images: Tensor, labels: Tensor, settings: Augmentation, batch_size: int, rng: torch.Generator):
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.boxes: list[tuple[int, int, int, int]] = []
        size, drawn = images.shape[-1], []
        order = torch.randperm(len(labels), generator=rng)
        for chosen in order.split(batch_size):
            draws = draw_transforms(len(chosen), size, settings, rng)
            if settings.cutmix:
                draws = draws._replace(partner=torch.randperm(len(chosen), generator=rng))
                self.boxes.append(cutmix_box(size, size, rng))
            drawn.append(draws)
        self.order, *sent = send([order, *map(torch.cat, zip(*drawn, strict=True))], images.device)
        self.draws = Draws(*sent)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def batch(self, place: int) -> Batch:
        """Return the batch at a place, from 0."""
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        chosen, draws = self.order[part], self.draws.rows(part)
        images, labels = transform(self.images[chosen], draws), self.labels[chosen]
        if not self.boxes:
            return Batch(images, labels)
        box = self.boxes[place]
        return Batch(paste(images, draws.partner, box), labels, labels[draws.partner],
                     own_share(box, *images.shape[-2:]))
