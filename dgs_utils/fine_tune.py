"""Stage 01: DiffFit fine-tuning of the base DiT, with the minimax criteria (Eqs. 1–4) or without [F §3–4].

Several GPUs share each batch: the notebook then starts this module as a program, one process a GPU
(`dgs_utils.diffusion.parallel`), and watches its losses.
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

from dgs_utils.artifacts.files import atomic, write_csv, write_json
from dgs_utils.artifacts.parts import is_whole, keep_table, kept
from dgs_utils.artifacts.places import workspace
from dgs_utils.artifacts.run import Run, open_node
from dgs_utils.diffusion.difffit import add_difffit, trainable_parameters
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.parallel import ALONE, Group, join
from dgs_utils.diffusion.trackers import check_tracker, tracking
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.images.classes import read_classes
from dgs_utils.images.tables import read_table
from dgs_utils.params import FineTuneParams
from dgs_utils.runtime.devices import resolve
from dgs_utils.runtime.orphans import follow_guard
from dgs_utils.runtime.parameters import checked
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.signals import act_on, caught_signals

Watch = Callable[[Callable[[], pd.DataFrame]], None]  # called with a function that returns the losses so far
PAUSE = 1.0  # seconds between looks at what the processes have done


# ---- A model and latents ---------------------------------------------------------------------------------------------

def fine_tune_model(base: DiT, latents: Latents, conditions: ArrayLike | None = None, *, device: str = "auto",
                    progress: Callable = silent, **settings: Any) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Fine-tune a DiT by DiffFit with the minimax criteria, in this process.

    Args:
        base: the model; it is given DiffFit's scales, trained in place and moved to the device.
        latents: the training set, with labels from 0.
        conditions: shape (classes,), the model's label of each class; None where they are the set's own.
        device: where to train.
        progress: wraps the steps.
        settings: epochs, steps, sampled_step, batch_size, learning_rate, ema_decay, scaled_blocks, criteria,
            memory_size, weight_representative, weight_diverse, seed and precision of `params.FineTuneParams`.

    Returns:
        The moving average at the last step by parameter name, as ``difffit.safetensors`` holds it, and the losses:
        step, mse, vb, representative, diverse.

    Raises:
        ValueError: a bad setting.
        FloatingPointError: the loss became NaN or infinite.
    """
    params = checked(FineTuneParams, settings)
    known = range(int(latents.labels.max()) + 1) if conditions is None else conditions
    model = with_difffit(base, params).to(resolve(device))
    trainer = trainer_of(model, latents, known, params)
    total = trainer.schedule.steps
    average = trainer.run(min(params.sampled_step or total, total), progress)
    return {name: tensor.contiguous().cpu() for name, tensor in average.items()}, trainer.loss_table()


def with_difffit(base: DiT, params: FineTuneParams) -> DiT:
    """Give a DiT the scales of DiffFit and freeze all but DiffFit's parameters, in place."""
    model = add_difffit(base, params.scaled_blocks or None)
    trainable_parameters(model)
    return model


def trainer_of(model: DiT, latents: Latents, conditions: ArrayLike, params: FineTuneParams,
               checkpoint: Path | None = None, group: Group = ALONE) -> Trainer:
    """Return the trainer of a model that `with_difffit` made, on its device, resumed where there is a checkpoint."""
    if params.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    criterion = None
    if params.criteria == "minimax":
        criterion = MinimaxCriterion(params.memory_size, params.weight_representative, params.weight_diverse)
    schedule = Schedule(total_steps(params, len(latents)), params.batch_size, params.learning_rate, params.ema_decay,
                        params.seed, params.precision, params.checkpoint_every)
    return Trainer(model, trainable_parameters(model), latents, torch.tensor(np.asarray(conditions)), schedule,
                   criterion, checkpoint, group)


