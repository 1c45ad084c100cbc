"""Whether a network is compiled (`torch.compile`) before it is used: one switch, with one meaning in every stage."""

import ctypes
import math
import os
import re
import shlex
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

COMPILE_MODES = ("auto", "on", "off")
COMPILE = "DGS_COMPILE"  # environment variable with the stages' switch


def compile_switch() -> str:
    """Return the switch that the environment sets for the stages: ``DGS_COMPILE``, or "auto" where it is empty."""
    return os.environ.get(COMPILE) or "auto"


def should_compile(switch: str, device: torch.device, calls: int, least: float, least_on_cpu: float = math.inf,
                   warn: Callable[[str], None] = warnings.warn, source: Path | None = None,
                   options: tuple[str, ...] = ()) -> bool:
    """Return whether to compile a network first.

    Args:
        switch: "on", "off", or "auto", which compiles where what is saved on the calls ahead outweighs the compiling.
        device: where the network runs.
        calls: evaluations, or steps of training, ahead.
        least: from how many on compiling pays on a GPU.
        least_on_cpu: the same on a CPU; never, unless it is given.
        warn: takes a sentence where the network should be compiled and cannot be on this machine.
        source, options: the C of the compiled network, as `compile_c` takes it; None = `torch.compile`.

    Raises:
        ValueError: another switch.
    """
    if switch not in COMPILE_MODES:
        raise ValueError(f"compile is {switch!r}; choose {', '.join(COMPILE_MODES[:-1])} or {COMPILE_MODES[-1]}")
    wanted = switch == "on" or (switch == "auto" and calls >= (least if device.type == "cuda" else least_on_cpu))
    if wanted and (reason := compile_unavailable_reason(device, source, *options)):
        warn(f"compile is {switch!r}, but this machine cannot compile for {device.type} ({reason}), so networks run as "
             f"they are; install a C++ compiler such as g++, or set compile to 'off'")
        return False
    return wanted


@cache
def compile_unavailable_reason(device: torch.device, source: Path | None = None, *options: str) -> str:
    """Return why `torch.compile`, or C, does not work on this machine, by compiling a tiny function; "" if it does.

    It needs a C++ compiler for a CPU, and for a GPU a C compiler and Triton, which PyTorch does not always bring along.
    """
    try:
        _ = compile_c(source, *options) if source else torch.compile(torch.neg, dynamic=False)(
            torch.zeros(8, device=device))
    except Exception as error:  # PyTorch, Triton and the compiler have errors of their own
        return str(error).strip().partition("\n")[0]
    return ""


@cache
def compile_c(source: Path, *options: str) -> ctypes.CDLL:
    """Compile a file of C for this processor and load it, in two seconds; raise OSError where that is impossible."""
    flags = ("-x", "c", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
        result = subprocess.run([*compiler, *flags, *options, "-o", str(library), str(source)], errors="replace",
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode:
            lines = [*filter(re.compile("error|fatal", re.IGNORECASE).search, result.stdout.splitlines()), ""]
            raise OSError(f"{compiler[0]} ended with status {result.returncode}: {lines[0]}".rstrip(": "))
        return ctypes.CDLL(str(library))
