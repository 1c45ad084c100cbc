"""How a result was made: commit, versions, device, memory."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from dgs_utils.store.code_fingerprint import PACKAGE

PACKAGES = ("torch", "torchvision", "diffusers", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


def git_commit() -> str:
    """Return the package's commit, twelve hex digits, with ``-dirty`` where files differ from it; "" outside git."""
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Return the versions of Python, of this kit and of the packages that decide numbers; "" where one is missing."""
    installed = {"python": platform.python_version()}
    for package in ("dgs-utils", *PACKAGES):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = ""
    return installed


def device_name(name: str) -> str:
    """Return the name of the GPU that a device called "auto", "cuda" … uses; else the processor and its cores."""
    torch = sys.modules.get("torch")
    if torch is not None and name != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def peak_memory() -> dict[str, int]:
    """Return the process's peak memory and the GPU allocator's, in MiB."""
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS, KiB elsewhere
    peaks = {"cpu": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peaks["gpu"] = torch.cuda.max_memory_allocated() // 2**20
    return peaks
