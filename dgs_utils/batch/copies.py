"""The prepared process (see `prepared`) as a program: at each request it loads what is missing, then copies itself."""

import json
import os
import random
import socket
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

from dgs_utils.batch.kernel import serve
from dgs_utils.runtime.orphans import die_with_parent


def main(connection: socket.socket, runner: int) -> None:
    """Make a copy for each request; a copy returns from here as a kernel, the process never does."""
    die_with_parent(runner)
    sys.path = [place for place in sys.path if place not in ("", str(Path.cwd()))]  # as in a kernel
    os.environ["JPY_PARENT_PID"] = str(runner)  # ipykernel reads it when it is loaded
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # what kernels set before they load it
    import ipykernel.kernelapp  # noqa: F401  (what every kernel loads)

    lines = connection.makefile("rb")
    while line := lines.readline():
        request = json.loads(line)
        _load(request["loads"])
        if _copied(connection, runner):
            lines.close()
            connection.close()
            _become(request)
            return
    os._exit(0)


def _load(program: str) -> None:
    """Load modules; what fails to load is left to the notebook, which will tell."""
    with suppress(Exception):
        exec(program, {})
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        os._exit(1)  # a GPU that a process has opened does not outlive its being copied


def _copied(connection: socket.socket, runner: int) -> bool:
    """Copy this process and hand the copy over to the runner; return whether this is the copy.

    The one between, which this process starts and which starts the copy, ends at once, so that the copy is adopted.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's idle threads, which know how to be forked
        between = os.fork()
        if between:
            os.waitpid(between, 0)
            return False
        between = os.getpid()
        copy = os.fork()
    if copy:
        connection.sendall(f"{copy}\n".encode())
        os._exit(0)
    while os.getppid() == between:
        time.sleep(0.001)
    if os.getppid() != runner:
        os._exit(1)
    return True


def _become(request: dict) -> None:
    """Make of a copy what a new process with this request would be."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]
    random.seed()
    for name, seed in (("numpy", "numpy.random"), ("torch", "torch")):
        if name in sys.modules:
            sys.modules[seed].seed()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as ours:
        main(ours, int(sys.argv[2]))
    serve()
