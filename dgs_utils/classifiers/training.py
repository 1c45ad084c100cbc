"""Training and testing a classifier by one of `dgs_utils.classifiers.protocols`.

Images are decoded once and stay on the device as uint8; transforms, CutMix and evaluation run there in batches.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgs_utils.classifiers.architectures import input_error
from dgs_utils.classifiers.augmentation import normalise, to_float
from dgs_utils.classifiers.epoch_loader import EpochLoader, TrainingBatch
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.networks import Network
from dgs_utils.classifiers.networks.fused import C_OPTIONS, SOURCE, can_fuse, fuse
from dgs_utils.classifiers.optimisers import OPTIMISERS
from dgs_utils.classifiers.protocols import Protocol
from dgs_utils.classifiers.recipes import Recipe
from dgs_utils.classifiers.soft_labels import SoftLabels, Teacher
from dgs_utils.runtime.allocator import keep_freed_memory
from dgs_utils.runtime.compiling import should_compile
from dgs_utils.runtime.devices import autocast, memory_format
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import torch_rng, torch_seeded
from dgs_utils.store.checkpoint import Checkpointer

COMPILE_FROM_STEPS = 20_000  # steps on a GPU outweigh the minute or so that compiling them takes
# So many pixels trained on outweigh it twice on a CPU, where compiling takes 20 to 45 seconds for each of the two batch
# sizes and saves 1.4 to 4 microseconds a pixel (by tests/benchmarks/bench_compile.py, at 32 and 64 px).
COMPILE_FROM_PIXELS = 2**26
FUSE_FROM_PIXELS = 2**20  # where `networks.fused` compiles its layers: two seconds, 2.5 microseconds a pixel
EpochCallback = Callable[[int, Network], None]  # called after an epoch (from 1) with the network


def evaluation_epochs(epochs: int, evaluations: int) -> set[int]:
    """Return the epochs (from 1) with a test: every ``epochs // evaluations``-th, and the last.

    >>> sorted(evaluation_epochs(epochs=10, evaluations=3))
    [3, 6, 9, 10]
    """
    every = max(epochs // evaluations, 1)
    return {*range(every, epochs + 1, every), epochs}


@dataclass
class Outcome:
    """Result of a training."""

    # One row a test: epoch, learning_rate, loss (training, mean of the epoch), top1 (percent), counts (whether the
    # protocol lets this test compete for the best).
    curve: pd.DataFrame
    predictions: np.ndarray  # (test images,) int64, of the last epoch
    best_predictions: np.ndarray  # the same of the best epoch
    compiled: bool = False  # whether the steps were compiled, which rounds differently

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


@torch.inference_mode()
def predict_logits(network: Network, images: Tensor, batch_size: int = 0, precision: str = "fp32") -> Tensor:
    """Return a network's logits (N, classes), float32, for uint8 images (N, 3, S, S), in evaluation mode.

    A batch size of 0 chooses one that keeps a GPU busy, or fits a CPU's caches.
    """
    network.eval()
    if not batch_size:
        pixels = 2**22 if images.is_cuda else 2**16 if getattr(network, "fused", False) else 2**14
        batch_size = max(pixels // images.shape[-1] ** 2, 8)
    with autocast(images.device, precision):  # around all batches, so that weights are rounded to bf16 once
        return torch.cat([network(normalise(to_float(batch))).float() for batch in images.split(batch_size)])


def train_classifier(network: Network, train: ImageTensors, test: ImageTensors, recipe: Recipe, seed: int = 0,
                     progress: Callable = no_progress, teacher: Teacher | SoftLabels | None = None,
                     stage: str = "evaluate", checkpointer: Checkpointer | None = None,
                     on_epoch_end: EpochCallback | None = None, warn: Callable[[str], None] = warnings.warn) -> Outcome:
    """Train a network and test it on the way.

    Args:
        network: freshly initialised, on the device of the images; trained in place.
        train, test: images of the network's size.
        recipe: see `Recipe`.
        seed: names every draw of the training (order, augmentation); the initial weights are the caller's.
        progress: wraps the epochs.
        teacher: for protocols with soft labels; or the stored labels of one.
        stage: the stage that trains; it begins the names of the draws.
        checkpointer: saves the state between two steps, and has the state to resume from, if any.
        on_epoch_end: called after each epoch; after a resumption perhaps a second time for the same epoch.
        warn: called with a sentence if steps should be compiled and cannot be on this machine.

    Raises:
        ValueError: the protocol needs soft labels and there is no teacher, or the last batch of an epoch is a single
            image, with which the network's batch norm cannot be trained.
        KeyboardInterrupt: a signal stopped the process, and the state is saved.
    """
    if recipe.protocol.temperature and teacher is None:
        raise ValueError(f"protocol {recipe.protocol.label} trains on soft labels; give train_classifier a teacher")
    if isinstance(teacher, SoftLabels):
        teacher.check(recipe, train)
    check_last_batch(network, train, recipe.batch_size)
    if train.images.device.type == "cpu":
        keep_freed_memory()
    else:
        network.to(memory_format=memory_format(network))  # convolutions on a CPU are not faster for another
    checkpointer = checkpointer or Checkpointer()
    compiled = can_compile(network, recipe, warn) and should_compile_steps(recipe, train, warn, can_fuse(network))
    fuse(network, compiled and can_fuse(network))
    try:
        training = TrainingLoop(network, train, test, recipe, seed, teacher, stage, compiled)
        if state := checkpointer.load():
            training.resume(state)
        with checkpointer.handle_signals():
            training.run(progress, checkpointer, on_epoch_end)
        return training.outcome()
    finally:
        fuse(network, False)  # so that it may go to a GPU, and rounds as the same network from its file


def check_last_batch(network: nn.Module, train: ImageTensors, batch_size: int) -> None:
    """Raise ValueError where an epoch ends with a single image, which the network cannot be trained on."""
    images = len(train.labels)
    if images % batch_size == 1 or batch_size == 1:
        reason = input_error(network.train(), train.images.shape[1:])
        if reason:
            raise ValueError(f"the last batch of an epoch is 1 of the {images} images, with which the network's batch "
                             f"norm cannot be trained ({reason}); leave out or add an image, or choose larger images, "
                             f"another network or another batch size than {batch_size}")


def can_compile(network: nn.Module, recipe: Recipe, warn: Callable[[str], None] = warnings.warn) -> bool:
    """Return whether a network may be compiled: one of ours. Others draw while they are trained, each in its way."""
    if not isinstance(network, Network) and recipe.compile == "on":
        warn(f"compile is 'on', but {type(network).__name__} is no network of this kit and runs as it is; set compile "
             f"to 'auto'")
    return isinstance(network, Network)


def should_compile_steps(recipe: Recipe, train: ImageTensors, warn: Callable[[str], None] = warnings.warn,
                         fusible: bool = False) -> bool:
    """Return whether training steps are compiled; with "auto", if that pays within a single training.

    It depends on the amount of work alone, not on speed or the number of repeats, so that a seed has one result.
    ``fusible`` says that the layers need no more than `networks.fused`.
    """
    images, batches = len(train.labels), -(-len(train.labels) // recipe.batch_size)
    pixels = images * train.images.shape[-1] ** 2 / batches  # of a step
    return should_compile(recipe.compile, train.images.device, recipe.epochs * batches, COMPILE_FROM_STEPS,
                          (FUSE_FROM_PIXELS if fusible else COMPILE_FROM_PIXELS) / pixels, warn,
                          SOURCE if fusible else None, C_OPTIONS[recipe.precision])


class TrainingLoop:
    """The state of a training, which can be saved and resumed between any two steps.

    The host reads from a GPU only for tests, so that steps do not wait for it.
    """

    def __init__(self, network: Network, train: ImageTensors, test: ImageTensors, recipe: Recipe, seed: int,
                 teacher: Teacher | SoftLabels | None, stage: str, compiled: bool):
        self.network, self.train, self.test, self.recipe = network, train, test, recipe
        self.seed, self.teacher, self.stage = seed, teacher, stage
        self.compiled, self.forward = compiled, compiled_steps(network) if compiled else network
        self.optimiser = OPTIMISERS[recipe.protocol.optimiser](network, recipe.learning_rate)
        self.tests = evaluation_epochs(recipe.epochs, recipe.evaluations)
        self.epochs_done, self.losses, self.rows = 0, list[Tensor](), list[tuple]()
        self.predictions, self.best = torch.empty(0), (-1.0, torch.empty(0))

    def run(self, progress: Callable, checkpointer: Checkpointer, on_epoch_end: EpochCallback | None = None) -> None:
        """Train to the end."""
        left = range(self.epochs_done + 1, self.recipe.epochs + 1)
        for epoch in progress(left, label="epochs", total=len(left)):
            for group in self.optimiser.param_groups:  # torch's own schedules multiply step by step, and round
                group["lr"] = self.recipe.learning_rate * self.recipe.protocol.rate(epoch, self.recipe.epochs)
            self._train_epoch(epoch, checkpointer)
            if epoch in self.tests:
                self._test(epoch)
            self.epochs_done, self.losses = epoch, []
            if on_epoch_end is not None:
                on_epoch_end(epoch, self.network)
            checkpointer.maybe_save(self.state)

    def state(self) -> dict[str, Any]:
        """Return all that another process needs to resume."""
        losses = torch.stack(self.losses) if self.losses else torch.empty(0)
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
                "epochs_done": self.epochs_done, "losses": losses, "rows": self.rows,
                "predictions": self.predictions, "best": self.best}

    def resume(self, state: dict[str, Any]) -> None:
        """Resume from a `state`."""
        device = self.train.images.device
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epochs_done, self.losses = state["epochs_done"], list(state["losses"].to(device))
        self.rows = [tuple(row) for row in state["rows"]]
        self.predictions, self.best = state["predictions"], tuple(state["best"])

    def outcome(self) -> Outcome:
        """Return the result."""
        curve = pd.DataFrame(self.rows, columns=["epoch", "learning_rate", "loss", "top1", "counts"])
        return Outcome(curve, self.predictions.cpu().numpy(), self.best[1].cpu().numpy(), self.compiled)

    def _train_epoch(self, number: int, checkpointer: Checkpointer) -> None:
        labels = self.teacher
        seed = labels.seed if isinstance(labels, SoftLabels) and labels.kind == "crop" else self.seed  # of their crops
        rng = torch_rng(self.stage, "training", seed, number)
        loader = EpochLoader(self.train.images, self.train.labels, self.recipe.augmentation,
                             self.recipe.batch_size, rng)
        self.network.train()
        for index in range(len(self.losses), len(loader)):
            batch = loader.batch(index)
            with self._seeded(number, index), autocast(batch.images.device, self.recipe.precision):
                loss = batch_loss(self.forward, batch, self.recipe.protocol, self._target(number, batch, loader, index))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self.losses.append(loss.detach())
            checkpointer.maybe_save(self.state)

    @torch.no_grad()
    def _target(self, epoch: int, batch: TrainingBatch, loader: EpochLoader, index: int) -> Tensor | None:
        """Return the logarithms of a batch's soft labels; None where labels are hard."""
        temperature = self.recipe.protocol.temperature
        if not temperature:
            return None
        if isinstance(self.teacher, SoftLabels):
            return self.teacher.target(epoch, *loader.rows(index), batch.lam, temperature)
        assert self.teacher is not None, "soft labels need a teacher"  # `train_classifier` has asked for one
        return (self.teacher(batch.images).float() / temperature).log_softmax(1)

    def _seeded(self, epoch: int, index: int) -> AbstractContextManager:
        """Name the draws of a step of a network that is not ours, such as dropout's and stochastic depth's."""
        if isinstance(self.network, Network):
            return nullcontext()
        return torch_seeded(self.stage, "network", self.seed, epoch, index, device=self.train.images.device)

    def _test(self, epoch: int) -> None:
        predictions = predict_logits(self.network, self.test.images, precision=self.recipe.precision).argmax(1)
        right = (predictions == self.test.labels).double().mean()
        loss, share = torch.stack([torch.stack(self.losses).mean().double(), right]).tolist()
        counts = self.recipe.protocol.counts(epoch, self.recipe.epochs)
        self.rows.append((epoch, self.optimiser.param_groups[0]["lr"], loss, 100 * share, counts))
        self.predictions = predictions
        if counts and 100 * share > self.best[0]:
            self.best = (100 * share, predictions)


