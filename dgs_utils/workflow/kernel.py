"""Kernels of batch runs: this interpreter, UNIX sockets in a private folder, and killed with their runner.

Run as a program, this module is a kernel.
"""

import fcntl
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from dgs_utils.runtime.process_lifetime import KERNEL_GRACE_S, die_with_parent
from dgs_utils.store.session import BATCH
from dgs_utils.workflow.forkserver import ForkServer

MAX_SOCKET_DIR_BYTES = 107 - len("/k99999-ipc-5")  # of the path of a folder with sockets


class KernelPool:
    """The kernels of a run, with what differs in all of them from the environment of this process.

    Attributes:
        folder: of the kernels' sockets.
        server: the process that kernels are forks of; None where the system is not Linux.
        stopping: set when no more kernel may start.

    Raises:
        ValueError: the names of all temporary folders are too long for sockets.
    """

    def __init__(self, environment: Mapping[str, str] = MappingProxyType({})):
        self.environment = dict(environment) | {BATCH: "1"}
        self.stopping = threading.Event()
        self._scratch = socket_folder()
        self.folder = Path(self._scratch.name)
        self.server = ForkServer(self.folder, self.environment) if sys.platform == "linux" else None
        self._lock = threading.Lock()
        self._running: set[Any] = set()
        self._numbers = itertools.count()

    def __enter__(self) -> "KernelPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._scratch.cleanup()

    def manager_class(self, imports: str = "", environment: Mapping[str, str] = MappingProxyType({}),
                      on_wait: Callable[[str], None] = lambda activity: None) -> type:
        """Return the kernel manager of one notebook, for nbclient.

        Its kernel loads ``imports``, what `forkserver.imports_of_notebook` lists; ``environment`` is what differs in it
        from the others, and ``on_wait`` is called with what is waited for while it starts.
        """
        from dgs_utils.workflow.provisioner import BatchKernelManager, python_kernel  # takes a while to import

        spec = python_kernel(__name__, self.environment | dict(environment))
        attributes = {"pool": self, "imports": imports, "kernel_spec": spec, "number": next(self._numbers),
                      "on_wait": staticmethod(on_wait)}
        return type("Manager", (BatchKernelManager,), attributes)

    def add(self, process: Any) -> None:
        """Note that a kernel runs; end it where the pool is stopping."""
        with self._lock:
            self._running.add(process)
        if self.stopping.is_set():
            process.kill()

    def remove(self, process: Any) -> None:
        """Note that a kernel has ended."""
        with self._lock:
            self._running.discard(process)

    def stop(self) -> None:
        """End all kernels; those that catch SIGTERM have time to write their checkpoints."""
        self.stopping.set()
        with self._lock:
            running = list(self._running)
        try:
            for process in running:
                process.terminate()
            deadline = time.monotonic() + KERNEL_GRACE_S
            while any(process.poll() is None for process in running) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            for process in running:
                process.kill()
            if self.server:
                self.server.close()


class _LockedDirectory(TemporaryDirectory):
    """A temporary folder that is locked as long as this process has it."""

    def __init__(self, **options: Any):
        while True:  # until another process has not taken it for one that was left behind
            super().__init__(**options)
            with suppress(OSError):
                self._lock = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(self._lock), os.stat(self.name)):
                    return

    def cleanup(self) -> None:
        """Remove the folder, and free its lock."""
        super().cleanup()
        os.close(self._lock)


def _remove_left_behind(parent: Path, prefix: str) -> None:
    """Remove this user's folders that no process has locked any more: it was killed, and its fork server, too."""
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # another one's, no folder, in use, or just removed by another process
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def socket_folder() -> TemporaryDirectory:
    """Return a private folder for sockets: in the temporary one, or in ``/tmp`` where its path is too long for them.

    Where this process is killed, the fork server removes it; where both are killed, the next run does.

    Raises:
        ValueError: neither can be used.
    """
    parents, prefix = [tempfile.gettempdir(), "/tmp"], "dgs-kernel-"
    longest = MAX_SOCKET_DIR_BYTES - len(f"/{prefix}12345678")
    for parent in parents:
        if len(os.fsencode(parent)) <= longest and os.access(parent, os.W_OK):
            _remove_left_behind(Path(parent), prefix)
            return _LockedDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
    raise ValueError(f"the temporary folder {parents[0]} has too long a path for sockets, and /tmp cannot be written; "
                     f"set TMPDIR to a folder whose path has at most {longest} bytes")


def serve() -> None:
    """Run an IPython kernel, with the arguments of this process, until it is shut down."""
    sys.path = [path for path in sys.path if path not in ("", str(Path.cwd()))]  # as ipykernel_launcher does
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


if __name__ == "__main__":
    die_with_parent(int(os.environ["JPY_PARENT_PID"]))
    serve()
