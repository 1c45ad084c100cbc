"""Sanity checks of a scorer on the originals, before its scores are used: from its outputs for them, class by class.

A few lucky images say nothing: every check compares outputs over many images, and has its false alarms bounded.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtr, bdtrc, log_softmax
from torch import Tensor

from dgs_utils.classifiers.augmentation import MEAN, STD
from dgs_utils.classifiers.scorer import Classifier
from dgs_utils.runtime.seeds import numpy_rng

ALPHA = 0.001  # false alarms of each check, about
BLIND = 0.6  # an output that separates its class no better than this does not know it, in AUC
GAIN = 0.2  # by which another output must separate a class better, in AUC
NORMALISATIONS = {  # mean and standard deviation of pixels, by what sentences call them
    "ImageNet's mean and standard deviation": (MEAN, STD),
    "pixels in [-1, 1]": ((0.5,) * 3, (0.5,) * 3), "pixels in [0, 1]": ((0.0,) * 3, (1.0,) * 3),
    "pixels in [0, 255]": ((0.0,) * 3, (1 / 255,) * 3)}
BACKGROUND = 1001  # outputs of TensorFlow's classifiers of ImageNet, of which 0 is the background


def scorer_sanity_checks(outputs: np.ndarray, labels: np.ndarray, index: np.ndarray, classes: Sequence[str],
                         names: Sequence[str] = (), *, scorer: str = "the scorer",
                         index_source: str = "prepare.class_index", expected: float = 0.0,
                         expected_by: str = "") -> list[str]:
    """Return the problems of a scorer, one sentence each.

    Args:
        outputs: logits of original images, shape (N, outputs).
        labels: of the images, int (N,), from 0.
        index: the output of each label, int (labels,).
        classes: names of the labels.
        names: of the outputs, for sentences; () if unknown.
        scorer: its title in sentences.
        index_source: where the user assigns outputs to classes, for sentences.
        expected: the accuracy over all outputs that is known of it; 0 if none is.
        expected_by: "published" on its own test images, or "own" on these test images.
    """
    if len(np.unique(labels)) < 2:
        return []
    right = outputs.argmax(axis=1) == index[labels]
    chosen = outputs[:, index].argmax(axis=1)
    problems = _other_outputs(outputs, labels, index, classes, names, scorer, index_source)
    if not problems:
        problems = _guesses(right, chosen, labels, outputs.shape[1], len(index), scorer, index_source)
    if not problems:
        problems = _never(outputs, labels, index, classes, scorer, index_source)
    worst = expected / 2 if expected_by == "published" else expected - 0.1
    if not problems and worst > 0 and bdtr(right.sum(), len(right), worst) < ALPHA:
        known = "was published with" if expected_by == "published" else "had after its training"
        problems = [f"{scorer} recognises {right.mean():.0%} of {len(right)} original images, and {known} an accuracy "
                    f"of {expected:.0%}; check that its preprocessing and the size of images are those that it was "
                    f"trained with"]
    return problems


def separation(scores: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how well each output separates each class from the other classes' images.

    Args:
        scores: shape (N, outputs), such as log-probabilities.
        labels: int (N,), each of the classes with an image, and no class with all.
        classes: number of labels.

    Returns:
        (classes, outputs) areas under the ROC curve (Mann–Whitney), and (classes,) the variance of one by chance.

    >>> separation(np.array([[3.0, 0], [2, 0], [1, 1], [0, 1]]), np.array([0, 0, 1, 1]), 2)[0]
    array([[1., 0.],
           [0., 1.]])
    """
    ranks, total = pd.DataFrame(scores).rank().to_numpy(), len(scores)
    count = np.bincount(labels, minlength=classes)
    sums = np.stack([ranks[labels == label].sum(axis=0) for label in range(classes)])
    areas = (sums - (count * (count + 1) / 2)[:, None]) / (count * (total - count))[:, None]
    return areas, (total + 1) / (12 * count * (total - count))


