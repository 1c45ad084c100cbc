"""Whether a network is compiled (`torch.compile`) before it is used: one switch, with one meaning in every stage."""

import math
import warnings
from collections.abc import Callable
from functools import cache

import torch

SWITCH = ("auto", "on", "off")


def compiles(switch: str, device: torch.device, calls: int, least: float, least_on_cpu: float = math.inf,
             warn: Callable[[str], None] = warnings.warn) -> bool:
    """Return whether to compile a network first.

    Args:
        switch: "on", "off", or "auto", which compiles where what is saved on the calls ahead outweighs the compiling.
        device: where the network runs.
        calls: evaluations, or steps of training, ahead.
        least: from how many on compiling pays on a GPU.
        least_on_cpu: the same on a CPU; never, unless it is given.
        warn: takes a sentence where the network should be compiled and cannot be on this machine.

    Raises:
        ValueError: another switch.
    """
    if switch not in SWITCH:
        raise ValueError(f"compile is {switch!r}; choose {', '.join(SWITCH[:-1])} or {SWITCH[-1]}")
    wanted = switch == "on" or (switch == "auto" and calls >= (least if device.type == "cuda" else least_on_cpu))
    if wanted and (reason := lacks(device)):
        warn(f"compile is {switch!r}, but this machine cannot compile for {device.type} ({reason}), so networks run as "
             f"they are; install a C++ compiler such as g++, or set compile to 'off'")
        return False
    return wanted


@cache
def lacks(device: torch.device) -> str:
    """Return why `torch.compile` does not work on this machine, found out by compiling next to nothing; "" if it does.

    It needs a C++ compiler for a CPU, and for a GPU a C compiler and Triton, which PyTorch does not always bring along.
    """
    try:
        torch.compile(torch.neg, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # PyTorch, Triton and the compiler have errors of their own
        return str(error).strip().partition("\n")[0]
    return ""
