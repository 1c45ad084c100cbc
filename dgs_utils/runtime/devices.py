"""Where and how numbers are computed: device and precision by name."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from warnings import warn

import torch
from torch import Tensor, nn

TF32 = "DGS_TF32"  # environment variable, the one switch
ALIGNMENT = 8  # bytes of the largest number that is sent


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; "auto" is the first CUDA GPU, or the CPU where there is none.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but this machine shows no CUDA GPU; use device 'auto' or 'cpu'")
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Return a context that computes in ``precision`` ("fp32" or "bf16") and keeps parameters as they are.

    On a GPU fp32 stands for TF32, as in the published experiments, unless ``DGS_TF32=off`` is in the environment; what
    stays fp32 beside bf16, such as a last layer, is computed exactly. A warning says where
    a CPU has no instructions for bf16, as most have not.
    """
    if device.type == "cuda":
        _allow_tf32(precision == "fp32" and os.environ.get(TF32, "on") != "off")
        torch.backends.cudnn.benchmark = True  # shapes stay the same, so the search for the fastest kernel pays
    if precision == "fp32":
        return nullcontext()
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        warn("this processor has no instructions for bf16, which takes many times as long on it as fp32; set precision "
             "to fp32, or use a GPU", stacklevel=2)
    return torch.autocast(device.type, dtype=torch.bfloat16)


def memory_format(network: nn.Module) -> torch.memory_format:
    """Return the memory format in which a network is fastest on a GPU: channels last, which its convolutions prefer.

    But group norm ("instance") returns them in the other layout, so that each norm would cost two conversions [B §7].
    """
    batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return torch.channels_last if batch_norm else torch.contiguous_format


def _allow_tf32(allowed: bool) -> None:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):  # since PyTorch 2.9
        matmul.fp32_precision = convolution.conv.fp32_precision = "tf32" if allowed else "ieee"
    else:
        matmul.allow_tf32 = convolution.allow_tf32 = allowed


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return a context that computes in the parameters' own precision, also inside `autocast`."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def store_matrices(module: nn.Module, precision: str) -> None:
    """Store what linear layers and convolutions multiply by in ``precision``, in place, for a model at inference.

    `autocast` rounds matrices to bf16 at every call where they are frozen, where the call is compiled, and where
    another thread has left an autocast meanwhile. Rounded beforehand they take half the memory, with equal results.
    """
    if precision == "bf16":
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.to(torch.bfloat16)


def side_stream(tensor: Tensor) -> AbstractContextManager:
    """Return a context in which a GPU works on a tensor beside what it does next, on a stream of its own.

    Made where the tensor is made, entered in the thread that works on it. On other devices it does nothing.
    """
    if tensor.device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(tensor.device)
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    tensor.record_stream(stream)  # so that its memory is not reused meanwhile
    return torch.cuda.stream(stream)


def to_device_packed(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors from the CPU to a device in one transfer, which a GPU does not make the host wait for.

    Each copy that a GPU is asked for costs some ten microseconds, whatever its size, and halts the host unless it comes
    from pinned memory. On the CPU the tensors stay as they are.
    """
    if device.type == "cpu" or not tensors:
        return list(tensors)
    ends, total = [], 0
    for tensor in tensors:
        total += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        ends.append(total)
    packed = torch.empty(total, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, view in zip(tensors, _unpack(packed, tensors, ends), strict=True):
        view.copy_(tensor)
    return _unpack(packed.to(device, non_blocking=True), tensors, ends)


def _unpack(packed: Tensor, tensors: Sequence[Tensor], ends: Sequence[int]) -> list[Tensor]:
    """Return the parts of a row of bytes that hold tensors of these types and shapes."""
    starts = [0, *ends[:-1]]
    return [packed[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(starts, tensors, strict=True)]
