"""Small diffusion models: a finished 00 folder for stages 01 and 02, and the trainer of a tiny DiT."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from oracle import draw_weights
from sklearn.datasets import load_digits
from small_world import open_stage

from dgs_utils.diffusion.difffit import add_difffit, trainable_parameters
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.training import Schedule, Trainer
from dgs_utils.store.atomic import write_csv, write_json

CLASSES = ("a", "b", "c")
SCANS = 7  # of each class


def make_prepare(depth: int = 2, change: Callable[[DiT], object] = lambda model: None, **config) -> Path:
    """Write a 00 folder with digit scans as latents and a small DiT, which ``change`` edits before it is saved."""
    run = open_stage("00_prepare", dataset="folder", root="scans", base_model="none")
    bunch = load_digits()
    scans = torch.cat([torch.from_numpy(bunch.images[bunch.target == label][:SCANS]) for label in range(len(CLASSES))])
    labels = torch.arange(len(CLASSES)).repeat_interleave(SCANS)
    Latents(scans.float()[:, None, None] / 8 - 1, torch.empty(0), labels).save(run.folder / "latents.safetensors")
    table = pd.DataFrame({"label": range(3), "class": CLASSES, "index": range(3), "name": CLASSES,
                          "condition": [2, 0, 1]})
    write_csv(run.folder / "classes.csv", table)
    write_json(run.folder / "dataset.json", {"dataset": "folder", "channels": 1})
    model = DiT(input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=depth, num_heads=2, num_classes=3,
                **config)
    change(draw_weights(model, seed=0))
    model.save_pretrained(run.folder / "dit")
    run.finish()
    return run.folder


STEPS, BATCH, IMAGES = 7, 3, 8


def small_latents(images: int = IMAGES, noisy: bool = True, mirrors: int = 2) -> Latents:
    rng = torch.Generator().manual_seed(0)
    mean = torch.randn(images, mirrors, 1, 4, 4, generator=rng)
    return Latents(mean, torch.full_like(mean, 0.1) if noisy else torch.empty(0), torch.arange(images) % 2)


def small_trainer(folder: Path, steps: int = STEPS, latents: Latents | None = None, seed: int = 0, minimax: bool = True,
                  **options) -> Trainer:
    """Build a trainer of a tiny DiT with DiffFit, always from the same weights."""
    torch.manual_seed(0)
    model = DiT(input_size=4, patch_size=2, in_channels=1, hidden_size=16, depth=2, num_heads=2, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    schedule = Schedule(**{"steps": steps, "batch_size": BATCH, "learning_rate": 1e-2, "ema_decay": 0.8, "seed": seed,
                           **options})
    return Trainer(model, trainable_parameters(add_difffit(model)), latents or small_latents(), torch.tensor([3, 1]),
                   schedule, MinimaxCriterion(4, 0.5, 0.5) if minimax else None, folder / "checkpoint.pt")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
