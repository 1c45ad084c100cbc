"""Scores of images by one or more scorers, without folders (Eq. 6).

Difficulty is 1 − the probability of the image's own class among all classes of the classifier. Other measures
have the same interface; each is mapped onto [0, 1], 0 the easiest, so that every later stage works with it.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from dgs_utils.classifiers.measures import MEASURES, all_measures, difficulty_scores
from dgs_utils.classifiers.outputs import sum_to_one
from dgs_utils.classifiers.scorer import Classifier, read_batches
from dgs_utils.images.classes import default_class_names, model_indices
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params.base import did_you_mean
from dgs_utils.runtime.devices import autocast, resolve_device
from dgs_utils.runtime.oom_backoff import OomBackoff
from dgs_utils.runtime.progress import count_processed, no_progress

SCORE_COLUMNS = [*MEASURES, "prediction", "confidence"]  # of every image


def score_images(images: ImageSet, scorers: Classifier | Sequence[Classifier],
                 index: ArrayLike | None = None, measure: str = "difficulty",
                 batch_size: int = 128, precision: str = "fp32", device: str = "auto", workers: int = 0,
                 progress: Callable = no_progress, warn: Callable[[str], None] = warnings.warn,
                 folds: int = 1) -> pd.DataFrame:
    """Score every image of a set, in a stream: memory does not grow with the set.

    Args:
        images: the images, with labels from 0.
        scorers: one or more scorers; scores are their mean. They are moved to the device.
        index: the output of each label: shape (classes,) for all scorers, or (scorers, classes). None finds classes by
            a scorer's own names of them, or ImageNet's in 1,000 outputs, and takes output i for label i where it has
            none.
        measure: a key of `measures.MEASURES`.
        batch_size: images per forward pass.
        precision: "fp32" or "bf16".
        device: where the scorers run.
        workers: threads that read images; 0 = one per core.
        progress: wraps the batches.
        warn: takes a sentence where a batch does not fit into a GPU's memory and is halved.
        folds: how many of the scorers, from the first on, are one scorer: the mean of them counts as one.

    Returns:
        ``images.table`` with score in [0, 1] (that of ``measure``), every measure under its own name, and the first
        scorer's prediction (output index) and confidence (its largest probability). With several scorers also the
        difficulty by each, difficulty_1, difficulty_2 …, and what the others predict, prediction_2 ….

    Raises:
        ValueError: an unknown measure, a class that a scorer has no output for, or an unreadable image.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}{did_you_mean(measure, MEASURES)}")
    scorers = [scorers] if isinstance(scorers, Classifier) else list(scorers)
    targets = [outputs[images.labels] for outputs in _outputs(images, scorers, index)]
    where = resolve_device(device)
    scorers = [scorer.on(where) for scorer in scorers]
    batches = read_batches(images.root, images.table["file_name"].to_numpy(), scorers, batch_size, workers)
    parts, start, backoff = [], 0, OomBackoff("batch_size", batch_size, warn)
    with images.naming_class():
        for pixels in count_processed(batches, lambda pixels: pixels[0], progress, "images scored", len(images)):

            def scored(rows: range, pixels: list[torch.Tensor] = pixels, start: int = start) -> np.ndarray:
                part, own = slice(rows.start, rows.stop), slice(start + rows.start, start + rows.stop)
                return _score_batch([batch[part] for batch in pixels], [target[own] for target in targets], scorers,
                                    precision, folds)

            parts += backoff(scored, range(len(pixels[0])))
            start += len(pixels[0])
    return with_scores(images, np.concatenate(parts), measure)


