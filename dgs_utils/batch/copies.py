"""The prepared process (see `prepared`) as a program: at each request it loads what is missing, then copies itself."""

import json
import os
import random
import signal
import socket
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.own_code import read_loaded
from dgs_utils.batch.kernel import serve
from dgs_utils.batch.prepared import HANG, newest_code
from dgs_utils.runtime.orphans import die_with_other_end, die_with_parent

NO_POLLING = "1"  # the parent process for which ipykernel does not look once a second


def main(listener: socket.socket, runner: int) -> None:
    """Make a copy for each request; a copy returns from here as a kernel, the process never does."""
    die_with_parent(runner)
    code, kernels = newest_code(), set[int]()
    sys.path = [place for place in sys.path if place not in ("", str(Path.cwd()))]  # as in a kernel
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else the debugger, when it is loaded, warns of frozen modules
    os.environ["JPY_PARENT_PID"] = NO_POLLING  # ipykernel reads it when it is loaded
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # what kernels set before they load it
    import pdb  # noqa: F401  (what every kernel loads)

    import ipykernel.debugger
    import ipykernel.kernelapp  # noqa: F401

    signal.signal(signal.SIGCHLD, lambda *_: _bury(kernels))
    while True:
        line, _ = listener.accept()
        request, streams = _request(line)
        if request.get("code") == code:
            _load(request["loads"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # numpy's idle threads, which know how to be forked
                kernel = os.fork()
            if not kernel:
                listener.close()
                _become(request, streams, line)
                return
            kernels.add(kernel)
            with suppress(OSError):  # who asked is gone, and the copy with it
                line.sendall(f"{kernel}\n".encode())
        for stream in streams:
            os.close(stream)
        line.close()


def _bury(kernels: set[int]) -> None:
    """Wait for kernels that have ended, so that nothing is left of them."""
    kernels -= {kernel for kernel in list(kernels) if os.waitpid(kernel, os.WNOHANG)[0]}


def _request(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return what somebody asks for, and his stdout and stderr; {} where he is gone before he has said it."""
    line.settimeout(HANG)
    streams: list[int] = []
    with suppress(OSError, ValueError), line.makefile("rb") as said:
        _, streams, _, _ = socket.recv_fds(line, 1, 2)
        return json.loads(said.readline()), streams
    return {}, streams


def _load(program: str) -> None:
    """Load modules; what fails to load is left to the notebook, which will tell."""
    with suppress(Exception):
        exec(program, {})
        read_loaded()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        os._exit(1)  # a GPU that a process has opened does not outlive its being copied


def _become(request: dict[str, Any], streams: list[int], line: socket.socket) -> None:
    """Make of a copy what a new process with this request would be."""
    for own, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, own)
        os.close(stream)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_other_end(line)
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]
    random.seed()
    for generators in ("numpy.random", "torch"):  # those that are loaded later seed themselves
        if generators in sys.modules:
            sys.modules[generators].seed()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    serve()
