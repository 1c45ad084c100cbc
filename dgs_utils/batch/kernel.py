"""Kernels of batch runs: this very interpreter, no open ports, and gone as soon as their runner is gone.

jupyter_client would start whatever interpreter is registered as ``python3``, listen on TCP ports, and leave a kernel
that computes to itself for a while when its runner is killed. Run as a program, this module is such a kernel.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.run import BATCH
from dgs_utils.batch.limit import PATIENCE
from dgs_utils.batch.scratch import kernel_folder
from dgs_utils.runtime.orphans import die_with_parent


def manager_class(at_start: Callable[[int], None] = lambda process: None, loads: str = "") -> type:
    """Return the kernel manager for nbclient; made here because importing jupyter_client takes a while.

    Args:
        at_start: called with the kernel's process id.
        loads: program that loads what the notebook will (see `prepared.loads_of`).
    """
    import asyncio

    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from traitlets import default

    from dgs_utils.batch.channels import Client
    from dgs_utils.batch.prepared import copy_of_prepared

    class Manager(AsyncKernelManager):
        """Starts this module with the running interpreter and talks to it through sockets in a folder of its own."""

        kernel_spec = KernelSpec(argv=[sys.executable, "-m", __name__, "-f", "{connection_file}"],
                                 display_name="Python 3", language="python")

        @default("client_factory")
        def _that_never_waits_in_vain(self) -> type:
            return Client

        @default("transport")
        def _sockets_not_ports(self) -> str:
            return "ipc"

        @default("connection_file")
        def _own_folder(self) -> str:
            self._scratch = kernel_folder()
            return str(self._scratch.path / "k.json")

        async def start_kernel(self, **options) -> None:
            """Start the kernel and tell its process id."""
            await super().start_kernel(**options)
            at_start(self.provisioner.pid)

        async def _async_launch_kernel(self, command: list[str], **options: Any) -> None:
            """Start the kernel's process, as a copy of the prepared one where there is one."""
            environment = options["env"] | {"JPY_PARENT_PID": str(os.getpid())}
            copy = copy_of_prepared(command, options.get("cwd") or os.getcwd(), environment, loads)
            if copy is None:
                await super()._async_launch_kernel(command, **options)
                return
            self.provisioner.process, self.provisioner.pid, self.provisioner.pgid = copy, copy.pid, copy.pid
            self._reconcile_connection_info(self.provisioner.connection_info)

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
            """End the kernel; only one that catches SIGTERM, as a training does, is waited for."""
            if await self.is_alive():
                await self.signal_kernel(signal.SIGTERM)
            deadline = asyncio.get_running_loop().time() + PATIENCE
            while await self.is_alive() and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)
            await super().shutdown_kernel(now, restart)

    return Manager


def serve() -> None:
    """Be a kernel, with the arguments of this process, until it is told to end."""
    os.environ[BATCH] = "1"
    sys.path = [place for place in sys.path if place not in ("", str(Path.cwd()))]  # as ipykernel_launcher does
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


if __name__ == "__main__":
    die_with_parent(int(os.environ["JPY_PARENT_PID"]))
    serve()