def _outputs(images: ImageSet, scorers: Sequence[Classifier], index: ArrayLike | None) -> list[np.ndarray]:
    """Return the output of each label in each scorer, (labels,) int64; see `score_images`."""
    names = images.table.drop_duplicates("label").set_index("label")["class"]
    table = np.stack([_by_names(scorer, names) for scorer in scorers]) if index is None else np.asarray(index)
    found = list(table) if table.ndim == 2 else [table] * len(scorers)
    if len(found) != len(scorers):
        raise ValueError(f"index has {len(found)} rows for {len(scorers)} scorers; give one for all, or one each")
    for scorer, outputs in zip(scorers, found, strict=True):
        if names.index.max() >= len(outputs):
            raise ValueError(f"index has {len(outputs)} entries, and class {names[names.index.max()]} has the label "
                             f"{names.index.max()}; give the output of each label")
        for label, name in names.items():
            if not 0 <= outputs[label] < scorer.config.num_classes:
                raise ValueError(f"class {name} has index {outputs[label]}, and classifier {scorer.config.network} has "
                                 f"{scorer.config.num_classes} outputs; correct classes.csv through "
                                 f"prepare.class_index, or choose a classifier of the same classes")
    return found


def _by_names(scorer: Classifier, names: pd.Series) -> np.ndarray:
    """Return a scorer's output of each label by its names of classes, or ImageNet's; the labels where it has none."""
    labels = np.arange(names.index.max() + 1)
    if known := scorer.config.classes or default_class_names(scorer.config.num_classes):
        labels[names.index] = model_indices(f"classifier {scorer.config.network}", list(names),
                                            scorer.config.num_classes, known,
                                            cure="give index, the output of each label")
    return labels


@torch.inference_mode()
def _score_batch(pixels: list[torch.Tensor], targets: list[np.ndarray], scorers: list[Classifier], precision: str,
                 folds: int) -> np.ndarray:
    """Return float64 (n, columns of `score_columns`): means over scorers, the first one's prediction, each one's."""
    outputs = []
    for scorer, batch in zip(scorers, pixels, strict=True):
        with autocast(scorer.mean.device, precision):
            outputs.append(scorer(scorer.send(batch)).double().cpu().numpy())
        if len(batch) > 1 and sum_to_one(outputs[-1]):
            raise ValueError(f"classifier {scorer.config.network} returns probabilities, and logits are wanted; leave "
                             f"its last softmax out")
    found = [all_measures(logits, target, from_="logits") for logits, target in zip(outputs, targets, strict=True)]
    ensembles = [found[:folds], *([measures] for measures in found[folds:])]
    means = [{name: np.mean([measures[name] for measures in ensemble], axis=0) for name in MEASURES}
             for ensemble in ensembles]
    prediction = outputs[0].argmax(axis=1)
    columns = [*(np.mean([mean[name] for mean in means], axis=0) for name in MEASURES), prediction,
               1 - difficulty_scores(outputs[0], prediction, from_="logits")]
    if len(ensembles) > 1:
        columns += [mean["difficulty"] for mean in means] + [logits.argmax(axis=1) for logits in outputs[folds:]]
    return np.stack(columns, axis=1)


def score_columns(scorers: int) -> list[str]:
    """Return the columns of scores by so many scorers."""
    each = [f"difficulty_{i}" for i in range(1, scorers + 1)] + [f"prediction_{i}" for i in range(2, scorers + 1)]
    return SCORE_COLUMNS + (each if scorers > 1 else [])


def with_scores(images: ImageSet, scored: np.ndarray, measure: str) -> pd.DataFrame:
    """Return the table of an image set with `score_columns` from an array (images, columns)."""
    names = score_columns((scored.shape[1] - len(SCORE_COLUMNS) + 1) // 2 or 1)
    columns = {name: column.astype(int) if name.startswith("prediction") else column
               for name, column in zip(names, scored.T, strict=True)}
    return images.table.assign(score=columns[measure], **columns)


def is_score_column(column: str) -> bool:
    """Return whether a column is one of `score_columns`, whatever the number of scorers."""
    return column in SCORE_COLUMNS or re.fullmatch(r"(difficulty|prediction)_\d+", column) is not None


def hash_of_names(images: ImageSet) -> str:
    """Return eight hex digits of the file names, which name a block of scores on disk."""
    return hashlib.sha256("\n".join(images.table["file_name"]).encode()).hexdigest()[:8]
