"""A process that has the kit's libraries loaded, of which the kernels of a long run are copies.

Loading them takes a light notebook longer than its work. A copy (fork) has memory of its own from then on, draws random
numbers of its own, and gets the environment that a new process would have; no copy has run anything before. The first
notebooks start as usual while the process prepares itself, and so does every one where something is amiss, the code has
changed meanwhile, or the system is not Linux, which alone can hand a copy over to the runner as its own child.
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.provenance import PACKAGE

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
WORTH = 12  # notebooks from which on preparing pays
OFTEN = 3  # notebooks of a stage from which on its libraries are worth loading
ALWAYS = ["ipykernel.kernelapp", "pandas", "matplotlib.pyplot"]
HANG = 900  # seconds in which even the busiest machine copies a process

_open: "Prepared | None" = None


@contextmanager
def prepared(left: list[Node]) -> Iterator[None]:
    """Have a process prepare itself for the notebooks that are left, if they are many; end it afterwards."""
    global _open
    if len(left) < WORTH or sys.platform != "linux" or _open:
        yield
        return
    counts = Counter(node.stage for node in left)
    _open = Prepared([f"dgs_utils.{stage[3:]}" for stage, count in counts.items() if count >= OFTEN])
    try:
        yield
    finally:
        _open.close()
        _open = None


def copy_of_prepared(command: list[str], folder: str, environment: dict[str, str]) -> "Copy | None":
    """Return a new kernel of the prepared process; None where there is none, or it cannot make one now.

    Args:
        command: what would start the kernel: interpreter, ``-m``, module, and the kernel's arguments.
        folder: its working folder.
        environment: its environment.
    """
    return _open.launch(command[3:], folder, environment) if _open else None


class Copy:
    """A kernel, with what jupyter_client asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait for its end and return the exit status."""
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Prepared:
    """The runner's end of the prepared process."""

    def __init__(self, modules: list[str]):
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(HANG)
        self._lines = self._socket.makefile("rb")
        self._ready = False
        self._code = newest_code()
        with theirs:
            # A session of its own: Ctrl-C is the runner's to handle.
            numbers = [str(theirs.fileno()), str(os.getpid())]
            command = [sys.executable, "-m", "dgs_utils.batch.copies", *numbers, *ALWAYS, *modules]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                             start_new_session=True)

    def launch(self, arguments: list[str], folder: str, environment: dict[str, str]) -> Copy | None:
        """Return a new copy that serves as a kernel; None where the process is not ready or not to be used any more."""
        with suppress(OSError, ValueError):
            if self.is_ready() and self._code == newest_code():
                request = {"arguments": arguments, "folder": str(folder), "environment": environment}
                with adoption():
                    self._socket.sendall(json.dumps(request).encode() + b"\n")
                    return _adopted(int(self._lines.readline()))
        return None

    def is_ready(self) -> bool:
        """Return whether it has loaded everything."""
        if not self._ready and select.select([self._socket], [], [], 0)[0]:
            self._ready = self._lines.readline() == b"ready\n"
        return self._ready

    def close(self) -> None:
        """End the process; kernels that it made are the runner's own and not touched."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


@contextmanager
def adoption() -> Iterator[None]:
    """Let processes whose parent ends become children of this one."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)


def _adopted(pid: int) -> Copy | None:
    """Return a process once it is this one's child; None if it never is."""
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if parent == os.getpid():
            return Copy(pid)
        time.sleep(0.001)
    return None


def newest_code() -> int:
    """Return when the package's code was last changed, in nanoseconds."""
    return max(file.stat().st_mtime_ns for file in PACKAGE.rglob("*.py"))
