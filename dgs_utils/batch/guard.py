"""Run a command so that nothing of it is left when the process that started this ends.

A scheduler starts shells, which start runners, which start kernels. This module, run as a program in a session of its
own, passes interrupts on to all of them, and takes the death of its parent for one.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress

from dgs_utils.batch.kernel import die_with_parent

PATIENCE = 20  # seconds between asking and killing


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
