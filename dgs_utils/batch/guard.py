"""Run a command so that nothing of it is left when the process that started this ends.

A scheduler starts shells, which start runners, which start kernels. This module, run as a program in a session of its
own, passes interrupts on to all of them, and takes the death of its parent, or of the command, for one. When it is
killed itself, the command is killed with it, and the runners below see that it is gone (`runtime.orphans`).
"""

import os
import signal
import subprocess
import sys
import time
from functools import partial

from dgs_utils.runtime.orphans import PATIENCE, adopt_orphans, die_with_parent, guarded, wait_for_children


def main(parent: int, command: list[str]) -> int:
    """Run a command and return its exit status; on SIGINT or SIGTERM end it with all that it started."""
    process, adopts = None, adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT, too, which nohup and a script's & have all below ignore
        signal.signal(number, signal.default_int_handler)
    die_with_parent(parent, signal.SIGTERM)
    try:
        process = subprocess.Popen(command, env=os.environ | guarded(os.getpid()),
                                   preexec_fn=partial(die_with_parent, os.getpid()))
        if process.wait() >= 0:
            return process.returncode
    except KeyboardInterrupt:
        pass
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # this process is in the group too
    killed = process and process.returncode is not None
    os.killpg(0, signal.SIGINT)
    if killed and not adopts:  # what it started has another parent now
        time.sleep(PATIENCE)
    wait_for_children(PATIENCE)
    os.killpg(0, signal.SIGKILL)
    return -signal.SIGKILL  # which nobody sees, since this process is in the group too


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
