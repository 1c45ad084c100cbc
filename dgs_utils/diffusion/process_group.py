"""Several processes, one GPU each, that train as one.

Every process draws the whole batch from the same named generators, sends its own rows through the network, and gets
the others' results. Losses, memories, gradients and weights are those of a single process, up to the order of
summation. accelerate connects the processes, whichever launcher started them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together; a single one gets its own tensors back, untouched.

    >>> ProcessGroup(index=1, count=3).rows(10)
    slice(3, 6, None)
    """

    index: int = 0  # this process, from 0
    count: int = 1  # of the processes

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.index == 0

    def rows(self, n: int) -> slice:
        """Return this process's rows of a batch of ``n``."""
        return slice(n * self.index // self.count, n * (self.index + 1) // self.count)

    def gather_rows(self, own: Tensor, n: int) -> Tensor:
        """Return all ``n`` rows of a batch, from this process's own; gradients flow into these alone."""
        if self.count == 1:
            return own
        rows, gathered = self.rows(n), own.new_zeros(n, *own.shape[1:])
        gathered[rows] = own.detach()
        gathered = reduce(gathered, "sum")
        return torch.cat([gathered[: rows.start], own, gathered[rows.stop:]])

    def sum_gradients(self, parameters: Sequence[Tensor], flag: bool) -> bool:
        """Replace gradients by their sums over all processes; return whether any process raised its flag."""
        if self.count == 1:
            return flag
        gradients = [parameter.grad for parameter in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients] + [gradients[0].new_tensor([float(flag)])])
        *sums, flags = reduce(flat, "sum").split([gradient.numel() for gradient in gradients] + [1])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))
        return bool(flags.item())


SINGLE_PROCESS = ProcessGroup()


def join_group(device: str = "auto") -> tuple[ProcessGroup, str]:
    """Return the processes that a launcher (accelerate's or torchrun) started together, and this process's device.

    Without a launcher these are `SINGLE_PROCESS` and ``device`` as it is; else the GPU of this process's rank, if there
    are any and ``device`` is not "cpu", which keeps off the GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE_PROCESS, device
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    return ProcessGroup(state.process_index, state.num_processes), str(state.device)
