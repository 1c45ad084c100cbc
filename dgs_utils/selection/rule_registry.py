"""Selection rules: what they receive, and the registry of their functions.

A rule is a function ``(candidates, ipc) -> indices`` of one class. To add one, write the function under
``@selection_rule("its_name")`` in a module that `dgs_utils.selection.select` imports, and add its row to
`dgs_utils.methods.RULES`; experiment files, notebook 05 and the tables then accept it.

    @selection_rule("near_half")
    def near_half(candidates, ipc):
        return np.argsort(np.abs(candidates.scores - 0.5), kind="stable")[:ipc]

A rule of all classes at once (S3; ``whole_set`` in its row) takes the list of candidates, one entry a class, and
returns a list of index arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from dgs_utils.selection.permanent_numbers import smallest

Array = np.ndarray | Any  # None only where the rule's row of `dgs_utils.methods.RULES` does not ask for it
PER_IMAGE = ("keys", "scores", "confidence", "correct", "features", "mean_probability")
RULE_FUNCTIONS: dict[str, Callable] = {}


def selection_rule(name: str) -> Callable:
    """Register the decorated function as the rule of that name."""
    def register(function: Callable) -> Callable:
        RULE_FUNCTIONS[name] = function
        return function
    return register


@dataclass(frozen=True)
class Candidates:
    """The images of one class that a rule chooses from, in natural order of their file names.

    Fields that the rule does not use (`dgs_utils.methods.Rule`) are None.
    """

    name: str  # class name
    size: int  # number of images N
    # `numpy.random.Generator` named after selection seed and class, for chance that is not about images.
    rng: np.random.Generator
    # Shape (N,), a random number of each image (`permanent_numbers`), from which `draw` takes the smallest; None =
    # drawn from ``rng``.
    keys: Array = None
    scores: Array = None  # shape (N,), in [0, 1], 0 the easiest; transformed if the rule follows a target
    confidence: Array = None  # shape (N,), the scorer's largest probability
    correct: Array = None  # shape (N,), bool, whether the scorer predicts the class
    counts: Array = None  # shape (bins,), target images per bin of ``scores``; for rules with a target
    quantiles: Array = None  # shape (ipc,), target difficulties, ascending; for rules with a target
    reference: Array = None  # shape (M,), difficulties whose distribution the target is; for rules with a target
    features: Array = None  # shape (N, D), of the scorer or of another classifier
    mean_probability: Array = None  # shape (N,), mean probability of the class over a training; for training dynamics
    real_features: Array = None  # shape (M, D), of real images of the class; for rules of the whole set

    def __post_init__(self) -> None:
        if self.keys is None:
            object.__setattr__(self, "keys", self.rng.random(self.size))

    def draw(self, count: int, among: np.ndarray | None = None) -> np.ndarray:
        """Draw ``count`` of the images, or of those at some indices: those of smallest key, in that order."""
        return smallest(self.keys, np.arange(self.size) if among is None else among, count)

    def subset(self, indices: np.ndarray) -> "Candidates":
        """Return the candidates at some indices, in that order, with the same rng."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name in PER_IMAGE}
        return replace(self, size=len(indices), **{name: v[indices] for name, v in values.items() if v is not None})
