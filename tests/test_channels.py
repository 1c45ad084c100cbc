"""Messages between runner and kernel: what has arrived is noticed, and what never will is told."""

import asyncio
import subprocess
import sys
import time

import pytest
import small_grid
import zmq
import zmq.asyncio
from jupyter_client.session import Session
from waits import HANG

from dgs_utils.batch import channels
from dgs_utils.batch.channels import Channel
from dgs_utils.batch.kernel import manager_class


async def reply_while_sending(place: str) -> str:
    """Wait for a reply that arrives just when this side sends something else; return its type."""
    session = Session(key=b"any")
    kernel, ours = zmq.Context.instance().socket(zmq.ROUTER), zmq.asyncio.Context.instance().socket(zmq.DEALER)
    try:
        kernel.bind(place)
        ours.identity = b"runner"
        ours.connect(place)
        channel = Channel(ours, session)
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


@pytest.mark.parametrize(("look", "mended"), [(HANG * 10, True), (0.05, False)])
def test_a_reply_that_arrives_while_something_is_sent_is_noticed(tmp_path, monkeypatch, look, mended):
    """Each of the two ways that see to it does so alone: sending gives the wake-up back, and looks are repeated."""
    monkeypatch.setattr(channels, "LOOK", look)
    if not mended:
        monkeypatch.setattr(Channel, "send", channels.AsyncZMQSocketChannel.send)
    assert asyncio.run(reply_while_sending(f"ipc://{tmp_path}/socket")) == "execute_reply"


IMPATIENT = """
import sys
from dgs_utils import cli
from dgs_utils.batch import channels
channels.SILENCE = 2.0
sys.exit(cli.main(["run", "params/small.yaml", "--until", "prepare"]))
"""


def run_impatiently(workspace, cell: str) -> str:
    """Run a small notebook in whose middle this cell stands; return what a runner prints that is patient for 2 s."""
    small_grid.replace_cell(workspace, "00_prepare", 2, cell)
    done = subprocess.run([sys.executable, "-c", IMPATIENT], cwd=workspace, env=small_grid.environment(workspace),
                          capture_output=True, text=True, timeout=HANG)
    return done.stdout


def test_an_idle_kernel_whose_cell_counts_as_running_is_told(tmp_path):
    printed = run_impatiently(small_grid.build(tmp_path / "grid"), "async def swallow(*_): pass\n"
                              "get_ipython().kernel.shell_handlers['execute_request'] = swallow")
    [line] = [line for line in printed.splitlines() if line.startswith("FAILED 00_prepare")]
    assert "the kernel is idle although the cell that begins with \"print('looked at')\" counts as running" in line


def test_a_kernel_that_computes_without_a_word_is_left_alone(tmp_path):
    printed = run_impatiently(small_grid.build(tmp_path / "grid"), "import time; time.sleep(5)")
    assert "[1/1] 00_prepare digits: done in" in printed


class OwnKernel:
    """A kernel of a batch run, begun with this program."""

    def __init__(self, program: str = ""):
        self.manager = manager_class()()
        if program:
            self.manager.kernel_spec.argv = [sys.executable, "-c", program]

    async def __aenter__(self) -> channels.Client:
        await self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        return self.client

    async def __aexit__(self, *_) -> None:
        self.client.stop_channels()
        await self.manager.shutdown_kernel(now=True)


def test_a_kernel_that_is_ready_has_nothing_more_to_say():
    """What comes next on its channels is about what it is asked next."""
    async def first_words() -> list[tuple[bool, str]]:
        async with OwnKernel() as client:
            await client.wait_for_ready(HANG)
            request, found = client.execute("print(6 * 7)"), []
            for channel, last in ((client.iopub_channel, "idle"), (client.shell_channel, "ok")):
                while not found or found[-1][1] != last:
                    message = await channel.get_msg(HANG)
                    content = message["content"]
                    told = content.get("execution_state") or content.get("text") or content.get("status")
                    found.append((message["parent_header"].get("msg_id") == request, told))
            return found

    assert asyncio.run(first_words()) == [(True, "busy"), (True, None), (True, "42\n"), (True, "idle"), (True, "ok")]


@pytest.mark.parametrize(("program", "timeout", "told"), [
    ("pass", HANG, "the kernel ended before it answered"), ("import time; time.sleep(1000)", 0.1, "in 0.1 seconds")])
def test_a_kernel_that_does_not_come_is_told(program, timeout, told):
    async def wait() -> None:
        async with OwnKernel(program) as client:
            await client.wait_for_ready(timeout)

    with pytest.raises(RuntimeError, match=told):
        asyncio.run(wait())
