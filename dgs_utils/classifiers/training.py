"""Training and testing a classifier by one of `dgs_utils.classifiers.protocols`.

Images are decoded once and stay on the device as uint8; transforms, CutMix and evaluation run there in batches.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from dgs_utils.artifacts.midway import Midway
from dgs_utils.classifiers.augmentation import normalise, to_float
from dgs_utils.classifiers.epochs import Batch, Epoch
from dgs_utils.classifiers.networks import Network
from dgs_utils.classifiers.optimisers import OPTIMISERS
from dgs_utils.classifiers.protocols import IDC, Augmentation, Protocol
from dgs_utils.images.image_sets import ImageSet, load_squares
from dgs_utils.runtime.allocator import keep_freed_memory
from dgs_utils.runtime.compiling import compiles
from dgs_utils.runtime.devices import autocast, layout_of
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import torch_rng

COMPILE_FROM = 20_000  # steps on a GPU outweigh the minute or so that compiling them takes
# So many pixels trained on outweigh it twice on a CPU, where compiling takes 20 to 45 seconds for each of the two batch
# sizes and saves 1.4 to 4 microseconds a pixel (by tests/benchmarks/bench_compile.py, at 32 and 64 px).
COMPILE_FROM_PIXELS = 2**26
Teacher = Callable[[Tensor], Tensor]  # normalised images (N, 3, S, S) to logits (N, classes)
Watch = Callable[[int, Network], None]  # called with an epoch that has ended, from 1, and the network as it then is


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
        compile: "auto", "on" or "off": whether training steps run through `torch.compile`, as CUDA graphs on a GPU
            (`compiles_steps`).
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.01
    evaluations: int = 100
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = "fp32"
    protocol: Protocol = IDC
    compile: str = "off"


@dataclass
class Outcome:
    """What a training run came to.

    Attributes:
        curve: one row a test: epoch, learning_rate, loss (training, mean of the epoch), top1 (percent), counts (whether
            the protocol lets this test compete for the best).
        predictions: (test images,) int64, of the last epoch.
        best_predictions: the same of the best epoch.
        compiled: whether the steps ran through `torch.compile`, which rounds in another way.
    """

    curve: pd.DataFrame
    predictions: np.ndarray
    best_predictions: np.ndarray
    compiled: bool = False

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
    with autocast(images.device, precision):  # around all batches, so that weights are rounded to bf16 once
        return torch.cat([network(normalise(to_float(batch))).float() for batch in images.split(batch_size)])


def train_classifier(network: Network, train: ImageTensors, test: ImageTensors, recipe: Recipe, seed: int = 0,
                     progress: Callable = silent, teacher: Teacher | None = None, stage: str = "evaluate",
                     midway: Midway | None = None, watch: Watch | None = None,
                     warn: Callable[[str], None] = warnings.warn) -> Outcome:
    """Train a network and test it on the way.

    Args:
        network: freshly initialised, on the device of the images; trained in place.
        train, test: images of the network's size.
        recipe: see `Recipe`.
        seed: names every draw of the training (order, augmentation); the initial weights are the caller's.
        progress: wraps the epochs.
        teacher: for protocols with soft labels.
        stage: which trains; begins the names of the draws.
        midway: keeps the state between two steps, and has the one to go on from, if any.
        watch: called after each epoch; of an epoch that a stopped process had ended it is called once more, with the
            same network, where the state that is gone on from is older.
        warn: takes a sentence where steps should be compiled and cannot be on this machine.

    Raises:
        ValueError: the protocol wants soft labels and there is no teacher.
        KeyboardInterrupt: the process has been asked to end, and the state is kept.
    """
    if recipe.protocol.temperature and teacher is None:
        raise ValueError(f"protocol {recipe.protocol.label} trains on soft labels; give train_classifier a teacher")
    if train.images.device.type == "cpu":
        keep_freed_memory()
    else:
        network.to(memory_format=layout_of(network))  # convolutions on a CPU are not faster for another
    midway = midway or Midway()
    compiled = compiles_steps(recipe, train, warn)
    training = Training(network, train, test, recipe, seed, teacher, stage, compiled)
    if state := midway.load():
        training.resume(state)
    with midway.watching():
        training.run(progress, midway, watch)
    return training.outcome()


def compiles_steps(recipe: Recipe, train: ImageTensors, warn: Callable[[str], None] = warnings.warn) -> bool:
    """Return whether training steps are compiled first: by "auto", if that pays within a single training.

    So by how much there is to do, not by how fast it goes, and alike for all repeats however many there are: numbers of
    the same seed stay the same.
    """
    images, batches = len(train.labels), -(-len(train.labels) // recipe.batch_size)
    pixels = images * train.images.shape[-1] ** 2 / batches  # of a step
    return compiles(recipe.compile, train.images.device, recipe.epochs * batches, COMPILE_FROM,
                    COMPILE_FROM_PIXELS / pixels, warn)


class Training:
    """A network on its way: what `train_classifier` goes through, between any two steps of which it can be left.

    Between two steps the host only hands out work: it reads from a GPU where a test follows, and nowhere else.
    """

    def __init__(self, network: Network, train: ImageTensors, test: ImageTensors, recipe: Recipe, seed: int,
                 teacher: Teacher | None, stage: str, compiled: bool):
        self.network, self.train, self.test, self.recipe = network, train, test, recipe
        self.seed, self.teacher, self.stage = seed, teacher, stage
        self.compiled, self.forward = compiled, compiled_steps(network) if compiled else network
        self.optimiser = OPTIMISERS[recipe.protocol.optimiser](network, recipe.learning_rate)
        self.tests = evaluation_epochs(recipe.epochs, recipe.evaluations)
        self.epochs_done, self.losses, self.rows = 0, list[Tensor](), list[tuple]()
        self.predictions, self.best = torch.empty(0), (-1.0, torch.empty(0))

    def run(self, progress: Callable, midway: Midway, watch: Watch | None = None) -> None:
        """Train to the end."""
        left = range(self.epochs_done + 1, self.recipe.epochs + 1)
        for epoch in progress(left, label="epochs", total=len(left)):
            self._set_rate(epoch)
            self._train_epoch(epoch, midway)
            if epoch in self.tests:
                self._test(epoch)
            self.epochs_done, self.losses = epoch, []
            if watch is not None:
                watch(epoch, self.network)
            midway(self.state)

    def state(self) -> dict[str, Any]:
        """Return all that another process needs to go on."""
        losses = torch.stack(self.losses) if self.losses else torch.empty(0)
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
                "epochs_done": self.epochs_done, "losses": losses, "rows": self.rows,
                "predictions": self.predictions, "best": self.best}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        device = self.train.images.device
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epochs_done, self.losses = state["epochs_done"], list(state["losses"].to(device))
        self.rows = [tuple(row) for row in state["rows"]]
        self.predictions, self.best = state["predictions"], tuple(state["best"])

    def outcome(self) -> Outcome:
        """Return what it has come to."""
        curve = pd.DataFrame(self.rows, columns=["epoch", "learning_rate", "loss", "top1", "counts"])
        return Outcome(curve, self.predictions.cpu().numpy(), self.best[1].cpu().numpy(), self.compiled)

    def _set_rate(self, epoch: int) -> None:
        """Set an epoch's rate as a factor of the first; torch's own schedules multiply step by step, and round."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * self.recipe.protocol.rate(epoch, self.recipe.epochs)

    def _train_epoch(self, number: int, midway: Midway) -> None:
        rng = torch_rng(self.stage, "training", self.seed, number)
        epoch = Epoch(self.train.images, self.train.labels, self.recipe.augmentation, self.recipe.batch_size, rng)
        self.network.train()
        for place in range(len(self.losses), len(epoch)):
            batch = epoch.batch(place)
            with autocast(batch.images.device, self.recipe.precision):
                loss = batch_loss(self.forward, batch, self.recipe.protocol, self.teacher)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self.losses.append(loss.detach())
            midway(self.state)

    def _test(self, epoch: int) -> None:
        predictions = logits(self.network, self.test.images, precision=self.recipe.precision).argmax(1)
        right = (predictions == self.test.labels).double().mean()
        loss, share = torch.stack([torch.stack(self.losses).mean().double(), right]).tolist()
        counts = self.recipe.protocol.counts(epoch, self.recipe.epochs)
        self.rows.append((epoch, self.optimiser.param_groups[0]["lr"], loss, 100 * share, counts))
        self.predictions = predictions
        if counts and 100 * share > self.best[0]:
            self.best = (100 * share, predictions)


@lru_cache(maxsize=1)  # the last network's is kept, for when it is trained again
def compiled_steps(network: Network) -> Network:
    """Return the network's forward pass, compiled; on a GPU as CUDA graphs, one for each of the two batch sizes."""
    torch.compiler.reset()  # another network's graphs count against the number of recompilations
    return torch.compile(network, mode="reduce-overhead", dynamic=False)


def batch_loss(network: Network, batch: Batch, protocol: Protocol, teacher: Teacher | None = None) -> Tensor:
    """Return a batch's loss: cross-entropy to (mixed) labels, or KL(teacher ‖ network) at a temperature."""
    images, labels, behind, own = batch
    if protocol.temperature:
        assert teacher is not None, "soft labels need a teacher"  # `train_classifier` has asked for one
        with torch.no_grad():
            wanted = (teacher(images).float() / protocol.temperature).log_softmax(1)
            if protocol.extra_pass and any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
                network(images)
        found = (network(images).float() / protocol.temperature).log_softmax(1)
        return F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    predicted = network(images)
    loss = own * F.cross_entropy(predicted, labels)
    return loss if behind is None else loss + (1 - own) * F.cross_entropy(predicted, behind)
