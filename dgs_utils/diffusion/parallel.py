"""Several processes, one GPU each, that train as one.

Every process draws the whole batch from the same named generators, sends its own part through the network, and gets
the others' results. Losses, memories, gradients and therefore weights are then those of a single process, up to the
order of summation. Processes find each other through accelerate, whichever launcher started them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """The processes that train together; one alone gets its own tensors back, untouched.

    Attributes:
        index: this process, from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.index == 0

    def part(self, n: int) -> slice:
        """Return this process's rows of a batch of ``n``."""
        return slice(n * self.index // self.count, n * (self.index + 1) // self.count)

    def gather(self, own: Tensor, n: int) -> Tensor:
        """Return all ``n`` rows of a batch, from this process's own; gradients flow into these alone."""
        if self.count == 1:
            return own
        part, rows = self.part(n), own.new_zeros(n, *own.shape[1:])
        rows[part] = own.detach()
        rows = reduce(rows, "sum")
        return torch.cat([rows[: part.start], own, rows[part.stop:]])

    def add_gradients(self, parameters: Sequence[Tensor], flag: bool) -> bool:
        """Replace gradients by their sums over all processes; return whether any process raised its flag."""
        if self.count == 1:
            return flag
        gradients = [parameter.grad for parameter in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients] + [gradients[0].new_tensor([float(flag)])])
        *sums, flags = reduce(flat, "sum").split([gradient.numel() for gradient in gradients] + [1])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))
        return bool(flags.item())


ALONE = Group()


def join(device: str = "auto") -> tuple[Group, str]:
    """Join the processes that a launcher (accelerate's or torchrun) started together.

    Args:
        device: "cpu" keeps off the GPUs; otherwise each process takes the GPU of its rank, where there are any.

    Returns:
        The group, `ALONE` without a launcher, and the name of this process's device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, device
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    return Group(state.process_index, state.num_processes), str(state.device)
