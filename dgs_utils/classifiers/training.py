"""Training and testing a classifier by one of `dgs_utils.classifiers.protocols`.

Images are decoded once and stay on the device as uint8; transforms, CutMix and evaluation run there in batches.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms.v2 import functional as tv

from dgs_utils.classifiers.augmentation import Augmentation, augment, cutmix, normalise, to_float
from dgs_utils.classifiers.networks import Network
from dgs_utils.classifiers.protocols import IDC, Protocol
from dgs_utils.images.image_sets import ImageSet, load_squares
from dgs_utils.runtime.allocator import keep_freed_memory
from dgs_utils.runtime.devices import autocast
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import torch_rng

Teacher = Callable[[Tensor], Tensor]  # normalised images (N, 3, S, S) to logits (N, classes)


def evaluation_epochs(epochs: int, evaluations: int) -> set[int]:
    """Return the epochs (from 1) that a test follows: every ``epochs // evaluations``, and the last."""
    every = max(epochs // evaluations, 1)
    return {*range(every, epochs + 1, every), epochs}


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
        compile: run training steps through `torch.compile`, as CUDA graphs on a GPU; compiling comes first.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.01
    evaluations: int = 100
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "fp32"
    protocol: Protocol = IDC
    compile: bool = False


@dataclass
class Outcome:
    """What a training run came to.

    Attributes:
        curve: one row a test: epoch, learning_rate, loss (training, mean of the epoch), top1 (percent), counts (whether
            the protocol lets this test compete for the best).
        predictions: (test images,) int64, of the last epoch.
        best_predictions: the same of the best epoch.
    """

    curve: pd.DataFrame
    predictions: np.ndarray
    best_predictions: np.ndarray

    @property
    def best(self) -> float:
        """Highest top-1 of the tests that count, in percent: what protocols report."""
        return float(self.curve["top1"][self.curve["counts"]].max())

    @property
    def best_epoch(self) -> int:
        """The first epoch that reached the best."""
        return int(self.curve["epoch"][self.curve["top1"].where(self.curve["counts"]).idxmax()])

    @property
    def last(self) -> float:
        """Top-1 after the last epoch, in percent."""
        return float(self.curve["top1"].iloc[-1])


@dataclass
class ImageTensors:
    """Labelled images on a device: images (N, 3, S, S) uint8, labels (N,) int64.

    Raises:
        ValueError: another shape or type.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self):
        shape, labels = tuple(self.images.shape), tuple(self.labels.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"the images are {self.images.dtype} of shape {shape}; give uint8 of shape (N, 3, S, S), "
                             f"or arrays to ImageTensors.from_arrays")
        if self.labels.dtype != torch.int64 or labels != shape[:1]:
            raise ValueError(f"the labels are {self.labels.dtype} of shape {labels} for {shape[0]} images; "
                             f"give one int64 label from 0 for each")

    @classmethod
    def from_arrays(cls, images: ArrayLike, labels: ArrayLike) -> "ImageTensors":
        """Take images from arrays, on the CPU.

        Args:
            images: uint8 of shape (N, S, S) for grey, or (N, S, S, 3) for RGB.
            labels: whole numbers from 0, shape (N,).

        Raises:
            ValueError: another shape or type, or a negative label.
        """
        pixels, numbers = np.asarray(images), np.asarray(labels)
        if pixels.dtype != np.uint8 or pixels.shape[3:] not in ((), (3,)) or pixels.ndim not in (3, 4):
            raise ValueError(f"the images are {pixels.dtype} of shape {pixels.shape}; give uint8 of shape (N, S, S) or "
                             f"(N, S, S, 3)")
        if not np.issubdtype(numbers.dtype, np.integer) or (numbers < 0).any():
            raise ValueError("the labels are not whole numbers from 0; give each image the number of its class")
        pixels = pixels[..., None].repeat(3, axis=-1) if pixels.ndim == 3 else pixels
        return cls(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(numbers.astype(np.int64)))

    def to(self, device: torch.device) -> "ImageTensors":
        """Return the images on another device."""
        return ImageTensors(self.images.to(device), self.labels.to(device))


def load_images(images: ImageSet, size: int, workers: int = 0, progress: Callable = silent,
                  zoom: float = 1.0) -> ImageTensors:
    """Decode a set: shorter side scaled to ``size`` × ``zoom`` (bilinear, antialiased), centre crop of ``size``, uint8.

    Raises:
        ValueError: an image cannot be read; the sentence names it.
    """

    def crop(image, side):
        return tv.center_crop(tv.resize(image, round(side * zoom), antialias=True), side)

    stack = np.empty((len(images), size, size, 3), dtype=np.uint8)
    squares = load_squares(images, size, workers, crop)
    for place, square in enumerate(progress(squares, label="images", total=len(images))):
        stack[place] = square
    return ImageTensors(torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous(), torch.tensor(images.labels))


@torch.inference_mode()
def logits(network: Network, images: Tensor, batch_size: int = 0, precision: str = "fp32") -> Tensor:
    """Return a network's logits (N, classes), float32, for uint8 images (N, 3, S, S), in evaluation mode.

    A batch size of 0 stands for as many images as keep a GPU busy, or a CPU's caches useful.
    """
    network.eval()
    if not batch_size:
        pixels = 2**22 if images.is_cuda else 2**14
        batch_size = max(pixels // images.shape[-1] ** 2, 8)
    parts = []
    for batch in images.split(batch_size):
        with autocast(images.device, precision):
            parts.append(network(normalise(to_float(batch))).float())
    return torch.cat(parts)


def train_classifier(network: Network, train: ImageTensors, test: ImageTensors, recipe: Recipe, seed: int = 0,
                     progress: Callable = silent, teacher: Teacher | None = None, stage: str = "evaluate") -> Outcome:
    """Train a network and test it on the way.

    Args:
        network: freshly initialised, on the device of the images; trained in place.
        train, test: images of the network's size.
        recipe: see `Recipe`.
        seed: names every draw of the training (order, augmentation); the initial weights are the caller's.
        progress: wraps the epochs.
        teacher: for protocols with soft labels.
        stage: which trains; begins the names of the draws.

    Raises:
        ValueError: the protocol wants soft labels and there is no teacher.
    """
    protocol = recipe.protocol
    if protocol.temperature and teacher is None:
        raise ValueError(f"protocol {protocol.label} trains on soft labels; give train_classifier a teacher")
    if train.images.is_cuda:
        network.to(memory_format=torch.channels_last)  # which convolutions on a CPU are not faster for
    else:
        keep_freed_memory()
    forward = _compiled(network) if recipe.compile else network
    optimiser = protocol.optimiser(network, recipe.learning_rate)
    # A factor of the first rate, not torch's own schedules, which multiply step by step and round on the way.
    scheduler = LambdaLR(optimiser, lambda done: protocol.rate(done + 1, recipe.epochs))
    tests = evaluation_epochs(recipe.epochs, recipe.evaluations)
    rows, predictions, best = [], torch.empty(0), (-1.0, torch.empty(0))
    for epoch in progress(range(1, recipe.epochs + 1), label="epochs", total=recipe.epochs):
        network.train()
        loss = _train_epoch(forward, train, recipe, optimiser, torch_rng(stage, "training", seed, epoch), teacher)
        if epoch in tests:
            predictions = logits(network, test.images, precision=recipe.precision).argmax(1)
            top1 = 100 * (predictions == test.labels).double().mean().item()
            rows.append((epoch, scheduler.get_last_lr()[0], loss, top1, protocol.counts(epoch, recipe.epochs)))
            if rows[-1][-1] and top1 > best[0]:
                best = (top1, predictions)
        scheduler.step()
    curve = pd.DataFrame(rows, columns=["epoch", "learning_rate", "loss", "top1", "counts"])
    return Outcome(curve, predictions.cpu().numpy(), best[1].cpu().numpy())


def _compiled(network: Network) -> Callable:
    """Return the network's forward pass, compiled; on a GPU as CUDA graphs, one for each of the two batch sizes."""
    torch.compiler.reset()  # an earlier repeat's graphs count against the number of recompilations
    return torch.compile(network, mode="reduce-overhead", dynamic=False)


def _train_epoch(network: Network, train: ImageTensors, recipe: Recipe, optimiser: torch.optim.Optimizer,
                 rng: torch.Generator, teacher: Teacher | None) -> float:
    losses = []
    order = torch.randperm(len(train.labels), generator=rng).to(train.labels.device)
    for chosen in order.split(recipe.batch_size):
        images, labels = augment(train.images[chosen], recipe.augmentation, rng), train.labels[chosen]
        with autocast(images.device, recipe.precision):
            loss = _loss(network, images, labels, recipe, rng, teacher)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def _loss(network: Network, images: Tensor, labels: Tensor, recipe: Recipe, rng: torch.Generator,
          teacher: Teacher | None) -> Tensor:
    """Return a batch's loss: cross-entropy to (mixed) labels, or KL(teacher ‖ network) at a temperature."""
    partner, own = None, 1.0
    if recipe.augmentation.cutmix:
        images, partner, own = cutmix(images, rng)
    temperature = recipe.protocol.temperature
    if temperature:
        with torch.no_grad():
            wanted = (teacher(images).float() / temperature).log_softmax(1)
            if recipe.protocol.extra_pass and any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
                network(images)
        found = (network(images).float() / temperature).log_softmax(1)
        return F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    predicted = network(images)
    loss = own * F.cross_entropy(predicted, labels)
    return loss if partner is None else loss + (1 - own) * F.cross_entropy(predicted, labels[partner])
