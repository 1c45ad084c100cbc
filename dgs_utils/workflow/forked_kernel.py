"""The process that kernels are forks of (see `forkserver`), as a program."""

import json
import os
import random
import shutil
import signal
import socket
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from dgs_utils.runtime.process_lifetime import die_with_parent, end_with
from dgs_utils.workflow.forkserver import latest_mtime
from dgs_utils.workflow.kernel import serve

MAX_REQUEST_BYTES = 2**22
PARENT_PID_DISABLED = "1"  # the parent process for which ipykernel does not look once a second


def main(connection: socket.socket, folder: Path) -> None:
    """Fork a kernel for each request; a kernel returns from here, the process itself ends with its runner."""
    code, kernels, server = latest_mtime(), set[int](), os.getpid()
    sys.path = [path for path in sys.path if path not in ("", str(Path.cwd()))]  # as in a kernel
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else the debugger, when it is loaded, warns of frozen modules
    os.environ["JPY_PARENT_PID"] = PARENT_PID_DISABLED  # ipykernel reads it when it is loaded
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # what kernels set before they load it
    import pdb  # noqa: F401  (what every kernel loads)

    import ipykernel.debugger
    import ipykernel.kernelapp  # noqa: F401

    signal.signal(signal.SIGCHLD, lambda *_: _reap(kernels))
    while True:
        message = connection.recv(MAX_REQUEST_BYTES)
        if not message:  # the runner has ended
            break
        request = json.loads(message)
        if request["code"] != code or not _preload(request["imports"]):
            _answer(connection, "no kernel")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of numpy's idle threads, which survive a fork
            kernel = os.fork()
        if not kernel:
            connection.close()
            die_with_parent(server)
            _become(request)
            return
        kernels.add(kernel)
        _answer(connection, str(kernel))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for kernel in kernels:
        with suppress(OSError):  # it has ended
            os.kill(kernel, signal.SIGKILL)
            os.waitpid(kernel, 0)  # else it might make its sockets while their folder is removed
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _answer(connection: socket.socket, text: str) -> None:
    with suppress(OSError):  # the runner has ended
        connection.send(text.encode())


def _reap(kernels: set[int]) -> None:
    """Wait for kernels that have ended, so that no zombie is left of them."""
    kernels -= {kernel for kernel in list(kernels) if os.waitpid(kernel, os.WNOHANG)[0]}


def _preload(imports: str) -> bool:
    """Load modules, and return whether the process can be forked then.

    Those that fail to load are left to the notebook, which reports the error.
    """
    with suppress(Exception):
        exec(imports, {})
    return not ("torch" in sys.modules and sys.modules["torch"].cuda.is_initialized())  # a GPU survives no fork


def _become(request: dict[str, Any]) -> None:
    """Give a fork what a new process with this request would have."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    end_with(int(os.environ["JPY_PARENT_PID"]))  # the runner; the server, which ends with it, may be loading libraries
    sys.argv[1:] = request["arguments"]
    random.seed()
    for generators in ("numpy.random", "torch"):  # those that are loaded later seed themselves
        if generators in sys.modules:
            sys.modules[generators].seed()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
    serve()
