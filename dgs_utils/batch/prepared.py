"""A process that has the kit's libraries loaded, of which the kernels of a run are copies.

Loading them takes a light notebook longer than its work. The process loads what a notebook is about to load, and keeps
it for the next ones, so that a run loads nothing twice and nothing in vain. A copy (fork) has memory of its own from
then on, draws random numbers of its own, and gets the environment that a new process would have; no copy has run
anything before. A notebook starts in a new process where something is amiss, the code has changed meanwhile, or the
system is not Linux, which alone can hand a copy over to the runner as its own child.
"""

import ast
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.provenance import PACKAGE

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
WORTH = 2  # notebooks from which on preparing pays
HANG = 900  # seconds in which even the busiest machine loads libraries and copies a process
KIT = "dgs_utils"

_open: "Prepared | None" = None


@contextmanager
def prepared(left: list[Node]) -> Iterator[None]:
    """Have a process for the notebooks that are left, if they are several; end it afterwards."""
    global _open
    if len(left) < WORTH or sys.platform != "linux" or _open:
        yield
        return
    _open = Prepared()
    try:
        yield
    finally:
        _open.close()
        _open = None


def copy_of_prepared(command: list[str], folder: str, environment: dict[str, str], loads: str = "") -> "Copy | None":
    """Return a new kernel of the prepared process; None where there is none, or it cannot make one now.

    Args:
        command: what would start the kernel: interpreter, ``-m``, module, and the kernel's arguments.
        folder: its working folder.
        environment: its environment.
        loads: program that loads what its notebook will (see `loads_of`).
    """
    return _open.launch(command[3:], folder, environment, loads) if _open else None


def loads_of(notebook: Path) -> str:
    """Return a program that loads what a notebook does of this kit: its imports, and names that modules load lazily."""
    trees: list[ast.stmt] = []
    with suppress(OSError, ValueError, KeyError):  # what executes it will tell
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            with suppress(SyntaxError):  # a shell's or notebook's own command
                trees += ast.parse("".join(cell["source"])).body if cell["cell_type"] == "code" else []
    imports = [node for node in trees if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == KIT]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    lazy = {f"{node.value.id}.{node.attr}" for tree in trees for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names}
    return "\n".join([*map(ast.unparse, imports), *sorted(lazy)])


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

    def __init__(self):
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(HANG)
        self._lines = self._socket.makefile("rb")
        self._code = newest_code()
        with theirs:
            # A session of its own: Ctrl-C is the runner's to handle.
            numbers = [str(theirs.fileno()), str(os.getpid())]
            command = [sys.executable, "-m", "dgs_utils.batch.copies", *numbers]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                             start_new_session=True)

    def launch(self, arguments: list[str], folder: str, environment: dict[str, str], loads: str = "") -> Copy | None:
        """Return a new copy that serves as a kernel; None where the process has ended or is not to be used any more."""
        with suppress(OSError, ValueError):
            if self._code == newest_code():
                request = {"arguments": arguments, "folder": str(folder), "environment": environment, "loads": loads}
                with adoption():
                    self._socket.sendall(json.dumps(request).encode() + b"\n")
                    return _adopted(int(self._lines.readline()))
        return None

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