def total_steps(params: FineTuneParams, images: int) -> int:
    """Return the number of optimiser steps: as given, or epochs × full batches an epoch."""
    return params.steps or params.epochs * max(images // params.batch_size, 1)


# ---- The stage -------------------------------------------------------------------------------------------------------

def build_model(run: Run) -> DiT:
    """Return the base DiT with DiffFit's scales, all but DiffFit's parameters frozen, on the CPU."""
    return with_difffit(DiT.from_pretrained(run.inputs["prepare"] / "dit"), run.params)


def build_trainer(run: Run, group: Group = ALONE, device: str = "") -> Trainer:
    """Return the trainer of this stage, resumed from its checkpoint where there is one.

    Args:
        run: the stage.
        group: the processes that train together.
        device: of this process; "" for the stage's.
    """
    prepare = run.inputs["prepare"]
    latents = Latents.load(prepare / "latents.safetensors")
    model = build_model(run).to(resolve(device or run.params.device))
    return trainer_of(model, latents, read_classes(prepare)["condition"], run.params,
                      checkpoint_of(run), group)


def checkpoint_of(run: Run) -> Path:
    """Return the file that an interrupted training goes on from."""
    return run.folder / "checkpoints" / "last.pt"


def last_step(run: Run) -> int:
    """Return the step whose moving average is sampled, after which training ends; warn where it is never reached.

    The published run samples step 12,000, its only checkpoint, and goes on to the end all the same.
    """
    total = total_steps(run.params, len(Latents.load(run.inputs["prepare"] / "latents.safetensors")))
    wanted = run.params.sampled_step
    if wanted > total:
        run.warn(f"fine_tune.sampled_step is {wanted}, but training ends after {total} steps; step {total} is sampled")
    return min(wanted or total, total)


def process_count(params: FineTuneParams) -> int:
    """Return how many processes train: as given, or one per visible GPU.

    Raises:
        ValueError: more than there are GPUs or images in a batch.
    """
    gpus = (torch.cuda.device_count() or 1) if params.device in ("auto", "cuda") else 1
    count = params.processes or min(gpus, params.batch_size)
    if resolve(params.device).type == "cuda" and count > gpus:
        raise ValueError(f"fine_tune.processes is {count}, but device {params.device!r} shows {gpus} GPUs; "
                         f"make more visible by CUDA_VISIBLE_DEVICES, or lower it")
    if count > params.batch_size:
        raise ValueError(f"fine_tune.processes is {count}, but a batch has only {params.batch_size} images to share; "
                         f"lower it, or raise fine_tune.batch_size")
    return count


def fine_tune(run: Run, watch: Watch | None = None) -> pd.DataFrame:
    """Fine-tune, and write ``difffit.safetensors`` (the moving average at the sampled step) and ``losses.csv``.

    Args:
        run: the stage.
        watch: called after each step with a function that returns the losses so far.

    Returns:
        The losses: step, mse, vb, representative, diverse.

    Raises:
        ValueError: more processes than GPUs or images in a batch, or a tracker whose package is missing.
        FloatingPointError: the loss became NaN or infinite.
    """
    weights, losses = run.folder / "difffit.safetensors", run.folder / "losses.csv"
    if not (is_whole(weights) and is_whole(losses)):
        check_tracker(run.params.tracker)
        count, until = process_count(run.params), last_step(run)
        if count == 1:
            train(run, until, watch=watch)
        else:
            _launch(run, until, count, watch)
    return read_table(losses)


def train(run: Run, until: int, group: Group = ALONE, device: str = "", watch: Watch | None = None) -> None:
    """Train in this process, one of ``group``; the first process writes the results."""
    trainer = build_trainer(run, group, device)
    with tracking(run.params.tracker, run.folder / "trackers", run.node.label, run.params.identity()) as log:

        def after_step(trainer: Trainer) -> None:
            if log:
                log(dict(zip(Trainer.LOSSES, trainer.losses[-1], strict=True)), trainer.step)
            if watch:
                watch(trainer.loss_table)

        average = trainer.run(until, run.progress if group.leads else silent, after_step)
    if group.leads:
        keep_table(run.folder / "losses.csv", trainer.loss_table())
        with kept(run.folder / "difffit.safetensors") as partial:
            save_file({name: tensor.contiguous().cpu() for name, tensor in average.items()}, partial)
        checkpoint_of(run).unlink(missing_ok=True)


# ---- Several processes -----------------------------------------------------------------------------------------------

def _launch(run: Run, until: int, count: int, watch: Watch | None) -> None:
    """Train in ``count`` processes and wait for them; they end when this one does, however that happens."""
    folder = run.folder / "checkpoints"
    inputs = {name: str(source) for name, source in run.inputs.items()}
    write_json(folder / "params.json", run.params.model_dump(mode="json") | inputs | {"output": str(run.folder)})
    error = folder / "error.txt"
    for left in (error, folder / "losses.csv"):
        left.unlink(missing_ok=True)
    command = [sys.executable, "-m", "dgs_utils.batch.guard", str(os.getpid()),
               sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
               "-m", "dgs_utils.fine_tune", str(folder / "params.json"), str(until)]
    with (folder / "log.txt").open("w") as log, caught_signals() as caught:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=workspace(), start_new_session=True)
        for _ in run.progress(_steps(process, until, folder / "losses.csv", caught, watch), "training", until):
            pass
    act_on(caught, "stopped; run again to continue from the last checkpoint")
    if process.returncode:
        raise RuntimeError(error.read_text() if error.exists() else
                           f"the processes ended with status {process.returncode}; {folder / 'log.txt'} tells why")


def _steps(process: subprocess.Popen, until: int, file: Path, caught: list[int],
           watch: Watch | None) -> Iterator[int]:
    """Yield once for each step that the processes report in a file, until they end; pass a signal on to them."""
    seen = 0
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(PAUSE)
        if caught and process.returncode is None:
            process.terminate()
            process.wait()
        if file.exists() and watch and process.returncode is None:
            watch(lambda: read_table(file))
        steps = len(read_table(file)) if file.exists() else 0
        if process.returncode == 0:
            steps = until
        yield from range(seen, steps)
        seen = max(seen, steps)


def main(file: Path, until: int) -> None:
    """Be one of the processes that `_launch` starts."""
    follow_guard()
    folder = file.parent
    params = checked(FineTuneParams, json.loads(file.read_text()))
    group, device = join(params.device)
    due = time.monotonic()

    def report(losses: Callable[[], pd.DataFrame]) -> None:
        nonlocal due
        if group.leads and time.monotonic() > due:
            write_csv(folder / "losses.csv", losses())
            due = time.monotonic() + PAUSE

    try:
        train(open_node(params, alone=False), until, group, device, report)
    except Exception as error:
        with atomic(folder / "error.txt") as partial:
            partial.write_text(str(error))
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
