"""Scores of images by one or more scorers, without folders (Eq. 6).

Difficulty is 1 − the probability of the image's own class among all classes of the classifier. Other measures
have the same interface; each is mapped onto [0, 1], 0 the easiest, so that every later stage works with it.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from dgs_utils.classifiers.measures import MEASURES, all_measures, difficulty_scores
from dgs_utils.classifiers.outputs import sum_to_one
from dgs_utils.classifiers.scorer import Classifier, read_batches
from dgs_utils.classifiers.softmax import Softmax
from dgs_utils.images.classes import default_class_names, model_indices
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params.base import did_you_mean
from dgs_utils.params.types import OVERS, Over
from dgs_utils.runtime.devices import autocast, resolve_device
from dgs_utils.runtime.oom_backoff import OomBackoff
from dgs_utils.runtime.progress import count_processed, no_progress

OTHER = dict(zip(OVERS, reversed(OVERS), strict=True))


def score_images(images: ImageSet, scorers: Classifier | Sequence[Classifier],
                 index: ArrayLike | None = None, measure: str = "difficulty",
                 batch_size: int = 128, precision: str = "fp32", device: str = "auto", workers: int = 0,
                 progress: Callable = no_progress, warn: Callable[[str], None] = warnings.warn,
                 folds: int = 1, over: Over = "all", temperature: float | Sequence[float] = 1.0,
                 alternatives: bool = False) -> pd.DataFrame:
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
        over: what probabilities are taken over: "all" outputs of a scorer (Eq. 6), or those of the "task": of index, or
            of the set's classes where it is None.
        temperature: that logits are divided by: of all scorers, or one each.
        alternatives: also the difficulty over the other outputs, difficulty_task or difficulty_all, and the prediction.

    Returns:
        ``images.table`` with score in [0, 1] (that of ``measure``), every measure under its own name, and the first
        scorer's prediction (output index) and confidence (its largest probability). With several scorers also the
        difficulty by each, difficulty_1, difficulty_2 …, and what the others predict, prediction_2 …; and with a
        temperature that without, difficulty_raw.

    Raises:
        ValueError: an unknown measure, a class that a scorer has no output for, a task of one class, or an unreadable
            image.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}{did_you_mean(measure, MEASURES)}")
    scorers = [scorers] if isinstance(scorers, Classifier) else list(scorers)
    softmaxes, labels = _softmaxes(images, scorers, index, over, temperature)
    where = resolve_device(device)
    scorers = [scorer.on(where) for scorer in scorers]
    batches = read_batches(images.root, images.table["file_name"].to_numpy(), scorers, batch_size, workers)
    parts, start, backoff = [], 0, OomBackoff("batch_size", batch_size, warn)
    with images.naming_class():
        for pixels in count_processed(batches, lambda pixels: pixels[0], progress, "images scored", len(images)):

            def scored(rows: range, pixels: list[torch.Tensor] = pixels, start: int = start) -> pd.DataFrame:
                part, own = slice(rows.start, rows.stop), slice(start + rows.start, start + rows.stop)
                return _score_batch([batch[part] for batch in pixels], labels[own], scorers, softmaxes, precision,
                                    folds, alternatives)

            parts += backoff(scored, range(len(pixels[0])))
            start += len(pixels[0])
    columns = pd.concat(parts).set_index(images.table.index)
    return images.table.assign(score=columns[measure], **columns)


def _softmaxes(images: ImageSet, scorers: Sequence[Classifier], index: ArrayLike | None, over: Over,
               temperature: float | Sequence[float]) -> tuple[list[Softmax], np.ndarray]:
    """Return how each scorer's probabilities are taken, and the images' labels (N,) among the classes of the task."""
    outputs, labels = outputs_of_labels(images, scorers, index), images.labels
    if index is None:
        present, labels = np.unique(labels, return_inverse=True)
        outputs = [row[present] for row in outputs]
    if over == "task" and len(outputs[0]) < 2:
        raise ValueError("over is 'task', and the task has one class, of which every image would have a difficulty of "
                         "0; set it to 'all' (difficulty.over)")
    temperatures = np.broadcast_to(np.asarray(temperature, dtype=np.float64), len(scorers))
    return [Softmax(row, over, float(value)) for row, value in zip(outputs, temperatures, strict=True)], labels


def outputs_of_labels(images: ImageSet, scorers: Sequence[Classifier], index: ArrayLike | None) -> list[np.ndarray]:
    """Return the output of each label in each scorer, (labels,) int64; see `score_images`."""
    names = images.table.drop_duplicates("label").set_index("label")["class"]
    table = np.stack([_by_names(scorer, names) for scorer in scorers]) if index is None else np.asarray(index)
    indices = list(table) if table.ndim == 2 else [table] * len(scorers)
    if len(indices) != len(scorers):
        raise ValueError(f"index has {len(indices)} rows for {len(scorers)} scorers; give one for all, or one each")
    for scorer, outputs in zip(scorers, indices, strict=True):
        if names.index.max() >= len(outputs):
            raise ValueError(f"index has {len(outputs)} entries, and class {names[names.index.max()]} has the label "
                             f"{names.index.max()}; give the output of each label")
        for label, name in names.items():
            if not 0 <= outputs[label] < scorer.config.num_classes:
                raise ValueError(f"class {name} has index {outputs[label]}, and classifier {scorer.config.network} has "
                                 f"{scorer.config.num_classes} outputs; correct classes.csv through "
                                 f"prepare.class_index, or choose a classifier of the same classes")
    return indices


def _by_names(scorer: Classifier, names: pd.Series) -> np.ndarray:
    """Return a scorer's output of each label by its names of classes, or ImageNet's; the labels where it has none."""
    labels = np.arange(names.index.max() + 1)
    if known := scorer.config.classes or default_class_names(scorer.config.num_classes):
        labels[names.index] = model_indices(f"classifier {scorer.config.network}", list(names),
                                            scorer.config.num_classes, known,
                                            cure="give index, the output of each label")
    return labels


@torch.inference_mode()
def _score_batch(pixels: list[torch.Tensor], labels: np.ndarray, scorers: list[Classifier], softmaxes: list[Softmax],
                 precision: str, folds: int, alternatives: bool) -> pd.DataFrame:
    """Return the columns of `score_images` but score: means over scorers, the first one's prediction, each one's."""
    outputs = []
    for scorer, batch in zip(scorers, pixels, strict=True):
        with autocast(scorer.mean.device, precision):
            outputs.append(scorer(scorer.send(batch)).double().cpu().numpy())
        if len(batch) > 1 and sum_to_one(outputs[-1]):
            raise ValueError(f"classifier {scorer.config.network} returns probabilities, and logits are wanted; leave "
                             f"its last softmax out")
    ensembles = _mean_measures(outputs, labels, softmaxes, folds)
    first = softmaxes[0]
    largest = first.logits(outputs[0])
    columns = {name: np.mean([mean[name] for mean in ensembles], axis=0) for name in MEASURES}
    columns["prediction"] = first.predictions(outputs[0])
    columns["confidence"] = 1 - difficulty_scores(largest, largest.argmax(axis=1), from_="logits")
    if len(ensembles) > 1:
        others = zip(softmaxes[folds:], outputs[folds:], strict=True)
        columns |= {f"difficulty_{i}": mean["difficulty"] for i, mean in enumerate(ensembles, 1)}
        columns |= {f"prediction_{i}": softmax.predictions(logits) for i, (softmax, logits) in enumerate(others, 2)}
    return pd.DataFrame(columns | _alternatives(outputs, labels, softmaxes, folds, alternatives))


def _mean_measures(outputs: list[np.ndarray], labels: np.ndarray, softmaxes: list[Softmax],
                   folds: int) -> list[dict[str, np.ndarray]]:
    """Return every measure by each scorer, of which the first ``folds`` are one."""
    measured = [all_measures(softmax.logits(logits), softmax.targets(labels), from_="logits")
                for softmax, logits in zip(softmaxes, outputs, strict=True)]
    ensembles = [measured[:folds], *([measures] for measures in measured[folds:])]
    return [{name: np.mean([measures[name] for measures in ensemble], axis=0) for name in MEASURES}
            for ensemble in ensembles]


def _alternatives(outputs: list[np.ndarray], labels: np.ndarray, softmaxes: list[Softmax],
                  folds: int, alternatives: bool) -> dict[str, np.ndarray]:
    """Return the difficulty otherwise: over the other outputs, with the prediction among them, and raw."""
    def difficulty(changed: list[Softmax]) -> np.ndarray:
        return np.mean([mean["difficulty"] for mean in _mean_measures(outputs, labels, changed, folds)], axis=0)

    other = [replace(softmax, over=OTHER[softmax.over]) for softmax in softmaxes]
    plain = [replace(softmax, temperature=1.0) for softmax in softmaxes]
    which, columns = OTHER[softmaxes[0].over], dict[str, np.ndarray]()
    if alternatives:
        columns = {f"difficulty_{which}": difficulty(other), f"prediction_{which}": other[0].predictions(outputs[0])}
    if any(softmax.temperature != 1 for softmax in softmaxes):
        columns["difficulty_raw"] = difficulty(plain)
    return columns


def is_score_column(column: str) -> bool:
    """Return whether `score_images` makes a column beside score, with whichever scorers."""
    return column in (*MEASURES, "prediction", "confidence") or (
        re.fullmatch(r"(difficulty|prediction)_(\d+|all|task|raw)", column) is not None)


def hash_of_names(images: ImageSet) -> str:
    """Return eight hex digits of the file names, which name a block of scores on disk."""
    return hashlib.sha256("\n".join(images.table["file_name"]).encode()).hexdigest()[:8]
