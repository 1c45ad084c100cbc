"""The classifier trainer of the Minimax/IDC protocol (label H-A) [F §9.1].

Pictures are decoded once and stay on the device as uint8; transforms, CutMix and evaluation run there in batches.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from dgs_utils.artifacts import silent
from dgs_utils.augment import Augmentation, augment, cutmix, normalise, to_float
from dgs_utils.data import ImageSet, load_squares
from dgs_utils.device import autocast
from dgs_utils.networks import Network
from dgs_utils.seeds import torch_generator

# Training epochs: the first line whose IPC is not exceeded.
EPOCHS_BY_IPC = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
FULL_EPOCHS = 300


def epochs_for(ipc: int, factor: float = 1.0) -> int:
    """Return the protocol's number of epochs for ``ipc`` images per class (0: the full set), scaled by ``factor``."""
    epochs = next((epochs for most, epochs in EPOCHS_BY_IPC if 0 < ipc <= most), FULL_EPOCHS)
    return max(round(epochs * factor), 1)


def learning_rate(epoch: int, epochs: int, base: float = 0.01) -> float:
    """Return the rate used during ``epoch`` (from 1): × 0.2 after floor(2E/3) and again after floor(5E/6)."""
    return base * 0.2 ** ((epoch > 2 * epochs // 3) + (epoch > 5 * epochs // 6))


def evaluation_epochs(epochs: int, evaluations: int) -> set[int]:
    """Return the epochs (from 1) after which the protocol tests: every ``epochs // evaluations``, and the last."""
    every = max(epochs // evaluations, 1)
    return {*range(every, epochs + 1, every), epochs}


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the set.
        batch_size: the last, smaller batch of an epoch is kept.
        learning_rate: of SGD with momentum 0.9 and weight decay 5e-4.
        evaluations: tests during training, evenly spread.
        augmentation: see `Augmentation`.
        precision: "fp32" or "bf16".
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.01
    evaluations: int = 100
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "fp32"


@dataclass
class Outcome:
    """What a training run came to.

    Attributes:
        curve: one row a test: epoch, learning_rate, loss (training, mean of the epoch), top1 (percent).
        predictions: (tests,) int64, of the last epoch.
    """

    curve: pd.DataFrame
    predictions: np.ndarray

    @property
    def best(self) -> float:
        """Highest top-1 of all tests, in percent: what the protocol reports."""
        return float(self.curve["top1"].max())

    @property
    def last(self) -> float:
        """Top-1 after the last epoch, in percent."""
        return float(self.curve["top1"].iloc[-1])


@dataclass
class Pictures:
    """Labelled pictures on a device: images (N, 3, S, S) uint8, labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Pictures":
        """Return the pictures on another device."""
        return Pictures(self.images.to(device), self.labels.to(device))


def load_pictures(images: ImageSet, size: int, workers: int = 0, progress: Callable = silent) -> Pictures:
    """Decode a set: shorter side scaled to ``size`` (bilinear, antialiased), centre crop, uint8."""

    def crop(picture, side):
        return tv.center_crop(tv.resize(picture, side, antialias=True), side)

    stack = np.empty((len(images), size, size, 3), dtype=np.uint8)
    squares = load_squares(images, size, workers, crop)
    for place, square in enumerate(progress(squares, label="pictures", total=len(images))):
        stack[place] = square
    return Pictures(torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous(), torch.tensor(images.labels))


@torch.inference_mode()
def logits(network: Network, images: Tensor, batch_size: int = 256, precision: str = "fp32") -> Tensor:
    """Return a network's logits (N, classes), float32, for uint8 pictures (N, 3, S, S), in evaluation mode."""
    network.eval()
    parts = []
    for batch in images.split(batch_size):
        with autocast(images.device, precision):
            parts.append(network(normalise(to_float(batch))).float())
    return torch.cat(parts)


def train_classifier(network: Network, train: Pictures, test: Pictures, recipe: Recipe, seed: int = 0,
                     progress: Callable = silent) -> Outcome:
    """Train a network and test it on the way.

    Args:
        network: freshly initialised, on the device of the pictures; trained in place.
        train, test: pictures of the network's size.
        recipe: see `Recipe`.
        seed: names every draw of the training (order, augmentation); the initial weights are the caller's.
        progress: wraps the epochs.
    """
    optimiser = torch.optim.SGD(network.parameters(), lr=recipe.learning_rate, momentum=0.9, weight_decay=5e-4,
                                foreach=True)
    tests = evaluation_epochs(recipe.epochs, recipe.evaluations)
    rows, predictions = [], torch.empty(0)
    for epoch in progress(range(1, recipe.epochs + 1), label="epochs", total=recipe.epochs):
        rate = learning_rate(epoch, recipe.epochs, recipe.learning_rate)
        optimiser.param_groups[0]["lr"] = rate
        loss = _train_epoch(network, train, recipe, optimiser, torch_generator("classifier", seed, epoch))
        if epoch in tests:
            predictions = logits(network, test.images, precision=recipe.precision).argmax(1)
            top1 = 100 * (predictions == test.labels).double().mean().item()
            rows.append((epoch, rate, loss, top1))
    curve = pd.DataFrame(rows, columns=["epoch", "learning_rate", "loss", "top1"])
    return Outcome(curve, predictions.cpu().numpy())


def _train_epoch(network: Network, train: Pictures, recipe: Recipe, optimiser, generator: torch.Generator) -> float:
    network.train()
    losses = []
    order = torch.randperm(len(train.labels), generator=generator).to(train.labels.device)
    for chosen in order.split(recipe.batch_size):
        images = augment(train.images[chosen], recipe.augmentation, generator)
        labels = train.labels[chosen]
        with autocast(images.device, recipe.precision):
            if recipe.augmentation.cutmix:
                images, partner, own = cutmix(images, generator)
                predicted = network(images)
                loss = own * F.cross_entropy(predicted, labels)
                loss = loss + (1 - own) * F.cross_entropy(predicted, labels[partner])
            else:
                loss = F.cross_entropy(network(images), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()
