"""Stage 01: DiffFit fine-tuning of the base DiT, with the minimax criteria (Eqs. 1–4) or without [F §3–4].

Several GPUs share each batch: the notebook then starts this module as a program, one process a GPU
(`dgs_utils.diffusion.process_group`), and reads its losses.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from safetensors.torch import save_file
from torch import Tensor

from dgs_utils.diffusion.difffit import add_difffit, trainable_parameters
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.process_group import SINGLE_PROCESS, ProcessGroup, join_group
from dgs_utils.diffusion.training import Schedule, Trainer, ema_warning
from dgs_utils.images.classes import read_classes
from dgs_utils.params import FineTuneParams
from dgs_utils.params.base import validated
from dgs_utils.params.dataset_defaults import OWN_IMAGES
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.process_lifetime import end_group, end_with, start_owned
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.signals import defer_signals, reraise_signals
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.atomic import atomic, write_csv, write_json
from dgs_utils.store.partial_results import verify_or_remove, write_verified, write_verified_csv
from dgs_utils.store.paths import workspace
from dgs_utils.store.session import Run, open_node

LossCallback = Callable[[Callable[[], pd.DataFrame]], None]  # called with a function that returns the losses so far
REPORT_INTERVAL_S = 1.0  # between two reports of the processes


# ---- A model and latents ---------------------------------------------------------------------------------------------

def fine_tune_model(base: DiT, latents: Latents, conditions: ArrayLike | None = None, *, device: str = "auto",
                    progress: Callable = no_progress, **settings: Any) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Fine-tune a DiT by DiffFit with the minimax criteria, in this process.

    Args:
        base: the model; it is given DiffFit's scales, trained in place and moved to the device.
        latents: the training set, with labels from 0.
        conditions: shape (classes,), the model's label of each class; None where they are the set's own, for a model
            of as many classes.
        device: where to train.
        progress: wraps the steps.
        settings: epochs, steps, batch_size, learning_rate, ema_decay, criteria, memory_size, weight_representative,
            weight_diverse, seed and precision of `params.FineTuneParams`.

    Returns:
        The moving average at the last step by parameter name, as ``difffit.safetensors`` holds it, and the losses:
        step, mse, vb, representative, diverse.

    Raises:
        ValueError: a bad setting.
        FloatingPointError: the loss became NaN or infinite.
    """
    params = validated(FineTuneParams, settings).with_defaults(OWN_IMAGES)
    classes = int(latents.labels.max()) + 1
    if conditions is None and classes != base.config.num_classes:
        raise ValueError(f"conditions is None, but the DiT has {base.config.num_classes:,} classes, and the latents "
                         f"have {classes}; give the DiT's label of each class")
    known = range(classes) if conditions is None else conditions
    model = add_difffit(base).to(resolve_device(device))
    trainer = trainer_of(model, latents, known, params)
    average = trainer.run(progress=progress)
    return {name: tensor.contiguous().cpu() for name, tensor in average.items()}, trainer.loss_table()


def trainer_of(model: DiT, latents: Latents, conditions: ArrayLike, params: FineTuneParams,
               checkpoint: Path | None = None, group: ProcessGroup = SINGLE_PROCESS) -> Trainer:
    """Return the trainer of a model with DiffFit's scales, on its device, resumed where there is a checkpoint."""
    if params.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    criterion = None
    if params.criteria == "minimax":
        criterion = MinimaxCriterion(params.memory_size, params.weight_representative, params.weight_diverse)
    schedule = Schedule(total_steps(params, len(latents)), params.batch_size, params.learning_rate, params.ema_decay,
                        params.seed, params.precision)
    return Trainer(model, trainable_parameters(model), latents, torch.tensor(np.asarray(conditions)), schedule,
                   criterion, checkpoint, group)