def best_outputs(outputs: np.ndarray, labels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the output that answers to each class, where another one than the given does so beyond doubt.

    The best assignment of outputs to classes by `separation` is searched on each half of the images, and a class moves
    where both halves agree. The move counts if its outputs separate the classes that moved better by `GAIN`, and
    recognise more of their images, so that a class that a scorer confuses with another stays where it is. ``outputs``
    are logits (N, outputs), ``index`` the given output of each label.
    """
    scores, classes = log_softmax(outputs.astype(np.float64), axis=1), len(index)
    if len(np.unique(labels)) < classes:
        return index
    for offset in (1, -1):
        moved = index + offset
        if moved.min() >= 0 and moved.max() < outputs.shape[1] and _is_better(scores, labels, index, moved):
            return moved
    half, assignments = np.empty(len(labels), dtype=int), []
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        half[rows] = numpy_rng("difficulty", "sanity checks", label).permutation(len(rows)) % 2
    for part in (0, 1):
        rows = half == part
        if len(np.unique(labels[rows])) < classes:
            return index
        areas, _ = separation(scores[rows], labels[rows], classes)
        areas[np.arange(classes), index] += GAIN / 2  # a draw leaves a class where it is
        assignments.append(linear_sum_assignment(areas, maximize=True)[1])
    moved = np.where(assignments[0] == assignments[1], assignments[0], index)
    return moved if _is_better(scores, labels, index, moved) else index


def _is_better(scores: np.ndarray, labels: np.ndarray, index: np.ndarray, moved: np.ndarray) -> bool:
    """Return whether other outputs answer to the classes that moved, by `separation` and by images recognised."""
    which = np.flatnonzero(moved != index)
    if not len(which):
        return False
    areas, variance = separation(scores, labels, len(index))
    gain = (areas[which, moved[which]] - areas[which, index[which]]).mean()
    if gain < GAIN or gain < 3 * np.sqrt(4 * variance[which].sum()) / len(which):
        return False
    rows = np.isin(labels, which)
    after, before = (scores[rows, outputs[labels[rows]]] >= scores[rows][:, outputs].max(axis=1)
                     for outputs in (moved, index))
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return gained - lost > GAIN * rows.sum() and bdtr(lost, gained + lost, 0.5) < ALPHA


def _other_outputs(outputs: np.ndarray, labels: np.ndarray, index: np.ndarray, classes: Sequence[str],
                   names: Sequence[str], scorer: str, index_source: str) -> list[str]:
    moved = best_outputs(outputs, labels, index)
    which = np.flatnonzero(moved != index)
    if not len(which):
        return []
    offsets = set((moved - index).tolist())
    if len(which) > 1 and len(offsets) == 1:
        offset = offsets.pop()
        background = "; of 1,001 outputs, 0 is TensorFlow's background" if outputs.shape[1] == BACKGROUND else ""
        where = "after" if offset > 0 else "before"
        return [f"the images of each class are answered by the output {abs(offset)} {where} the one that "
                f"{index_source} gives in {scorer}{background}; add {offset} to each index, or difficulties by it mean "
                f"nothing"]
    title = dict(enumerate(names))
    shown = ", ".join(f"class {classes[label]} by output {moved[label]}"
                      f"{f' ({title[moved[label]]})' if moved[label] in title else ''}, not {index[label]}"
                      for label in which[:5])
    return [f"the images of {len(which)} of {len(index)} classes are answered by other outputs of {scorer} than "
            f"{index_source} gives: {shown}{' …' if len(which) > 5 else ''}; correct the table, or difficulties by it "
            f"mean nothing"]


def _guesses(right: np.ndarray, chosen: np.ndarray, labels: np.ndarray, outputs: int, classes: int, scorer: str,
             index_source: str) -> list[str]:
    """Return the sentence on a scorer that recognises no more images than its answers would in any order."""
    hits = int((chosen == labels).sum())
    if _is_chance(chosen, labels, classes):
        return [f"{scorer} recognises {hits} of {len(labels)} original images, no better than guessing among the "
                f"{classes} classes, so difficulties by it mean nothing; check {index_source}, or train it longer"]
    if bdtrc(right.sum() - 1, len(labels), 1 / outputs) > 0.05:
        return [f"{scorer} takes {right.sum()} of {len(labels)} original images for their class among all its "
                f"{outputs:,} outputs, and {hits} among those of the task; set difficulty.over to task"]
    return []


def _is_chance(chosen: np.ndarray, labels: np.ndarray, classes: int) -> bool:
    """Return whether answers hit no more labels than they would in any order."""
    shares = [np.bincount(part, minlength=classes) / len(labels) for part in (chosen, labels)]
    return bool(bdtrc((chosen == labels).sum() - 1, len(labels), float(shares[0] @ shares[1])) > 0.05)


def _never(outputs: np.ndarray, labels: np.ndarray, index: np.ndarray, classes: Sequence[str], scorer: str,
           index_source: str) -> list[str]:
    """Return the sentence on classes with no image recognised, which is no chance at the scorer's accuracy, and whose
    outputs do not separate them from others either, as those of a class that it is slow to learn do."""
    correct = outputs[:, index].argmax(axis=1) == labels
    count = np.bincount(labels, minlength=len(classes))
    hits = np.bincount(labels[correct], minlength=len(classes))
    chance = (1 - correct.mean()) ** count * len(classes)
    suspects = np.flatnonzero((hits == 0) & (count > 0) & (chance < ALPHA))
    own = log_softmax(outputs.astype(np.float64), axis=1)[:, index]
    never = [classes[int(label)] for label in suspects if separation(
        own[:, [label]], (labels == label).astype(int), 2)[0][1, 0] < BLIND]
    if not never:
        return []
    return [f"{scorer} recognises no original image of {_list_classes(never)}; check the class's index in "
            f"{index_source}, and its images"]


def _list_classes(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"class {', '.join(names[:5])}{more}" if len(names) == 1 else f"classes {', '.join(names[:5])}{more}"


def other_preparations(scorer: Classifier, pixels: Tensor) -> dict[str, Tensor]:
    """Return images, uint8 (N, 3, crop, crop), as the scorer would see them by other normalisations, and with red and
    blue exchanged; {} if it has not three channels.
    """
    if len(scorer.config.transform.mean) != 3:
        return {}
    ways = {"red and blue exchanged": pixels.flip(1)}
    for name, (mean, std) in NORMALISATIONS.items():
        if not np.allclose([*mean, *std], [*scorer.config.transform.mean, *scorer.config.transform.std], atol=1e-3):
            seen = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
            ways[name] = 255 * (seen * scorer.std.cpu()[0] + scorer.mean.cpu()[0])  # which its own takes back
    return ways


def better_preparation(outputs: np.ndarray, others: dict[str, np.ndarray], labels: np.ndarray, index: np.ndarray,
                         scorer: str = "the scorer") -> list[str]:
    """Return the sentence on a preprocessing by which a scorer recognises more originals, beyond doubt and guessing.

    ``outputs`` are its logits (N, outputs), ``others`` those by the name of another way; ``index`` is the output of
    each label.
    """
    before = outputs[:, index].argmax(axis=1) == labels
    best = {name: logits[:, index].argmax(axis=1) for name, logits in others.items()}
    name, chosen = max(best.items(), key=lambda item: (item[1] == labels).sum())
    after = chosen == labels
    if _is_chance(chosen, labels, len(index)):
        return []
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    if gained - lost < 0.1 * len(labels) or bdtr(lost, gained + lost, 0.5) * len(others) > ALPHA:
        return []
    return [f"{scorer} recognises {before.mean():.0%} of {len(labels)} original images as it prepares them, and "
            f"{after.mean():.0%} with {name}; give the transform that it was trained with (params/scorers.md)"]
