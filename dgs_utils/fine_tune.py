"""Stage 01: DiffFit fine-tuning of the base DiT with the minimax criteria (Eqs. 1–4) [F §3–4]."""

import pandas as pd
import torch
from safetensors.torch import save_file

from dgs_utils.artifacts import Run, atomic, write_csv
from dgs_utils.data import read_classes
from dgs_utils.device import resolve
from dgs_utils.diffusion import DiT, MinimaxCriterion, add_difffit, trainable_parameters
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.training import Schedule, Trainer


def build_trainer(run: Run) -> Trainer:
    """Return the trainer of this stage, resumed from its checkpoint where there is one."""
    params, prepare = run.params, run.inputs["prepare"]
    latents = Latents.load(prepare / "latents.safetensors")
    device = resolve(params.device)
    model = add_difffit(DiT.from_pretrained(prepare / "dit"), params.scaled_blocks or None).to(device)
    if params.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    criterion = MinimaxCriterion(params.memory_size, params.weight_representative, params.weight_diverse)
    schedule = Schedule(total_steps(params, len(latents)), params.batch_size, params.learning_rate, params.ema_decay,
                        params.seed, params.precision, params.checkpoint_every)
    conditions = torch.tensor(read_classes(prepare)["condition"].to_numpy())
    return Trainer(model, trainable_parameters(model), latents, conditions, schedule, criterion,
                   run.folder / "checkpoints" / "last.pt")


def total_steps(params, pictures: int) -> int:
    """Return the number of optimiser steps: as given, or epochs × full batches an epoch."""
    return params.steps or params.epochs * max(pictures // params.batch_size, 1)


def fine_tune(run: Run) -> pd.DataFrame:
    """Fine-tune, and write ``difffit.safetensors`` (the moving average at the sampled step) and ``losses.csv``.

    The published run samples step 12,000, its only checkpoint, and goes on to the end all the same; here training
    stops at the sampled step. Where that is never reached, the last step is sampled, with a warning.

    Returns:
        The losses: step, mse, vb, representative, diverse.
    """
    weights, losses = run.folder / "difffit.safetensors", run.folder / "losses.csv"
    if weights.exists() and losses.exists():
        return pd.read_csv(losses)
    trainer = build_trainer(run)
    wanted, total = run.params.sampled_step, trainer.schedule.steps
    if wanted > total:
        run.warn(f"fine_tune.sampled_step is {wanted}, but training ends after {total} steps; step {total} is sampled")
    average = trainer.run(until=min(wanted or total, total), progress=run.progress)
    write_csv(losses, trainer.loss_table())
    with atomic(weights) as partial:
        save_file({name: tensor.contiguous().cpu() for name, tensor in average.items()}, partial)
    trainer.checkpoint.unlink(missing_ok=True)
    return pd.read_csv(losses)
