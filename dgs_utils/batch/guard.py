"""Run a command so that nothing of it is left when the process that started this ends.

A scheduler starts shells, which start runners, which start kernels. This module, run as a program in a session of its
own, passes interrupts on to all of them, and takes the death of its parent for one.
"""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PATIENCE = 20  # seconds between asking and killing


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the system signal this process when the one that started it ends, however that happens.

    Outside Linux, ipykernel's own check, once a second, has to do.

    Args:
        parent: process id of the one that started it; if it has ended already, this process ends at once.
        number: the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)


def main(parent: int, command: list[str]) -> int:
    """Run a command and return its exit status; on SIGINT or SIGTERM end it with all that it started."""
    process = None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    die_with_parent(parent, signal.SIGTERM)
    try:
        process = subprocess.Popen(command)
        return process.wait()
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # this process is in the group too
        os.killpg(0, signal.SIGINT)
        if process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
