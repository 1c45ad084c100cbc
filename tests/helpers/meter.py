"""What a GPU would be asked for, counted where there is none: the meta device stands for it.

Tensors on "meta" have shapes and types and no numbers. Whatever would bring numbers from a GPU to the host is counted
and answered with zeros, whatever would bring numbers there is counted too, and an operation on tensors of two devices
fails, as it would on a GPU.
"""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
READERS = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::equal",
           "aten::_linalg_check_errors", "aten::unique_consecutive"}  # the host waits for how many or which there are
TAKERS = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}  # accept indices on the CPU
MAKERS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)  # copy what Python holds


class Meter(TorchDispatchMode):
    """Counts inside a ``with`` block.

    Attributes:
        waits: how often the host waited for numbers of the device.
        copies: copies from the host to the device.
        kernels: operations on the device, views left out; about the kernels that eager PyTorch launches.
    """

    def __init__(self):
        super().__init__()
        self.counts = Counter()
        self.makers = _Makers(self.counts)

    waits = property(lambda self: self.counts["waits"])
    copies = property(lambda self: self.counts["copies"])
    kernels = property(lambda self: self.counts["kernels"])

    def __enter__(self):
        self.makers.__enter__()
        return super().__enter__()

    def __exit__(self, *found):
        super().__exit__(*found)
        return self.makers.__exit__(*found)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if tensor.device == DEVICE]
        here = [tensor for tensor in tensors if tensor.device != DEVICE]
        target = kwargs.get("device")
        if name == "aten::to" and tensors:  # left whole in inference mode
            with _Parts(self):
                return func.decompose(*args, **kwargs)
        if name == "aten::_to_copy" and target is not None and tensors[0].device != torch.device(target):
            self.counts["waits" if there else "copies"] += 1
            return _blank(tensors[0], kwargs) if there else func(*args, **kwargs)
        if name == "aten::copy_" and there and here:
            self.counts["copies" if args[0].device == DEVICE else "waits"] += 1
            return func(*args, **kwargs) if args[0].device == DEVICE else args[0].zero_()
        if not there:
            return func(*args, **kwargs)
        if func._can_decompose():  # what inference mode leaves whole
            with _Parts(self):
                return func.decompose(*args, **kwargs)
        if name == "aten::_local_scalar_dense":
            self.counts["waits"] += 1
            return {torch.bool: False}.get(args[0].dtype, 0.0 if args[0].is_floating_point() else 0)
        if name in READERS:
            self.counts["waits"] += 1
        if name in TAKERS:
            indices = [index for index in args[1] if index is not None]
            assert not any(index.dtype == torch.bool for index in indices), f"{name} waits to count a mask's images"
            self.counts["copies"] += sum(index.device != DEVICE for index in indices)
            self.counts["waits"] += sum(index.device != DEVICE for index in indices)
            here = [tensor for tensor in here if not any(tensor is index for index in indices)]
        strangers = [tensor for tensor in here if tensor.dim()]
        assert not strangers, f"{name} meets a tensor {tuple(strangers[0].shape)} on the CPU with one on the device"
        view = any(out.alias_info and not out.alias_info.is_write for out in func._schema.returns)
        self.counts["kernels"] += not view
        return func(*args, **kwargs)


class _Parts(TorchDispatchMode):
    """Hands the parts of an operation to a meter."""

    def __init__(self, meter: Meter):
        super().__init__()
        self.meter = meter

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.meter.__torch_dispatch__(func, types, args, kwargs)


class _Makers(TorchFunctionMode):
    def __init__(self, counts: Counter):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func in MAKERS and made.device == DEVICE:
            self.counts["copies"] += 1
        return made


def _blank(tensor: torch.Tensor, kwargs: dict) -> torch.Tensor:
    return torch.zeros(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype)
