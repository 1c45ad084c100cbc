"""What a rule of selection is given, and the register of rules.

A rule is a function ``(candidates, ipc) -> indices`` of one class. To add one, write the function under
``@selector("its_name")`` in a module that `dgs_utils.selection.selectors` imports, and give it a row of
`dgs_utils.methods.RULES`: experiment files, notebook 05 and the tables then know it.

    @selector("near_half")
    def near_half(candidates, ipc):
        return np.argsort(np.abs(candidates.scores - 0.5), kind="stable")[:ipc]

A rule that has to see all classes at once (S3) is registered with ``whole_set=True``: it takes the list of candidates,
one entry a class, and returns a list of index arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

Array = np.ndarray | Any  # None only where the rule's row of `dgs_utils.methods.RULES` does not ask for it
PER_IMAGE = ("scores", "confidence", "correct", "features", "mean_probability")


@dataclass(frozen=True)
class Candidates:
    """The images of one class that a selector may choose from, in natural order of their file names.

    What a rule does not look at (`dgs_utils.methods.Rule`) is None.

    Attributes:
        name: class name.
        size: number of images N.
        rng: `numpy.random.Generator` named after selection seed, method and class: the only source of chance.
        scores: shape (N,), in [0, 1], 0 the easiest: transformed where the rule follows a target, as measured else.
        confidence: shape (N,), the judge's largest probability.
        correct: shape (N,), bool, whether the judge's first choice is the class.
        counts: shape (bins,), target images per bin of ``scores``; for rules with a target.
        quantiles: shape (ipc,), target difficulties, ascending; for rules with a target.
        features: shape (N, D), of the judge or of another classifier.
        mean_probability: shape (N,), the mean over a training of the probability of the class; with dynamics.
        real_features: shape (M, D), of real images of the class; for rules that see the whole set.
    """

    name: str
    size: int
    rng: np.random.Generator
    scores: Array = None
    confidence: Array = None
    correct: Array = None
    counts: Array = None
    quantiles: Array = None
    features: Array = None
    mean_probability: Array = None
    real_features: Array = None

    def only(self, kept: np.ndarray) -> "Candidates":
        """Return the candidates at some indices, in that order; chance comes from the same rng."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name in PER_IMAGE}
        parts = {name: values[kept] for name, values in held.items() if values is not None}
        return replace(self, size=len(kept), **parts)


@dataclass(frozen=True)
class Selector:
    """A registered rule: its function, whether it works on all classes at once, and the share that it cuts itself."""

    function: Callable
    whole_set: bool = False
    cut: float = 0.0


SELECTORS: dict[str, Selector] = {}


def selector(name: str, whole_set: bool = False, cut: float = 0.0) -> Callable:
    """Register the decorated function as a rule.

    Args:
        name: what experiment files call it.
        whole_set: it takes all classes at once.
        cut: share of the hardest candidates that its definition removes first.
    """
    def register(function: Callable) -> Callable:
        SELECTORS[name] = Selector(function, whole_set, cut)
        return function
    return register
