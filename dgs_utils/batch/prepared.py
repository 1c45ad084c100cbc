"""A process that has the kit's libraries loaded, of which the kernels of a run are copies.

Loading them takes a light notebook longer than its work. The process loads what a notebook is about to load, and keeps
it for the next ones, so that a run loads nothing twice and nothing in vain. Whoever starts a kernel, the run itself or
one of its jobs (`engine`), asks for a copy at a socket in a folder that only its user may enter. A copy (fork) has
memory of its own from then on, draws random numbers of its own, and gets the environment that a new process would have;
no copy has run anything before. The connection stays open: it ends the copy with the one who asked. A notebook starts
in a new process where something is amiss, the code has changed meanwhile, or the system is not Linux, which alone can
tie two processes so.
"""

import ast
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.provenance import PACKAGE
from dgs_utils.batch.scratch import kernel_folder

PLACE = "DGS_PREPARED"  # environment variable of a run and its jobs: the socket at which the process listens
WORTH = 2  # notebooks from which on preparing pays
HANG = 900  # seconds in which even the busiest machine loads libraries and copies a process
KIT = "dgs_utils"
QUEUE = 1000  # who may wait for a copy at a time


@contextmanager
def prepared(left: list[Node], environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Have a process for the notebooks that are left, if they are several; end it afterwards.

    Args:
        left: what is to be run.
        environment: what differs from this process's own environment while libraries are loaded.

    Raises:
        ValueError: no folder will do for sockets.
    """
    if len(left) < WORTH or sys.platform != "linux" or PLACE in os.environ:
        yield
        return
    folder = kernel_folder()
    os.environ[PLACE] = str(folder.path / "p")
    process = _start(os.environ | (environment or {}))
    try:
        yield
    finally:
        del os.environ[PLACE]
        process.terminate()
        process.wait()


def _start(environment: Mapping[str, str]) -> subprocess.Popen:
    """Start the process, in a session of its own: Ctrl-C is the runner's to handle."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(environment[PLACE])
        listener.listen(QUEUE)
        command = [sys.executable, "-m", "dgs_utils.batch.copies", str(listener.fileno()), str(os.getpid())]
        return subprocess.Popen(command, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, env=environment,
                                start_new_session=True)


def copy_of_prepared(command: list[str], folder: str, environment: dict[str, str], loads: str = "") -> "Copy | None":
    """Return a new kernel of the prepared process; None where there is none, or it cannot make one now.

    Args:
        command: what would start the kernel: interpreter, ``-m``, module, and the kernel's arguments.
        folder: its working folder.
        environment: its environment.
        loads: program that loads what its notebook will (see `loads_of`).
    """
    if PLACE not in os.environ:
        return None
    request = {"arguments": command[3:], "folder": str(folder), "environment": environment, "loads": loads,
               "code": newest_code()}
    line = socket.socket(socket.AF_UNIX)
    try:
        line.settimeout(HANG)
        line.connect(os.environ[PLACE])
        socket.send_fds(line, [b"\n"], [1, 2])  # where a child's words would go
        line.sendall(json.dumps(request).encode() + b"\n")
        return Copy(int(line.recv(32)), line)
    except (OSError, ValueError):  # it has ended, or hung up because it will not
        line.close()
        return None


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
    """A kernel, with what jupyter_client asks of a `subprocess.Popen`; its exit status is not known.

    Args:
        pid: its process id.
        line: the connection that it ends with.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, line: socket.socket):
        self.pid, self._line = pid, line
        self.returncode: int | None = None
        self._process = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return a number if it has ended, None while it runs."""
        return self._look(0)

    def wait(self) -> int | None:
        """Wait for its end."""
        return self._look(None)

    def _look(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._process], [], [], seconds)[0]:
            self.returncode = 0
            os.close(self._process)
            self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def newest_code() -> int:
    """Return when the package's code was last changed, in nanoseconds."""
    return max(file.stat().st_mtime_ns for file in PACKAGE.rglob("*.py"))
