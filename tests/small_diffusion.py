"""A finished 00 folder with all that stages 01 and 02 need: digit scans as latents, a small DiT with drawn weights."""

from pathlib import Path

import pandas as pd
import torch
from oracle import draw_weights
from sklearn.datasets import load_digits
from small_world import open_stage

from dgs_utils.artifacts import files
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents

CLASSES = ("a", "b", "c")
SCANS = 7  # of each class


def make_prepare(depth: int = 2) -> Path:
    """Write the folder, with a DiT of some blocks, and return it."""
    run = open_stage("00_prepare", dataset="folder", root="scans", base_model="none")
    bunch = load_digits()
    scans = torch.cat([torch.from_numpy(bunch.images[bunch.target == label][:SCANS]) for label in range(len(CLASSES))])
    labels = torch.arange(len(CLASSES)).repeat_interleave(SCANS)
    Latents(scans.float()[:, None, None] / 8 - 1, torch.empty(0), labels).save(run.folder / "latents.safetensors")
    table = pd.DataFrame({"label": range(3), "class": CLASSES, "index": range(3), "name": CLASSES,
                          "condition": [2, 0, 1]})
    files.write_csv(run.folder / "classes.csv", table)
    files.write_json(run.folder / "dataset.json", {"dataset": "folder", "channels": 1})
    model = DiT(input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=depth, num_heads=2, num_classes=3)
    draw_weights(model, seed=0).save_pretrained(run.folder / "dit")
    run.finish()
    return run.folder
