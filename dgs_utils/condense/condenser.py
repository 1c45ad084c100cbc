"""What both methods of condensing share: real and synthetic images, the optimiser, and resumable iterations."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from dgs_utils.classifiers.augmentation import MEAN, STD, normalise, to_float
from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.networks import Network, build_network
from dgs_utils.params import CondenseParams
from dgs_utils.runtime.devices import to_device_packed
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import numpy_rng, torch_seeded
from dgs_utils.store.checkpoint import Checkpointer


class Condenser:
    """Base of the methods.

    The randomness of each iteration is named after its number, so that a run that was stopped and resumed equals an
    uninterrupted one.

    Args:
        real: the real images.
        names: class names, in label order.
        params: how to condense; folders are ignored.
        flip: whether mirrored images still show their class.
        device: where to compute.

    Attributes:
        images: (classes · IPC, 3, S, S) float32, class by class; normalised, or in [0, 1].
        losses: one number an iteration.
        iteration: number of finished iterations.
        shared: what the steps of the current iteration share: step, loss, and what `start_iteration` returns.

    Raises:
        ValueError: a class with fewer real images than IPC.
    """

    normalised: ClassVar[bool]  # whether the pixels that are optimised are normalised

    def __init__(self, real: ImageTensors, names: Sequence[str], params: CondenseParams, flip: bool,
                 device: torch.device):
        self.real, self.names, self.params, self.device = real.to(device), list(names), params, device
        self.flip = flip
        labels = real.labels.cpu()
        self.by_class = [torch.where(labels == label)[0] for label in range(len(self.names))]
        for name, members in zip(self.names, self.by_class, strict=True):
            if len(members) < params.ipc:
                raise ValueError(f"class {name} has {len(members)} originals, fewer than condense.ipc "
                                 f"{params.ipc}; lower it")
        self.images = self._initial_images()
        self.optimiser = torch.optim.SGD([self.images], lr=self.learning_rate(params), momentum=0.5)
        self.iteration, self.losses = 0, list[float]()
        self.shared: dict[str, Any] = {}

    # ---- What a method defines ----

    @staticmethod
    def learning_rate(params: CondenseParams) -> float:
        """Return the published step size of the pixels."""
        raise NotImplementedError

    @property
    def losses_per_iteration(self) -> int:
        """Number of terms that an iteration's loss averages."""
        return 1

    def start_iteration(self) -> dict[str, Any]:
        """Return what the steps of an iteration share: its network and the rest that `run_step` needs."""
        raise NotImplementedError

    def steps(self) -> int:
        """Return the number of steps of an iteration; its state can be saved between any two."""
        raise NotImplementedError

    def run_step(self, step: int, shared: dict[str, Any]) -> None:
        """Run a step of an iteration, and add to ``shared["loss"]``, a tensor on the device."""
        raise NotImplementedError

    # ---- Iterations ----

    def optimise(self, progress: Callable = no_progress, checkpointer: Checkpointer | None = None) -> None:
        """Run all remaining iterations; a checkpointer saves the state between two steps, and loads it to resume.

        Raises:
            KeyboardInterrupt: the process was asked to end; the state is saved.
        """
        checkpointer = checkpointer or Checkpointer()
        if state := checkpointer.load():
            self.resume(state)
        with checkpointer.handle_signals():
            for _ in progress(range(self.iteration, self.params.iterations), label=self.params.method):
                self.losses.append(self.run_iteration(checkpointer))
                self.iteration, self.shared = self.iteration + 1, {}
                checkpointer.maybe_save(self.state)

    def run_iteration(self, checkpointer: Checkpointer | None = None) -> float:
        """Run the remaining steps of an iteration, and return its loss, the only value that is read from the device."""
        checkpointer = checkpointer or Checkpointer()
        self.shared = self.shared or self._new_shared()
        for step in range(self.shared["step"], self.steps()):
            self.run_step(step, self.shared)
            self.shared["step"] = step + 1
            checkpointer.maybe_save(self.state)
        return self.shared["loss"].item() / self.losses_per_iteration

    def _new_shared(self) -> dict[str, Any]:
        return {"step": 0, "loss": torch.zeros((), dtype=torch.float64, device=self.device), **self.start_iteration()}

    def state(self) -> dict[str, Any]:
        """Return all that another process needs to resume, also within an iteration."""
        shared = {name: value.get_state() if isinstance(value, torch.Generator) else
                  value.state_dict() if hasattr(value, "state_dict") else value
                  for name, value in self.shared.items()}
        return {"iteration": self.iteration, "losses": self.losses, "images": self.images.detach(),
                "optimiser": self.optimiser.state_dict(), "shared": shared}

    def resume(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""
        self.iteration, self.losses = state["iteration"], state["losses"]
        self.shared = self._new_shared() if state["shared"] else {}
        with torch.no_grad():
            self.images.copy_(state["images"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, value in state["shared"].items():
            if isinstance(self.shared[name], torch.Generator):
                self.shared[name].set_state(value)
            elif hasattr(self.shared[name], "state_dict"):
                self.shared[name].load_state_dict(value)
            else:
                self.shared[name] = value.to(self.device) if isinstance(value, Tensor) else value

    # ---- Images ----

    def _initial_images(self) -> Tensor:
        """Return the real images that the synthetic ones start from, a seeded draw.

        IDC-1 was published with the first files of each class; a draw does not depend on how a data set was collected
        (the first files of the digits come from few hands), and gives each seed a start of its own.
        """
        chosen = []
        for name, members in zip(self.names, self.by_class, strict=True):
            order = numpy_rng("condense", "start", self.params.seed, name).permutation(len(members))
            chosen.append(members[torch.from_numpy(order[: self.params.ipc])])
        images = to_float(self.real.images[torch.cat(chosen).to(self.device)])
        return (normalise(images) if self.normalised else images).requires_grad_()

    def synthetic(self, label: int) -> Tensor:
        """Return the synthetic images of one class."""
        return self.images[label * self.params.ipc : (label + 1) * self.params.ipc]

    def real_batch(self, label: int, count: int, rng: torch.Generator) -> Tensor:
        """Return up to ``count`` random real images of one class, normalised."""
        members = self.by_class[label]
        [chosen] = to_device_packed([members[torch.randperm(len(members), generator=rng)[:count]]], self.device)
        return normalise(to_float(self.real.images[chosen]))

    def new_network(self) -> Network:
        """Return this iteration's freshly initialised network."""
        with torch_seeded("condense", "network", self.params.seed, self.iteration):
            network = build_network(self.params.network, len(self.names), self.params.image_size)
        return network.to(self.device)

    def pixels(self) -> Tensor:
        """Return the images as uint8 (N, 3, S, S)."""
        images = self.images.detach()
        if self.normalised:
            mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
            images = images * std + mean
        return images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu()

    def result(self) -> ImageTensors:
        """Return the current images with their labels, on the CPU."""
        return ImageTensors(self.pixels(), torch.arange(len(self.names)).repeat_interleave(self.params.ipc))

    def loss_table(self) -> pd.DataFrame:
        """Return the losses: iteration (from 1), loss."""
        return pd.DataFrame({"iteration": range(1, len(self.losses) + 1), "loss": self.losses})
