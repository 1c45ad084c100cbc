"""The evaluator: trainings on one set that differ in nothing but their seed, all by one network."""

import warnings
from collections.abc import Callable

from dgs_utils.artifacts.midway import Midway
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.training import ImageTensors, Outcome, Recipe, Teacher, train_classifier
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import torch_seeded


class Evaluator:
    """Trains a network on a set and tests it on another, as often as there are seeds.

    For each training it is made like new in place, so that what `torch.compile` made of it serves all of them, and a
    GPU's graphs find its weights where they were.

    Args:
        network: a name of `networks.NETWORKS`.
        train, test: images on the device to train on.
        recipe: see `training.Recipe`.
        classes: outputs.
        norm: "instance" or "batch".
        teacher: for protocols with soft labels.
        warn: see `training.train_classifier`.
    """

    def __init__(self, network: str, train: ImageTensors, test: ImageTensors, recipe: Recipe, classes: int,
                 norm: str = "instance", teacher: Teacher | None = None, warn: Callable[[str], None] = warnings.warn):
        self.train_set, self.test_set, self.recipe, self.teacher, self.warn = train, test, recipe, teacher, warn
        self.form = (network, classes, train.images.shape[-1], norm)
        with torch_seeded("overwritten"):
            self.network = build_network(*self.form).to(train.images.device)

    def train(self, seed: int, progress: Callable = silent, midway: Midway | None = None) -> Outcome:
        """Train once; torch's global random state stays as it is.

        Args:
            seed: names the initial weights and every draw.
            progress: wraps the epochs.
            midway: keeps the state of the training, and has the one to go on from, if any.
        """
        with torch_seeded("evaluate", "weights", seed):
            fresh = build_network(*self.form)
        self.network.load_state_dict(fresh.state_dict())
        return train_classifier(self.network, self.train_set, self.test_set, self.recipe, seed, progress, self.teacher,
                                midway=midway, warn=self.warn)