@lru_cache(maxsize=1)  # for repeats of the same network
def compiled_steps(network: Network) -> Network:
    """Return the network's forward pass, compiled; on a GPU as CUDA graphs, one for each of the two batch sizes."""
    if can_fuse(network):
        return network  # whose layers are compiled
    torch.compiler.reset()  # graphs of other networks count towards the limit of recompilations
    return torch.compile(network, mode="reduce-overhead", dynamic=False)


def batch_loss(network: Network, batch: TrainingBatch, protocol: Protocol, target: Tensor | None = None) -> Tensor:
    """Return a batch's loss: cross-entropy to (mixed) labels, or KL(target ‖ network) at a temperature.

    ``target`` has the logarithms (N, classes) of soft labels.
    """
    images, labels, mixed_labels, lam = batch
    if target is not None:
        if protocol.extra_pass and any(isinstance(m, nn.BatchNorm2d) for m in network.modules()):
            with torch.no_grad():
                network(images)
        predicted = (network(images).float() / protocol.temperature).log_softmax(1)
        return F.kl_div(predicted, target, reduction="batchmean", log_target=True)
    predicted = network(images)
    loss = lam * F.cross_entropy(predicted, labels)
    return loss if mixed_labels is None else loss + (1 - lam) * F.cross_entropy(predicted, mixed_labels)
