"""Training dynamics: what a judge said of each image after every epoch of its training, and scores from that [B §5].

After each epoch one forward pass over all images, unaugmented, tells three numbers an image: the probability of its
class, the largest other one, and the error norm ‖p − one-hot‖₂. Scores are mapped onto [0, 1] by what an epoch, or a
window of epochs, can reach at the most, so that an image's score depends on no other image.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from safetensors import safe_open
from safetensors.numpy import save_file

from dgs_utils.artifacts.parts import kept
from dgs_utils.methods import WINDOW
from dgs_utils.selection.measures import all_measures, probabilities

FILE = "dynamics.safetensors"
DUAL_MOST = 3 * 3**0.5 / 16  # of std · (1 − mean), where a quarter of the window's probabilities is 1 and the others 0


class Dynamics(NamedTuple):
    """What judges said of images while they were trained: float16 arrays of shape (judges, epochs, images).

    Attributes:
        own: probability of the image's class.
        runner_up: the largest other probability; the image is recognised where it is smaller than ``own``.
        error: ‖p − one-hot‖₂ / √2.
    """

    own: np.ndarray
    runner_up: np.ndarray
    error: np.ndarray

    def of(self, images: np.ndarray) -> "Dynamics":
        """Return those of some images, by place."""
        return Dynamics(*(array[..., images] for array in self))

    def by(self, judge: np.ndarray) -> "Dynamics":
        """Return what one judge said of each image: shape (1, epochs, images); ``judge`` has shape (images,)."""
        return Dynamics(*(array[judge, :, np.arange(len(judge))].T[None] for array in self))


def observe(logits: ArrayLike, target: ArrayLike) -> Dynamics:
    """Return what one judge says of N images at one moment: arrays of shape (1, 1, N).

    Args:
        logits: shape (N, classes); NumPy or torch, any float type.
        target: index of the true class among the logits: one for all, or shape (N,).

    Raises:
        ValueError: logits that are not finite, or a target out of range.
    """
    p, target = probabilities(logits, target)
    own = np.take_along_axis(p, target[:, None], axis=1)[:, 0]
    np.put_along_axis(p, target[:, None], -1, axis=1)
    found = own, p.max(axis=1), all_measures(logits, target)["el2n"]
    return Dynamics(*(values.astype(np.float16)[None, None] for values in found))


def joined(parts: Sequence[Dynamics], axis: int) -> Dynamics:
    """Return dynamics put together along judges (0), epochs (1) or images (2)."""
    return Dynamics(*(np.concatenate(arrays, axis=axis) for arrays in zip(*parts, strict=True)))


# ---- Scores ----------------------------------------------------------------------------------------------------------

def dynamics_scores(dynamics: Dynamics) -> dict[str, np.ndarray]:
    """Return all scores from training dynamics, by name, each the mean over the judges: float64 (N,) in [0, 1].

    With p the probability of the class after an epoch, q the largest other one, and windows of 10 epochs:

    * aum: (1 − m) / 2, m the mean of p − q (area under the margin; Pleiss et al., 2020);
    * forgetting: epochs after which a recognised image is no longer recognised, over the most there can be (Toneva et
      al., 2019);
    * dyn_unc: the mean over windows of the standard deviation of p, over ½ (He et al., 2024);
    * dual: the mean over windows of that times 1 − the mean of p, over 3√3/16 (Cho et al., 2025);
    * el2n_early: the mean of ‖p − one-hot‖₂ / √2 over the first 10 epochs (Paul et al., 2021);
    * mean_probability: the mean of p, no difficulty but what DUAL's draw goes by.

    Raises:
        ValueError: fewer than 10 epochs.
    """
    epochs = dynamics.own.shape[1]
    if epochs < WINDOW:
        raise ValueError(f"the training dynamics have {epochs} epochs, and scores look at windows of {WINDOW}; raise "
                         f"prepare.classifier_epochs to {WINDOW} or more")
    found = [_of_one(*(array[judge].astype(np.float64) for array in dynamics)) for judge in range(len(dynamics.own))]
    return {name: np.mean([scores[name] for scores in found], axis=0) for name in found[0]}


def _of_one(own: np.ndarray, runner_up: np.ndarray, error: np.ndarray) -> dict[str, np.ndarray]:
    """Return one judge's scores; arguments have shape (epochs, images)."""
    recognised = own > runner_up
    forgotten = (recognised[:-1] & ~recognised[1:]).sum(axis=0)
    uncertain, dual = np.zeros(own.shape[1]), np.zeros(own.shape[1])
    windows = len(own) - WINDOW + 1
    for start in range(windows):  # one after the other, for the sake of memory
        window = own[start : start + WINDOW]
        deviation = window.std(axis=0)
        uncertain += deviation / windows
        dual += deviation * (1 - window.mean(axis=0)) / windows
    found = {"aum": (1 - (own - runner_up).mean(axis=0)) / 2, "forgetting": forgotten / (len(own) // 2),
             "dyn_unc": 2 * uncertain, "dual": dual / DUAL_MOST, "el2n_early": error[:WINDOW].mean(axis=0),
             "mean_probability": own.mean(axis=0)}
    return {name: np.clip(values, 0, 1) for name, values in found.items()}


# ---- Files -----------------------------------------------------------------------------------------------------------

def snapshot_of(prepare: Path, judge: str, epoch: int) -> Path:
    """Return where a 00 folder keeps the weights of a judge ("classifier", "folds/0", …) after an epoch, from 1."""
    return prepare / "snapshots" / judge / f"{epoch}.safetensors"


def write_dynamics(path: Path, dynamics: Dynamics, names: Sequence[str] = ()) -> None:
    """Write dynamics as safetensors, with the names of the images, in their order, as ``file_name`` (JSON)."""
    arrays = {name: np.ascontiguousarray(array) for name, array in dynamics._asdict().items()}
    with kept(path) as partial:
        save_file(arrays, partial, metadata={"file_name": json.dumps(list(names))})


def read_dynamics(path: Path) -> tuple[Dynamics, list[str]]:
    """Return the dynamics of a file that `write_dynamics` wrote, and the names of the images.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return Dynamics(*map(file.get_tensor, Dynamics._fields)), json.loads(file.metadata()["file_name"])
    except Exception as error:  # the reader has an error class of its own for every fault
        raise ValueError(f"{path} holds no training dynamics ({error}); make it anew by running its stage "
                         f"again") from None


def in_order_of(names: Sequence[str], dynamics: Dynamics, known: Sequence[str], where: Path) -> Dynamics:
    """Return dynamics of the images called ``names``, in that order, out of those of the images called ``known``.

    Raises:
        ValueError: an image is not among them.
    """
    places = {name: place for place, name in enumerate(known)}
    missing = [name for name in names if name not in places]
    if missing:
        raise ValueError(f"{where} has no training dynamics of {missing[0]}; run that stage again")
    return dynamics.of(np.array([places[name] for name in names], dtype=np.int64))
