"""The minimax criteria of representativeness and diversity (Eqs. 3–4) as the published code computes them [F §4]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgs_utils.runtime.devices import to_device_packed


class Memory:
    """The last ``size`` vectors of each class, first in first out, in preallocated rings."""

    def __init__(self, size: int):
        self.size = size
        self.rings: dict[int, Tensor] = {}
        self.written: dict[int, int] = {}

    def push(self, label: int, vectors: Tensor) -> None:
        """Add vectors (n, D), oldest first."""
        vectors = vectors.detach()[-self.size:]
        if label not in self.rings:
            self.rings[label] = vectors.new_zeros(self.size, vectors.shape[1])
        ring = self.rings[label]
        start = self.written.get(label, 0)
        indices = torch.arange(start, start + len(vectors), device=vectors.device) % self.size
        ring[indices] = vectors
        self.written[label] = start + len(vectors)

    def get(self, label: int) -> Tensor:
        """Return a class's vectors (≤ size, D) in no particular order; (0, 0) if it has none."""
        if label not in self.rings:
            return torch.empty(0, 0)
        return self.rings[label][: min(self.written[label], self.size)]

    def ordered(self, label: int) -> Tensor:
        """Return a class's vectors, oldest first."""
        vectors = self.get(label)
        return vectors.roll(-(self.written[label] % self.size), 0) if len(vectors) == self.size else vectors

    def state_dict(self) -> dict[str, Tensor]:
        """Return the content as tensors, for checkpoints."""
        rings = {f"ring.{label}": ring.clone() for label, ring in self.rings.items()}
        return rings | {f"written.{label}": torch.tensor(count) for label, count in self.written.items()}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device | str) -> None:
        """Restore what `state_dict` returned, on a device."""
        parts = [(name.split("."), tensor) for name, tensor in state.items()]
        self.rings = {int(label): tensor.to(device, copy=True) for (kind, label), tensor in parts if kind == "ring"}
        self.written = {int(label): int(tensor) for (kind, label), tensor in parts if kind == "written"}


class MinimaxCriterion:
    """Losses that pull predicted latents towards the real ones and apart from each other.

    Args:
        memory_size: vectors remembered per class, for real and for predicted latents each.
        weight_representative, weight_diverse: λ of the two terms.
    """

    def __init__(self, memory_size: int = 64, weight_representative: float = 0.002, weight_diverse: float = 0.008):
        self.weight_representative, self.weight_diverse = weight_representative, weight_diverse
        self.real, self.predicted = Memory(memory_size), Memory(memory_size)

    def __call__(self, predicted: Tensor, latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both terms of a batch, then remember the batch.

        With U classes in the batch, and R, D the memories of class c:
        representative = λ/U · Σ_c (1 − min cos(x̂0, R)), diverse = λ/U · Σ_c max cos(x̂0, D), where min and max run over
        all pairs of a class's samples and its memory. A class without memory adds nothing but counts in U.

        Args:
            predicted: x̂0 (N, …) of the current noisy step, with gradient.
            latents: the real latents (N, …).
            labels: class of each sample (N,), int64, on the CPU (where counting classes does not halt a GPU).

        Returns:
            The two weighted losses, scalars.
        """
        predicted, latents = predicted.flatten(1).float(), latents.flatten(1).float()
        unique_labels, counts = labels.unique(return_counts=True)
        classes = unique_labels.tolist()
        # Class by class: masks would halt a GPU.
        [order] = to_device_packed([labels.argsort(stable=True)], predicted.device)
        predicted, latents = predicted[order].split(counts.tolist()), latents[order].split(counts.tolist())
        representative = diverse = predicted[0].new_zeros(())
        for label, samples in zip(classes, predicted, strict=True):
            members = F.normalize(samples, dim=1, eps=0)
            real, past = self.real.get(label), self.predicted.get(label)
            if len(real):
                representative = representative + 1 - (members @ F.normalize(real, dim=1, eps=0).T).min()
                diverse = diverse + (members @ F.normalize(past, dim=1, eps=0).T).max()
        for label, real, samples in zip(classes, latents, predicted, strict=True):
            self.real.push(label, real)
            self.predicted.push(label, samples)
        scale = 1 / len(classes)
        return self.weight_representative * scale * representative, self.weight_diverse * scale * diverse

    def state_dict(self) -> dict[str, Tensor]:
        """Return both memories as tensors, for checkpoints."""
        return {f"{kind}.{name}": tensor for kind, memory in (("real", self.real), ("predicted", self.predicted))
                for name, tensor in memory.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Restore what `state_dict` returned, on a device."""
        for kind, memory in (("real", self.real), ("predicted", self.predicted)):
            own = {name: tensor for name, tensor in state.items() if name.startswith(f"{kind}.")}
            memory.load_state_dict({name.removeprefix(f"{kind}."): tensor for name, tensor in own.items()}, device)
