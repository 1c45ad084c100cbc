"""Processes that end when those that they work for are gone, however these ended."""

import ctypes
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
GUARD = "DGS_GUARD"  # environment variable: machine and process id of the nearest guard above
LOOK = 1.0  # seconds between looks for the guard
PATIENCE = 16  # seconds between asking a process to end and killing it; a kernel has one less for its checkpoint


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


def adopt_orphans() -> bool:
    """Become the parent of all processes below this one whose own parents end; tell whether the system does that."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1) == 0


def wait_for_children(seconds: float) -> None:
    """Wait until no process of which this is the parent is left, but no longer than so many seconds."""
    deadline = time.monotonic() + seconds
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):  # there are some, and none has ended
                time.sleep(0.1)


def die_with_other_end(line: socket.socket) -> None:
    """Have the system kill this process when the other end of a connection closes, as it does when its process ends.

    Nothing more must be sent on the connection. Linux only.
    """
    fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(line, fcntl.F_SETSIG, signal.SIGKILL)
    line.setblocking(False)
    fcntl.fcntl(line, fcntl.F_SETFL, fcntl.fcntl(line, fcntl.F_GETFL) | os.O_ASYNC)
    with suppress(BlockingIOError):
        line.recv(1)
        os._exit(1)  # it was closed before
    line.detach()  # open as long as this process


def guarded(process: int) -> dict[str, str]:
    """Return the environment by which `follow_guard` finds a guard."""
    return {GUARD: f"{socket.gethostname()}:{process}"}


def follow_guard() -> None:
    """End this process soon after its guard, where one is named and runs on this machine.

    Between the two stand a scheduler and its shells, which pass nothing on when they are killed. On other machines a
    cluster's own scheduler sees to that.
    """
    machine, _, process = os.environ.get(GUARD, "").rpartition(":")
    if machine == socket.gethostname():
        threading.Thread(target=_follow, args=(int(process),), daemon=True).start()


def _follow(guard: int) -> None:
    while _exists(guard):
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:  # gone, or its number is another user's now
        return False
    return True
