"""How jupyter_client starts, asks and ends the kernels of a `KernelPool`.

Left to itself it would start the interpreter that is registered as ``python3`` and listen on TCP ports.
"""

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from queue import Empty
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.provisioning import LocalProvisioner
from nbclient.exceptions import DeadKernelError
from traitlets import Type, default

from dgs_utils.runtime.process_lifetime import KERNEL_GRACE_S
from dgs_utils.store.paths import workspace

CHANNEL_POLL_S = 1.0  # after which a channel is looked at anew


def python_kernel(module: str, environment: Mapping[str, str]) -> KernelSpec:
    """Return how a kernel is started: a module of this interpreter, and what differs in its environment."""
    return KernelSpec(argv=[sys.executable, "-m", module, "-f", "{connection_file}"], display_name="Python 3",
                      language="python", env=dict(environment))


class ForkProvisioner(LocalProvisioner):
    """Starts a kernel as a fork of the pool's server where there is one, else as a new process."""

    parent: "BatchKernelManager"

    async def launch_kernel(self, cmd: list[str], **options: Any) -> dict[str, Any]:
        """Start the kernel.

        Raises:
            DeadKernelError: the pool is stopping.
        """
        pool = self.parent.pool
        options |= {"cwd": str(workspace())}
        environment = options["env"] | {"JPY_PARENT_PID": str(os.getpid())}
        self.parent.on_wait("waiting for libraries to be loaded")
        kernel = pool.server.fork(cmd[3:], options["cwd"], environment, self.parent.imports) if pool.server else None
        if pool.stopping.is_set():
            if kernel:
                kernel.kill()
            raise DeadKernelError("the run is stopping")
        if kernel:
            self.process, self.pid, self.pgid = kernel, kernel.pid, kernel.pid
        else:
            await super().launch_kernel(cmd, **options)
        pool.add(self.process)
        self.parent.on_wait("waiting for the kernel's first answer")
        return self.connection_info

    async def kill(self, restart: bool = False) -> None:
        """End the kernel; one that catches SIGTERM has time to write its checkpoint."""
        await self.terminate()
        deadline = time.monotonic() + KERNEL_GRACE_S
        while await self.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await super().kill(restart)

    async def wait(self) -> int | None:
        """Wait for the kernel's end."""
        process, status = self.process, await super().wait()
        self.parent.pool.remove(process)
        return status


class PolledChannel(AsyncZMQSocketChannel):
    """Looks anew for what has arrived once a second, whatever the socket has told.

    ZeroMQ wakes a reader once for each change. Where a cell has widgets, nbclient answers them on the socket on which
    it waits for the cell's reply, and a send takes the wake-up of a reply that arrives in that moment along with it.
    """

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message; raise `queue.Empty` if none comes within ``timeout`` seconds (None: no limit)."""
        while timeout is None or timeout > CHANNEL_POLL_S:
            try:
                return await super().get_msg(CHANNEL_POLL_S)
            except Empty:
                timeout = None if timeout is None else timeout - CHANNEL_POLL_S
        return await super().get_msg(timeout)


class BatchKernelClient(AsyncKernelClient):
    """Talks to a kernel through channels that no message is stuck in."""

    shell_channel_class = Type(PolledChannel)
    iopub_channel_class = Type(PolledChannel)


class BatchKernelManager(AsyncKernelManager):
    """Starts one kernel of a pool and talks to it through sockets in the pool's folder."""

    pool: Any  # a `kernel.KernelPool`
    imports: str  # program that loads what the kernel's notebook will
    kernel_spec: KernelSpec  # how it is started
    number: int  # of the kernel in the pool
    on_wait: Callable[[str], None]  # called with what is waited for

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.kernel_id = uuid.uuid4().hex
        self.provisioner = ForkProvisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)

    @default("client_factory")
    def _client_factory(self) -> type:
        return BatchKernelClient

    @default("transport")
    def _transport(self) -> str:
        return "ipc"

    @default("connection_file")
    def _connection_file(self) -> str:
        return str(self.pool.folder / f"k{self.number}.json")
