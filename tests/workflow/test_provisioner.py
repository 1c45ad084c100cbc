"""Kernels of a pool: they answer what they are asked, and end with the pool."""

import asyncio
import signal
import sys
import threading
import time

import psutil
import pytest
import zmq.asyncio
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.session import Session
from nbclient.exceptions import DeadKernelError
from waits import HANG, wait_for

from dgs_utils.workflow.kernel import KernelPool
from dgs_utils.workflow.provisioner import PolledChannel


class OwnKernel:
    """A kernel of a pool of its own, begun with this program, or as the kernels of runs are."""

    def __init__(self, program: str = ""):
        self.pool, self.waits = KernelPool(), []
        self.manager = self.pool.manager_class(on_wait=self.waits.append)()
        if program:
            self.pool.server.close()
            self.pool.server = None
            self.manager.kernel_spec.argv = [sys.executable, "-c", program, "-f", "{connection_file}"]

    async def __aenter__(self) -> AsyncKernelClient:
        await self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        return self.client

    async def __aexit__(self, *_) -> None:
        self.client.stop_channels()
        await self.manager.shutdown_kernel(now=True)
        self.pool.stop()


def test_a_kernel_that_is_ready_answers_what_it_is_asked_next():
    """A slow kernel was asked several times whether it is ready and may answer late; the display shows each wait."""
    kernel = OwnKernel()

    async def first_words() -> list[str]:
        async with kernel as client:
            await client.wait_for_ready(HANG)
            assert {type(client.shell_channel), type(client.iopub_channel)} == {PolledChannel}
            request, answers = client.execute("print(6 * 7)"), []
            for channel, last in ((client.iopub_channel, "idle"), (client.shell_channel, "ok")):
                while not answers or answers[-1] != last:
                    message = await channel.get_msg(HANG)
                    content = message["content"]
                    text = content.get("execution_state") or content.get("text") or content.get("status")
                    if message["parent_header"].get("msg_id") == request:
                        answers.append(text)
                    else:
                        assert message["msg_type"] in ("status", "kernel_info_reply")
            return answers

    assert asyncio.run(first_words()) == ["busy", None, "42\n", "idle", "ok"]
    assert kernel.waits == ["waiting for libraries to be loaded", "waiting for the kernel's first answer"]


def test_a_reply_that_arrives_while_something_is_sent_is_noticed(tmp_path):
    """As where nbclient answers a widget while it waits for the cell's reply."""
    async def reply_while_sending() -> str:
        session = Session(key=b"any")
        kernel, ours = zmq.Context.instance().socket(zmq.ROUTER), zmq.asyncio.Context.instance().socket(zmq.DEALER)
        try:
            kernel.bind(f"ipc://{tmp_path}/socket")
            ours.identity = b"runner"
            ours.connect(f"ipc://{tmp_path}/socket")
            channel = PolledChannel(ours, session)
            channel.send(session.msg("execute_request"))
            kernel.recv_multipart()
            reply = asyncio.ensure_future(channel.get_msg())
            await asyncio.sleep(0.1)  # now it waits
            session.send(kernel, "execute_reply", ident=b"runner")
            time.sleep(0.2)  # the loop must not look while the reply arrives
            channel.send(session.msg("comm_msg"))
            return (await asyncio.wait_for(reply, HANG))["msg_type"]
        finally:
            kernel.close(0)
            ours.close(0)

    assert asyncio.run(reply_while_sending()) == "execute_reply"


def test_a_kernel_that_does_not_come_is_an_error():
    async def wait() -> None:
        async with OwnKernel("pass") as client:
            await client.wait_for_ready(HANG)

    with pytest.raises(RuntimeError, match="Kernel died before replying"):
        asyncio.run(wait())


def test_a_kernel_that_was_stopped_between_two_cells_goes_on():
    async def statuses() -> list[str]:
        kernel = OwnKernel()
        async with kernel as client:
            await client.wait_for_ready(HANG)
            process = psutil.Process(kernel.manager.provisioner.pid)
            process.send_signal(signal.SIGSTOP)
            threading.Timer(2, process.send_signal, [signal.SIGCONT]).start()
            return [(await client.execute_interactive("print(6 * 7)", timeout=HANG))["content"]["status"]
                    for _ in range(2)]

    assert asyncio.run(statuses()) == ["ok", "ok"]


def test_a_pool_that_stops_ends_its_kernels_and_starts_no_more():
    """One that catches SIGTERM writes its checkpoint first; one that does not hear it is killed."""
    async def start(pool: KernelPool, cell: str) -> int:
        manager = pool.manager_class()()
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(HANG)
        client.execute(cell)
        return manager.provisioner.pid

    with KernelPool() as pool:
        marker = pool.folder.with_name(f"{pool.folder.name}-marker")
        catches = (f"import signal, pathlib, sys\n"
                   f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(marker)!r}).touch(), sys.exit()))\n"
                   f"pathlib.Path({str(pool.folder)!r}, 'ready').touch()\nimport time; time.sleep(1000)")
        processes = [asyncio.run(start(pool, cell)) for cell in (catches, "pass")]
        wait_for((pool.folder / "ready").exists)
        pool.stop()
        try:
            assert marker.exists()
        finally:
            marker.unlink(missing_ok=True)
        wait_for(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
                                 for pid in processes))
        with pytest.raises(DeadKernelError, match="stopping"):
            asyncio.run(start(pool, "pass"))
