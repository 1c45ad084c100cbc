"""Where and how numbers are computed: device and precision by name."""

from contextlib import AbstractContextManager, nullcontext

import torch


def resolve(name: str = "auto") -> torch.device:
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
    """Return a context that computes in ``precision`` ("fp32" or "bf16") and keeps parameters as they are."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
