"""What a scorer's probabilities are taken over: all its outputs, or those of the task's classes, at a temperature."""

from dataclasses import dataclass

import numpy as np

from dgs_utils.params.types import Over


@dataclass(frozen=True)
class Softmax:
    """The outputs and the temperature that a scorer's probabilities are taken at.

    >>> softmax = Softmax(np.array([2, 0]), "task")
    >>> logits = np.array([[0.5, 9.0, 2.0]])
    >>> softmax.logits(logits), softmax.targets(np.array([1])), softmax.predictions(logits)
    (array([[2. , 0.5]]), array([1]), array([2]))
    """

    outputs: np.ndarray  # int array (labels,), the scorer's output of each label of the task
    over: Over = "all"  # "all" outputs of the scorer (Eq. 6, as published), or those of the "task".
    temperature: float = 1.0  # that logits are divided by, > 0

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Return what softmax is taken of, (N, K), of a scorer's outputs (N, all)."""
        columns = outputs[:, self.outputs] if self.over == "task" else outputs
        return columns / self.temperature

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Return the columns of `logits` that are the images' own, (N,), of their labels."""
        return labels if self.over == "task" else self.outputs[labels]

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return which output of the scorer each image is taken for, (N,)."""
        columns = self.logits(outputs).argmax(axis=1)
        return self.outputs[columns].astype(int) if self.over == "task" else columns