def total_steps(params: FineTuneParams, images: int) -> int:
    """Return the number of optimiser steps: ``fine_tune.steps``, or epochs × full batches an epoch."""
    return params.steps or params.epochs * max(images // params.batch_size, 1)


# ---- The stage -------------------------------------------------------------------------------------------------------

def trained_share(run: Run) -> str:
    """Return a sentence about the size of what is trained, and about the length of the training."""
    model, last = build_model(run), last_step(run)
    trained = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    total = sum(parameter.numel() for parameter in model.parameters())
    images = len(Latents.load(run.inputs["prepare"] / "latents.safetensors"))
    return (f"{trained:,} of {total:,} parameters ({trained / total:.2%}), {last:,} steps: "
            f"{last / max(images // run.params.batch_size, 1):.1f} epochs of the originals")


def fine_tune(run: Run, on_losses: LossCallback | None = None) -> pd.DataFrame:
    """Fine-tune, and write ``difffit.safetensors`` (the moving average at the last step) and ``losses.csv``.

    Returns:
        The losses: step, mse, vb, representative, diverse.

    Raises:
        ValueError: more processes than GPUs or images in a batch.
        FloatingPointError: the loss became NaN or infinite.
    """
    weights, losses = run.folder / "difffit.safetensors", run.folder / "losses.csv"
    if not (verify_or_remove(weights) and verify_or_remove(losses)):
        count, until = process_count(run.params), last_step(run)
        if warning := ema_warning(run.params.ema_decay, until):
            run.warn(warning, decides=True)
        if count == 1:
            train(run, until, on_losses=on_losses)
        else:
            _train_in_processes(run, until, count, on_losses)
    return read_table(losses)


def train(run: Run, until: int, group: ProcessGroup = SINGLE_PROCESS, device: str = "",
          on_losses: LossCallback | None = None) -> None:
    """Train in this process, one of ``group``; the first process writes the results."""
    trainer = build_trainer(run, group, device)

    def after_step(trainer: Trainer) -> None:
        if on_losses:
            on_losses(trainer.loss_table)

    average = trainer.run(until, run.progress if group.is_main else no_progress, after_step)
    if group.is_main:
        write_verified_csv(run.folder / "losses.csv", trainer.loss_table())
        with write_verified(run.folder / "difffit.safetensors") as partial:
            save_file({name: tensor.contiguous().cpu() for name, tensor in average.items()}, partial)
        checkpoint_of(run).unlink(missing_ok=True)


def build_trainer(run: Run, group: ProcessGroup = SINGLE_PROCESS, device: str = "") -> Trainer:
    """Return the trainer of this stage, resumed from its checkpoint where there is one; the device "" is auto."""
    prepare = run.inputs["prepare"]
    latents = Latents.load(prepare / "latents.safetensors")
    model = build_model(run).to(resolve_device(device or "auto"))
    return trainer_of(model, latents, read_classes(prepare)["condition"], run.params,
                      checkpoint_of(run), group)


def build_model(run: Run) -> DiT:
    """Return the base DiT with DiffFit's scales, on the CPU."""
    return add_difffit(DiT.from_pretrained(run.inputs["prepare"] / "dit"))


def checkpoint_of(run: Run) -> Path:
    """Return the file that an interrupted training resumes from."""
    return run.folder / "checkpoints" / "last.pt"


def last_step(run: Run) -> int:
    """Return the step after which training ends, whose moving average is sampled."""
    return total_steps(run.params, len(Latents.load(run.inputs["prepare"] / "latents.safetensors")))


def process_count(params: FineTuneParams) -> int:
    """Return the number of processes: ``fine_tune.processes``, or one per visible GPU.

    Raises:
        ValueError: more than there are GPUs or images in a batch.
    """
    gpus = torch.cuda.device_count() or 1
    count = params.processes or min(gpus, params.batch_size)
    if torch.cuda.is_available() and count > gpus:
        raise ValueError(f"fine_tune.processes is {count}, but this process sees {gpus} GPUs; "
                         f"make more visible by CUDA_VISIBLE_DEVICES, or lower it")
    if count > params.batch_size:
        raise ValueError(f"fine_tune.processes is {count}, but a batch has only {params.batch_size} images to share; "
                         f"lower it, or raise fine_tune.batch_size")
    return count


# ---- Several processes -----------------------------------------------------------------------------------------------

def _train_in_processes(run: Run, until: int, count: int, on_losses: LossCallback | None) -> None:
    """Train in ``count`` processes and wait for them; they end with this process, even if it is killed."""
    folder = run.folder / "checkpoints"
    inputs = {name: str(source) for name, source in run.inputs.items()}
    write_json(folder / "params.json", run.params.model_dump(mode="json") | inputs | {"output": str(run.folder)})
    error = folder / "error.txt"
    for old in (error, folder / "losses.csv"):
        old.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
               "-m", "dgs_utils.fine_tune", str(folder / "params.json"), str(until)]
    with (folder / "log.txt").open("w") as log, defer_signals() as caught:
        process = start_owned(command, stdout=log, stderr=log, cwd=workspace())
        try:
            steps = _report_steps(process, until, folder / "losses.csv", caught, on_losses)
            for _ in run.progress(steps, "training", until):
                pass
        finally:
            end_group(process)
    reraise_signals(caught, "stopped; run again to continue from the last checkpoint")
    if process.returncode:
        raise RuntimeError(error.read_text() if error.exists() else
                           f"the processes ended with status {process.returncode}; see {folder / 'log.txt'}")


def _report_steps(process: subprocess.Popen, until: int, file: Path, caught: list[int],
                  on_losses: LossCallback | None) -> Iterator[int]:
    """Yield once for each step in the losses that the processes write, until they end; forward a signal to them."""
    reported = 0
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(REPORT_INTERVAL_S)
        if caught and process.returncode is None:
            end_group(process)
        if file.exists() and on_losses and process.returncode is None:
            on_losses(lambda: read_table(file))
        steps = len(read_table(file)) if file.exists() else 0
        if process.returncode == 0:
            steps = until
        yield from range(reported, steps)
        reported = max(reported, steps)


def main(file: Path, until: int) -> None:
    """Run one of the processes that `_train_in_processes` starts."""
    end_with(os.getppid())
    folder = file.parent
    params = validated(FineTuneParams, json.loads(file.read_text()))
    group, device = join_group("auto")
    next_report_at = time.monotonic()

    def report(losses: Callable[[], pd.DataFrame]) -> None:
        nonlocal next_report_at
        if group.is_main and time.monotonic() > next_report_at:
            write_csv(folder / "losses.csv", losses())
            next_report_at = time.monotonic() + REPORT_INTERVAL_S

    try:
        train(open_node(params, alone=False), until, group, device, report)
    except Exception as error:
        with atomic(folder / "error.txt") as partial:
            partial.write_text(str(error))
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
