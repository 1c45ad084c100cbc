"""The training loop of diffusion models: from scratch (00) and fine-tuning with the minimax criteria (01).

Every step draws from an rng named after the seed and the step, so that a run resumed from a checkpoint equals an
uninterrupted one bit for bit (on the CPU).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.process import Loss, NoiseProcess
from dgs_utils.diffusion.process_group import SINGLE_PROCESS, ProcessGroup
from dgs_utils.runtime.allocator import keep_freed_memory
from dgs_utils.runtime.devices import autocast, to_device_packed
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import torch_rng
from dgs_utils.runtime.signals import defer_signals, reraise_signals
from dgs_utils.store.checkpoint import Checkpointer


@dataclass(frozen=True)
class Schedule:
    """Length and settings of a training."""

    steps: int  # optimiser steps
    batch_size: int  # images a step; an incomplete last batch of an epoch is dropped
    learning_rate: float  # of AdamW, constant, without weight decay
    ema_decay: float  # of the exponential moving average, from the first step, without warm-up
    seed: int = 0  # of every draw
    precision: str = "fp32"  # "fp32" or "bf16" for the network's forward pass
    checkpoint_every: int = 1000  # steps between checkpoints
    stage: str = "fine_tune"  # the stage that trains; it begins the names of the draws


def ema_warning(decay: float, steps: int) -> str:
    """Return a sentence if more than half of the moving average would be the initial weights, else "".

    >>> ema_warning(0.9, steps=100)
    ''
    """
    initial = decay**steps
    return "" if initial <= 0.5 else (
        f"the moving average of the weights, which is what is kept, still holds {initial:.0%} of those it begins with "
        f"after {steps:,} steps of ema_decay {decay:g}; lower ema_decay to {1 - 10 / max(steps, 20):.4g}, or train "
        f"longer")


class Trainer:
    """Trains some parameters of a DiT on cached latents and keeps their moving average.

    Args:
        model: the DiT, on its device.
        parameters: those to train, by name.
        latents: the training set.
        conditions: (classes,) int64: the DiT's label of each of the set's classes.
        schedule: see `Schedule`.
        criterion: minimax criteria, or None for plain diffusion training.
        checkpoint: file of the checkpoint, from which training resumes if it exists; None for none.
        group: the processes that share each batch; each has its own trainer, with equal arguments.
    """

    LOSSES = ("mse", "vb", "representative", "diverse")

    def __init__(self, model: DiT, parameters: dict[str, nn.Parameter], latents: Latents, conditions: Tensor,
                 schedule: Schedule, criterion: MinimaxCriterion | None, checkpoint: Path | None = None,
                 group: ProcessGroup = SINGLE_PROCESS):
        self.model, self.parameters, self.latents, self.conditions = model, parameters, latents, conditions
        self.schedule, self.criterion, self.group = schedule, criterion, group
        self.checkpointer = Checkpointer(checkpoint)
        self.batch_size = min(schedule.batch_size, len(latents))
        self.device = next(iter(parameters.values())).device
        self.process = NoiseProcess().to(self.device)
        self.step = 0
        self.losses: list[tuple[float, ...]] = []
        self.ema = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        kind = {"fused": True} if self.device.type in ("cpu", "cuda") else {"foreach": True}  # fused: in a single pass
        self.optimiser = torch.optim.AdamW(parameters.values(), lr=schedule.learning_rate, weight_decay=0.0, **kind)
        if state := self.checkpointer.load():
            self._resume(state)

    def run(self, until: int | None = None, progress: Callable = no_progress,
            watch: Callable[["Trainer"], None] | None = None) -> dict[str, Tensor]:
        """Train up to a step (default: all) and return the moving average by parameter name.

        After SIGTERM or Ctrl-C it finishes the step and writes a checkpoint. SIGTERM then ends the process. ``watch``
        is called with the trainer after each step.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            FloatingPointError: the loss became NaN or infinite; the sentence has step, images and last checkpoint.
        """
        until = self.schedule.steps if until is None else until
        if self.device.type == "cpu":
            keep_freed_memory()
        average = get_ema_multi_avg_fn(self.schedule.ema_decay)
        self.model.train()
        stopped = False
        with defer_signals() as caught:
            for _ in progress(range(self.step, until), label="training", total=until - self.step):
                losses, stopped = self._train_step(caught)
                self.losses.append(losses)
                average(list(self.ema.values()), list(self.parameters.values()), None)
                self.step += 1
                if watch is not None:
                    watch(self)
                if stopped:
                    break
                if self.step % self.schedule.checkpoint_every == 0:
                    self.save()
            if stopped or caught:
                self.save()
        message = f"stopped after step {self.step}; run again to continue from there"
        reraise_signals(caught, message)
        if stopped:  # another process of the group received the signal
            raise KeyboardInterrupt(message)
        self.model.eval()
        return self.ema

    def loss_table(self) -> pd.DataFrame:
        """Return the losses so far: step (from 1), mse, vb, representative, diverse."""
        table = pd.DataFrame(self.losses, columns=list(self.LOSSES))
        table.insert(0, "step", range(1, len(table) + 1))
        return table

    def _batch(self) -> Tensor:
        """Return the indices of this step's images: each epoch has its own permutation."""
        epoch, index = divmod(self.step, len(self.latents) // self.batch_size)
        rng = torch_rng(self.schedule.stage, "order", self.schedule.seed, epoch)
        order = torch.randperm(len(self.latents), generator=rng)
        return order[index * self.batch_size : (index + 1) * self.batch_size]

    def _train_step(self, caught: list[int]) -> tuple[tuple[float, ...], bool]:
        """Carry out one optimiser step; return its losses, and whether a process received a signal to stop."""
        indices = self._batch()
        draw = torch_rng(self.schedule.stage, "step", self.schedule.seed, self.step)
        loss, latents = self._losses(indices, draw)
        total = loss.loss.mean()
        representative = diverse = total.new_zeros(())
        if self.criterion is not None:
            representative, diverse = self.criterion(loss.pred_x0, latents, self.latents.labels[indices])
            total = total + representative + diverse
        # Read once a step, since reading halts a GPU.
        *row, value = torch.stack([loss.mse.mean(), loss.vb.mean(), representative, diverse, total]).tolist()
        if not math.isfinite(value):
            file = self.checkpointer.file
            last = f"the last good checkpoint is {file}" if file and file.exists() else "there is no checkpoint yet"
            raise FloatingPointError(f"the loss is {value} at step {self.step + 1} (images {indices.tolist()}); lower "
                                     f"the learning rate or use precision fp32; {last}")
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        stopped = self.group.sum_gradients(list(self.parameters.values()), bool(caught))
        self.optimiser.step()
        return tuple(row), stopped

    def _losses(self, indices: Tensor, draw: torch.Generator) -> tuple[Loss, Tensor]:
        """Return the losses of a whole batch, computed by all processes together, and its latents."""
        latents = self.latents.draw(indices, draw)
        t = torch.randint(len(self.process), indices.shape, generator=draw)
        noise = torch.randn(latents.shape, generator=draw)
        rows = self.group.rows(len(indices))
        torch.rand(rows.start, generator=draw)  # the label dropout of the images before this process's own
        whole = to_device_packed([latents, t, noise, self.conditions[self.latents.labels[indices]]], self.device)
        x, times, epsilon, conditions = (tensor[rows] for tensor in whole)
        with autocast(self.device, self.schedule.precision):
            output = self.model(self.process.add_noise(x, times, epsilon), times, conditions, rng=draw)
        own = self.process.training_loss(output.float(), x, times, epsilon)
        return Loss(*(self.group.gather_rows(values, len(indices)) for values in own)), whole[0]

    def save(self) -> None:
        """Write the checkpoint, atomically, in the main process."""
        if self.group.is_main:
            self.checkpointer.save({
                "step": self.step,
                "losses": torch.tensor(self.losses, dtype=torch.float64),
                "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
                "ema": self.ema,
                "optimiser": self.optimiser.state_dict(),
                "criterion": self.criterion.state_dict() if self.criterion is not None else {},
            })

    def _resume(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.losses = [tuple(row) for row in state["losses"].tolist()]
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["parameters"][name])
                self.ema[name].copy_(state["ema"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.criterion is not None:
            self.criterion.load_state_dict(state["criterion"], self.device)
