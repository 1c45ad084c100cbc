"""Scores from training dynamics: of originals as stage 00 recorded them, of a pool by the scorer's snapshots."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors.torch import load_file

from dgs_utils.classifiers import dynamics
from dgs_utils.classifiers.dynamics import Dynamics
from dgs_utils.classifiers.scorer import Classifier, load_classifier, read_batches
from dgs_utils.difficulty.scoring import hash_of_names
from dgs_utils.images.image_set import ImageSet
from dgs_utils.methods import DYNAMICS_SCORES
from dgs_utils.runtime.devices import autocast, resolve_device
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.partial_results import verify_or_remove
from dgs_utils.store.session import Run

BATCH_SIZE = 128  # images per forward pass
BLOCK_IMAGES = 1024  # images that are kept in memory while all snapshots score them
DYNAMICS_COLUMNS = [*DYNAMICS_SCORES, "mean_probability"]


def scores_from_dynamics(run: Run, images: ImageSet, index: ArrayLike) -> dict[str, np.ndarray]:
    """Return what `dynamics.dynamics_scores` makes of the scorer's training; {} where 00 kept nothing of it.

    Of an original, stage 00 has seen to it; with folds, that scorer counts which was trained without it. Of the pool,
    the scorer's snapshots, or those of all scorers, say it now.
    """
    prepare = run.inputs["prepare"]
    file = prepare / dynamics.DYNAMICS_FILE
    if not file.exists():
        return {}
    if run.params.source == "pool":
        return dynamics.dynamics_scores(_observe_pool(run, images, np.asarray(index)[images.labels]))
    found, known = dynamics.read_dynamics(file)
    found = dynamics.reorder_images(images.table["file_name"], found, known, file)
    if folds_in(prepare):
        found = found.of_scorers(fold_of_originals(prepare, images))
    return dynamics.dynamics_scores(found)


def _observe_pool(run: Run, images: ImageSet, targets: np.ndarray) -> Dynamics:
    """Return the pool's dynamics, and keep them in ``dynamics.safetensors``; what that holds is not made again."""
    path, names = run.folder / dynamics.DYNAMICS_FILE, images.table["file_name"]
    known, parts = list[str](), []
    if verify_or_remove(path):
        found, known = dynamics.read_dynamics(path)
        parts.append(found)
    new = ~names.isin(known).to_numpy()
    if new.any():
        part = ImageSet(images.root, images.table[new].reset_index(drop=True))
        parts.append(_observe_in_blocks(run, part, targets[new]))
    found = dynamics.reorder_images(names, dynamics.concatenate(parts, axis=2), [*known, *names[new]], path)
    dynamics.write_dynamics(path, found, list(names))
    return found


def _observe_in_blocks(run: Run, images: ImageSet, targets: np.ndarray) -> Dynamics:
    """Score images by every snapshot, block by block; the blocks that a stopped run finished are read from disk."""
    prepare, precision = run.inputs["prepare"], run.params.precision
    names = [f"folds/{i}" for i in range(folds_in(prepare))] or ["classifier"]
    epochs = range(1, dynamics.read_dynamics(prepare / dynamics.DYNAMICS_FILE)[0].p_true.shape[1] + 1)
    scorer = load_classifier(prepare / names[0]).on(resolve_device())
    blocks = range(0, len(images), BLOCK_IMAGES)
    bar = iter(run.progress(range(len(blocks) * len(names) * len(epochs)), label="snapshots"))
    found = []
    for start in blocks:
        block = ImageSet(images.root, images.table.iloc[start : start + BLOCK_IMAGES])
        file = run.folder / "checkpoints" / f"dynamics-{start:09d}-{hash_of_names(block)}.safetensors"
        if not verify_or_remove(file):
            batches = read_batches(block.root, block.table["file_name"].to_numpy(), [scorer], BATCH_SIZE)
            with block.naming_class():
                pixels = [batch for batch, in batches]
            labels = targets[start : start + BLOCK_IMAGES]
            observed = [dynamics.concatenate([
                _observe_snapshot(scorer, dynamics.snapshot_path(prepare, name, epoch), pixels, labels, precision)
                for epoch, _ in zip(epochs, bar, strict=False)], axis=1) for name in names]
            dynamics.write_dynamics(file, dynamics.concatenate(observed, axis=0))
        found.append(dynamics.read_dynamics(file)[0])
    for _ in bar:  # lets the progress bar reach its end
        pass
    return dynamics.concatenate(found, axis=2)


@torch.inference_mode()
def _observe_snapshot(scorer: Classifier, snapshot: Path, pixels: list[torch.Tensor], targets: np.ndarray,
                      precision: str) -> Dynamics:
    """Return a scorer's outputs for images with the weights of some epoch."""
    scorer.network.load_state_dict(load_file(snapshot))
    outputs = []
    for batch in pixels:
        with autocast(scorer.mean.device, precision):
            outputs.append(scorer(scorer.send(batch)).float().cpu())
    return dynamics.dynamics_of_epoch(torch.cat(outputs), targets)


def folds_in(prepare: Path) -> int:
    """Return how many folds the scorers of a 00 folder leave out; 0 where one scorer has seen all originals."""
    return read_table(prepare / "folds.csv")["fold"].nunique() if (prepare / "folds.csv").exists() else 0


def fold_of_originals(prepare: Path, images: ImageSet) -> np.ndarray:
    """Return the fold that each original is in."""
    return images.table["file_name"].map(read_table(prepare / "folds.csv").set_index("file_name")["fold"]).to_numpy()
