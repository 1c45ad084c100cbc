"""What a runner hears from a kernel: no message that is there is waited for, and a reply that will not come is told.

ZeroMQ wakes a reader once for each change, not as long as there is something to read, and sending takes that wake-up
along with it. jupyter_client sends past the reader's back: where a cell has widgets, nbclient answers them on the
shell's socket while it waits there for the cell's reply, and a reply that arrives in just that moment is never noticed.
"""

import asyncio
import math
import time
from queue import Empty
from typing import Any

import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient.exceptions import DeadKernelError
from traitlets import Type

LOOK = 1.0  # seconds after which a socket is looked at anew, whatever it has told
LONGEST = 200_000  # characters that one cell may print into its executed notebook and log
LEFT_OUT = "\n… what else this cell prints is left out\n"
WELCOME = 0.2  # seconds in which what a kernel publishes arrives, once it has answered
SILENCE = 50.0  # seconds in which a kernel that has nothing to do has to answer a request


class LostReplyError(RuntimeError):
    """A kernel has nothing to do, and has not answered."""


class Channel(AsyncZMQSocketChannel):
    """A channel on which sending does not cost the wake-up of what arrives meanwhile."""

    def send(self, msg: dict[str, Any]) -> None:
        """Send a message, then have the event loop look at what has arrived."""
        super().send(msg)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # nobody can be waiting
        self.socket.get(zmq.EVENTS)  # of a socket of zmq.asyncio, this is what schedules the look

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message.

        Args:
            timeout: seconds to wait; None = for ever.

        Raises:
            Empty: none came in time.
        """
        while timeout is None or timeout > LOOK:
            try:
                return await self._heard(LOOK)
            except Empty:
                timeout = None if timeout is None else timeout - LOOK
        return await self._heard(timeout)

    async def _heard(self, timeout: float) -> dict[str, Any]:
        return await super().get_msg(timeout)


class News(Channel):
    """What a kernel publishes, its outputs and which requests it is busy with; of a flood of text, the beginning."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.count = 0
        self.busy: set[str] = set()
        self.room = LONGEST

    async def _heard(self, timeout: float) -> dict[str, Any]:
        while True:
            message = await super()._heard(timeout)
            self.count += 1
            if message["msg_type"] == "status":
                self._note(message["parent_header"].get("msg_id", ""), message["content"]["execution_state"])
            if message["msg_type"] != "stream" or self._shorten(message["content"]):
                return message

    def _note(self, request: str, kernel: str) -> None:
        """Note which requests the kernel is at; the first one in an idle kernel is a new cell's, with new room."""
        if kernel != "busy":
            self.busy.discard(request)
            return
        if not self.busy:
            self.room = LONGEST
        self.busy.add(request)

    def _shorten(self, content: dict[str, Any]) -> bool:
        """Cut printed text where the room ends; return whether anything is left of it."""
        text, self.room = content["text"], self.room - len(content["text"])
        if self.room < 0:
            content["text"] = text[:self.room] + LEFT_OUT if -self.room <= len(text) else ""
        return bool(content["text"])


class Replies(Channel):
    """What a kernel answers; a request that it left unanswered although it has nothing to do raises an error."""

    news: News | None = None

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.silence = 0.0  # counted in looks that found nothing: a runner that was stopped itself has not waited
        self.count = 0
        self.cell = ""

    def send(self, msg: dict[str, Any]) -> None:
        """Send a message, and note which cell it asks the kernel to run."""
        self.silence = 0.0
        if msg["msg_type"] == "execute_request":
            self.cell = next(iter(msg["content"]["code"].strip().splitlines()), "")
        super().send(msg)

    async def _heard(self, timeout: float) -> dict[str, Any]:
        try:
            message = await super()._heard(timeout)
        except Empty:
            self._count_silence(timeout)
            raise
        self.silence = 0.0
        return message

    def _count_silence(self, seconds: float) -> None:
        """Raise an error where a kernel that has spoken before keeps silent, with nothing to do, for too long."""
        if self.news is None or not self.news.count:
            return  # it is starting
        if self.news.busy or self.news.count != self.count:
            self.silence, self.count = 0.0, self.news.count
            return
        self.silence += seconds
        if self.silence >= SILENCE:
            raise LostReplyError(f"the kernel is idle although the cell that begins with {self.cell[:60]!r} counts as "
                                 f"running, since its reply is missing; run the same command again")


class Client(AsyncKernelClient):
    """A kernel's client with these channels, which waits for no more when all has been said."""

    iopub_channel_class = Type(News)
    shell_channel_class = Type(Replies)

    def start_channels(self, *arguments: Any, **options: Any) -> None:
        """Open the channels."""
        super().start_channels(*arguments, **options)
        self.shell_channel.news = self.iopub_channel

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait until the kernel has answered a request, and all that it published about it has arrived here.

        jupyter_client then listens for a fifth of a second, in each notebook, whether more is published. But a new
        kernel has told everything when it says that it is idle after a request of its only client.

        Args:
            timeout: seconds to wait; None = for ever.

        Raises:
            DeadKernelError: the kernel has ended.
            RuntimeError: time is up.
        """
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        while True:
            request = self.kernel_info()
            while not await self._replies():
                if not await self.is_alive():
                    raise DeadKernelError("the kernel ended before it answered")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the kernel did not answer in {timeout:g} seconds; run the same command again")
            if await self._is_idle_after(request):
                return

    async def _replies(self) -> bool:
        """Return whether the kernel answers now."""
        try:
            await self.shell_channel.get_msg(LOOK)
        except Empty:
            return False
        return True

    async def _is_idle_after(self, request: str) -> bool:
        """Return whether the kernel says that it is done with a request; not if it said so before it was heard here."""
        try:
            while True:
                message = await self.iopub_channel.get_msg(WELCOME)
                of, state = message["parent_header"].get("msg_id"), message["content"].get("execution_state")
                if (of, state) == (request, "idle"):
                    return True
        except Empty:
            return False
