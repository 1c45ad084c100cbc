"""How a process handles its memory while it trains or samples on the CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the tensors to come, instead of giving it back to the system.

    Each training step frees tensors and allocates others of the same sizes. Where their pages go back to the system,
    they must be mapped and cleared anew, which takes 15 to 40 % of a step of small networks on the CPU.

    Returns:
        Whether the C library can do so: true of glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
