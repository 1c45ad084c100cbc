"""A process that has the kit's libraries loaded, of which the kernels of a run are forks.

Loading libraries takes a light notebook longer than its work. The process loads what a notebook is about to load, and
keeps it for the next ones. A kernel is a fork with memory, random numbers and an environment of its own, in which
nothing has run before. It ends with that process, which ends with its runner. Where the process is gone or has older
code, the next kernels start as new processes. Linux only.

`multiprocessing` has a fork server, too, but loads modules only at its start, and each child imports the main script
of its parent anew.
"""

import ast
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dgs_utils.store.code_fingerprint import PACKAGE

FORK_TIMEOUT_S = 900  # within which the busiest machine loads libraries and forks
WAKE_AFTER_S = 10  # without an answer
KIT = "dgs_utils"


class ForkServer:
    """The process, seen from its runner; it removes the folder when its runner has ended, however that happened."""

    def __init__(self, folder: Path, environment: Mapping[str, str]):
        self._lock = threading.Lock()
        self._connection, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._connection.settimeout(WAKE_AFTER_S)
        with theirs:
            command = [sys.executable, "-m", "dgs_utils.workflow.forked_kernel", str(theirs.fileno()), str(folder)]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                             env=os.environ | environment, start_new_session=True)

    def fork(self, arguments: list[str], folder: str, environment: dict[str, str],
             imports: str = "") -> "ForkedKernel | None":
        """Return a new kernel with libraries of `imports_of_notebook`; None where the process cannot fork one now."""
        request = {"arguments": arguments, "folder": folder, "environment": environment, "imports": imports,
                   "code": latest_mtime()}
        with self._lock:
            try:
                self._connection.send(json.dumps(request).encode())
                return ForkedKernel(int(self._answer()))
            except TimeoutError:
                self.close()  # its answer would be taken for that to the next request
            except (OSError, ValueError):  # it has ended, cannot fork now, or the environment is too long
                pass
        return None

    def _answer(self) -> bytes:
        """Return what the process answers; wake it where it was stopped, as a kernel waits for it."""
        deadline = time.monotonic() + FORK_TIMEOUT_S
        while True:
            try:
                return self._connection.recv(32)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
                self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process, and all its kernels with it."""
        self._process.kill()
        self._process.wait()


class ForkedKernel:
    """A kernel, with what jupyter_client asks of a `subprocess.Popen`; without its exit status."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._pidfd)

    def poll(self) -> int | None:
        """Return a number if it has ended, None while it runs."""
        return self.wait(0)

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, but no longer than so many seconds; return as `poll` does."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)  # readable when the process has ended
            self.returncode = 0 if poll.poll(None if seconds is None else seconds * 1000) else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def imports_of_notebook(notebook: Path) -> str:
    """Return a program that loads what a notebook does of this kit: its imports, and names that modules load lazily."""
    trees: list[ast.stmt] = []
    with suppress(OSError, ValueError, KeyError):  # reported by the notebook's execution
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            with suppress(SyntaxError):  # a shell's or notebook's own command
                trees += ast.parse("".join(cell["source"])).body if cell["cell_type"] == "code" else []
    imports = [node for node in trees if (isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == KIT)
               or (isinstance(node, ast.Import) and KIT in (alias.name for alias in node.names))]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    lazy = {f"{node.value.id}.{node.attr}" for tree in trees for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names}
    return "\n".join([*map(ast.unparse, imports), *sorted(lazy)])


def latest_mtime() -> int:
    """Return when the package's code was last changed, in nanoseconds."""
    return max(file.stat().st_mtime_ns for file in PACKAGE.rglob("*.py"))
