"""Processes that end when those that they work for are gone, however these ended."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: after a fork, loading may wait for ever
OWNER = "DGS_OWNER"  # environment variable: machine and id of the process that all below work for
OWNER_POLL_S = 1.0  # seconds between looks for it
KERNEL_GRACE_S = 15  # seconds in which a kernel that catches SIGTERM may write its checkpoint
GRACE_PERIOD_S = KERNEL_GRACE_S + 1  # in which a process with kernels below it ends


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the system signal this process when the one that started it ends, however that happens.

    If it has ended already, this process ends at once. Outside Linux, ipykernel's own check, once a second, has to do.
    """
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)


def start_owned(command: list[str], **options: Any) -> subprocess.Popen:
    """Start a command in a process group of its own, which ends with this thread, however its process ends.

    The system signals the command itself; those below it watch for this process (`watch_owner`). The caller must end
    the group (`end_group`). ``options`` are those of `subprocess.Popen`.
    """
    owner = os.getpid()

    def begin() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which nohup and a script's & have all below ignore
        die_with_parent(owner, signal.SIGTERM)

    environment = options.pop("env", os.environ) | {OWNER: f"{socket.gethostname()}:{owner}"}
    return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=begin, **options)


def end_group(process: subprocess.Popen) -> None:
    """End a command of `start_owned` with all that it started; those that catch SIGINT have time for a checkpoint."""
    deadline = time.monotonic() + GRACE_PERIOD_S
    with suppress(ProcessLookupError):  # none is left
        os.killpg(process.pid, signal.SIGINT)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def watch_owner() -> None:
    """End this process soon after the one that owns it, where one does on this machine (`start_owned`).

    A scheduler and its shells are between the two, and pass nothing on when they are killed. On other machines a
    cluster's own scheduler sees to that.
    """
    machine, _, process = os.environ.get(OWNER, "").rpartition(":")
    if machine == socket.gethostname():
        end_with(int(process))


def end_with(process: int) -> None:
    """End this process soon after another one, by SIGTERM, and by SIGKILL if that does not do."""
    threading.Thread(target=_watch, args=(process,), daemon=True).start()


def _watch(process: int) -> None:
    while is_running(process):
        time.sleep(OWNER_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_PERIOD_S)
    os.kill(os.getpid(), signal.SIGKILL)


def is_running(process: int) -> bool:
    """Return whether this user has a process with this id."""
    try:
        os.kill(process, 0)
    except OSError:  # gone, or its number is another user's now
        return False
    return True
