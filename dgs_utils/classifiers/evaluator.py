"""The evaluator: trainings on one set that differ in their seed alone."""

import warnings
from collections.abc import Callable

from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.recipes import Recipe
from dgs_utils.classifiers.soft_labels import SoftLabels, Teacher
from dgs_utils.classifiers.training import Outcome, train_classifier
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.store.checkpoint import Checkpointer


class Evaluator:
    """Trains a network on a set and tests it on another, once a seed.

    Each training resets the network's weights in place, so that its compiled steps and CUDA graphs serve all of them.
    Images are on the device to train on; the others are as in `networks.build_network` and `training.train_classifier`.
    """

    def __init__(self, network: str, train: ImageTensors, test: ImageTensors, recipe: Recipe, classes: int,
                 norm: str = "instance", teacher: Teacher | SoftLabels | None = None,
                 warn: Callable[[str], None] = warnings.warn):
        self.train_set, self.test_set, self.recipe, self.teacher, self.warn = train, test, recipe, teacher, warn
        self.network_args = (network, classes, train.images.shape[-1], norm)
        with torch_seeded("overwritten"):
            self.network = build_network(*self.network_args).to(train.images.device)

    def train(self, seed: int, progress: Callable = no_progress, checkpointer: Checkpointer | None = None) -> Outcome:
        """Train once, by `training.train_classifier`; the seed names the initial weights, too. torch's global random
        state stays as it is.
        """
        with torch_seeded("evaluate", "weights", seed):
            fresh = build_network(*self.network_args)
        self.network.load_state_dict(fresh.state_dict())
        return train_classifier(self.network, self.train_set, self.test_set, self.recipe, seed, progress, self.teacher,
                                checkpointer=checkpointer, warn=self.warn)
