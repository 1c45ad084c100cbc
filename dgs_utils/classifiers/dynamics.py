"""Training dynamics: what a scorer predicted for each image after every epoch of its training, and scores from that
[B §5].

After each epoch one forward pass over all images, unaugmented, gives three numbers an image: the probability of its
class, the largest other one, and the error norm ‖p − one-hot‖₂. Scores are scaled to [0, 1] by the most that an epoch,
or a window of epochs, can reach, so that an image's score depends on no other image.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from safetensors import safe_open
from safetensors.numpy import save_file

from dgs_utils.classifiers.measures import all_measures, probabilities
from dgs_utils.methods import DYNAMICS_WINDOW
from dgs_utils.store.partial_results import write_verified

DYNAMICS_FILE = "dynamics.safetensors"
ARRAYS = ("own", "runner_up", "error")  # names in the file of `Dynamics`' fields
DUAL_MAX = 3 * 3**0.5 / 16  # of std · (1 − mean), where a quarter of the window's probabilities is 1 and the others 0


class Dynamics(NamedTuple):
    """Training dynamics of scorers: float16 arrays of shape (scorers, epochs, images)."""

    p_true: np.ndarray  # probability of the image's class
    p_second: np.ndarray  # the largest other one; the image is recognised if it is smaller than ``p_true``
    error: np.ndarray  # ‖p − one-hot‖₂ / √2

    def of_images(self, indices: np.ndarray) -> "Dynamics":
        """Return those of some images."""
        return Dynamics(*(array[..., indices] for array in self))

    def of_scorers(self, scorers: np.ndarray) -> "Dynamics":
        """Return those of one scorer for each image, (1, epochs, images); ``scorers`` has shape (images,)."""
        return Dynamics(*(array[scorers, :, np.arange(len(scorers))].T[None] for array in self))


def dynamics_of_epoch(logits: ArrayLike, target: ArrayLike) -> Dynamics:
    """Return the dynamics of one scorer after one epoch, arrays of shape (1, 1, N), of logits and targets as
    `measures.difficulty_scores` takes them.
    """
    p, target = probabilities(logits, target, from_="logits")
    p_true = np.take_along_axis(p, target[:, None], axis=1)[:, 0]
    np.put_along_axis(p, target[:, None], -1, axis=1)
    values = p_true, p.max(axis=1), all_measures(logits, target, from_="logits")["el2n"]
    return Dynamics(*(array.astype(np.float16)[None, None] for array in values))


def concatenate(parts: Sequence[Dynamics], axis: int) -> Dynamics:
    """Return dynamics concatenated along scorers (0), epochs (1) or images (2)."""
    return Dynamics(*(np.concatenate(arrays, axis=axis) for arrays in zip(*parts, strict=True)))


# ---- Scores ----------------------------------------------------------------------------------------------------------

def dynamics_scores(dynamics: Dynamics) -> dict[str, np.ndarray]:
    """Return all scores from training dynamics, by name, each the mean over the scorers: float64 (N,) in [0, 1].

    With p the probability of the class after an epoch, q the largest other one, and windows of 10 epochs:

    * aum: (1 − m) / 2, m the mean of p − q (area under the margin; Pleiss et al., 2020);
    * forgetting: epochs after which a recognised image is no longer recognised, over the most there can be (Toneva et
      al., 2019);
    * dyn_unc: the mean over windows of the standard deviation of p, over ½ (He et al., 2024);
    * dual: the mean over windows of that times 1 − the mean of p, over 3√3/16 (Cho et al., 2025);
    * el2n_early: the mean of ‖p − one-hot‖₂ / √2 over the first 10 epochs (Paul et al., 2021);
    * mean_probability: the mean of p, no difficulty but the weights of DUAL's draw.

    Raises:
        ValueError: fewer than 10 epochs.
    """
    epochs = dynamics.p_true.shape[1]
    if epochs < DYNAMICS_WINDOW:
        raise ValueError(f"the training dynamics have {epochs} epochs, and scores need windows of {DYNAMICS_WINDOW}; "
                         f"raise prepare.classifier_epochs to {DYNAMICS_WINDOW} or more")
    each = [_scores_of_scorer(*(array[scorer].astype(np.float64) for array in dynamics))
            for scorer in range(len(dynamics.p_true))]
    return {name: np.mean([scores[name] for scores in each], axis=0) for name in each[0]}


def _scores_of_scorer(p_true: np.ndarray, p_second: np.ndarray, error: np.ndarray) -> dict[str, np.ndarray]:
    """Return one scorer's scores; arguments have shape (epochs, images)."""
    recognised = p_true > p_second
    forgotten = (recognised[:-1] & ~recognised[1:]).sum(axis=0)
    uncertain, dual = np.zeros(p_true.shape[1]), np.zeros(p_true.shape[1])
    windows = len(p_true) - DYNAMICS_WINDOW + 1
    for start in range(windows):  # one at a time, to save memory
        window = p_true[start : start + DYNAMICS_WINDOW]
        deviation = window.std(axis=0)
        uncertain += deviation / windows
        dual += deviation * (1 - window.mean(axis=0)) / windows
    scores = {"aum": (1 - (p_true - p_second).mean(axis=0)) / 2, "forgetting": forgotten / (len(p_true) // 2),
              "dyn_unc": 2 * uncertain, "dual": dual / DUAL_MAX, "el2n_early": error[:DYNAMICS_WINDOW].mean(axis=0),
              "mean_probability": p_true.mean(axis=0)}
    return {name: np.clip(values, 0, 1) for name, values in scores.items()}


# ---- Files -----------------------------------------------------------------------------------------------------------

def snapshot_path(prepare: Path, scorer: str, epoch: int) -> Path:
    """Return the file in a 00 folder with a scorer's weights ("classifier", "folds/0", …) after an epoch, from 1."""
    return prepare / "snapshots" / scorer / f"{epoch}.safetensors"


def write_dynamics(path: Path, dynamics: Dynamics, names: Sequence[str] = ()) -> None:
    """Write dynamics as safetensors, with the names of the images, in their order, as ``file_name`` (JSON)."""
    arrays = {name: np.ascontiguousarray(array) for name, array in zip(ARRAYS, dynamics, strict=True)}
    with write_verified(path) as partial:
        save_file(arrays, partial, metadata={"file_name": json.dumps(list(names))})


def read_dynamics(path: Path) -> tuple[Dynamics, list[str]]:
    """Return the dynamics of a file that `write_dynamics` wrote, and the names of the images."""
    try:
        with safe_open(path, framework="numpy") as file:
            return Dynamics(*map(file.get_tensor, ARRAYS)), json.loads(file.metadata()["file_name"])
    except Exception as error:  # the reader has an error class of its own for every fault
        raise ValueError(f"{path} holds no training dynamics ({error}); make it anew by running its stage "
                         f"again") from None


def reorder_images(wanted: Sequence[str], dynamics: Dynamics, names: Sequence[str], path: Path) -> Dynamics:
    """Return the dynamics of the ``wanted`` images, in their order, of those of ``names``, or raise ValueError."""
    indices = {name: index for index, name in enumerate(names)}
    missing = [name for name in wanted if name not in indices]
    if missing:
        raise ValueError(f"{path} has no training dynamics of {missing[0]}; run that stage again")
    return dynamics.of_images(np.array([indices[name] for name in wanted], dtype=np.int64))
