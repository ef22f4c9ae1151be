"""The slow path to the browser: plain ASGI messages, for servers without the ``cloudops.relay`` extension."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from consoles.relay.flow import WRITE_HIGH_BYTES
from consoles.relay.frames import MAX_FRAME_BYTES, close_payload
from consoles.relay.runtime import BROWSER_READ_BYTES
from consoles.relay.swap import MAX_STALLED_CONTROL_BYTES

if TYPE_CHECKING:
    from consoles.relay.console import RelayedConsole

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CLOSE_SECONDS: Final = 2.0
# What a waiting message costs besides its payload; a server that dribbles must not fill memory with tiny messages.
_MESSAGE_BYTES: Final = 256

log = logging.getLogger("consoles.relay")


class AsgiBrowser:
    """A ``BrowserLink`` over ``receive`` and ``send``.

    The ASGI server sends the pings (uvicorn: ``ws_ping_interval``, ``ws_ping_timeout``); it reports a browser that
    does not answer them as a lost line.
    """

    can_ping = False
    lends_buffers = False

    def __init__(self, receive: Receive, send: Send, console: RelayedConsole):
        self._receive = receive
        self._send = send
        self._console = console
        self._out: deque[tuple[Message, int]] = deque()
        self._out_bytes = 0
        self._out_ready = asyncio.Event()
        self._full = False
        self._stalled_control = 0
        self._readable = asyncio.Event()
        self._readable.set()
        self._gone = False
        self._closing: Message | None = None
        self._writer: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Moves messages both ways until the console has ended and the browser was told, or cannot be told."""
        writer = self._writer = asyncio.create_task(self._write_all())
        reader = asyncio.create_task(self._read_all())
        try:
            if self._closing is not None:
                self._bound_closing()
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if self._closing is not None:
                await asyncio.wait((writer,))  # bounded by _bound_closing
        finally:
            self._gone = True
            self._console.browser_gone(None)  # does nothing when the console has ended already
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read_all(self) -> None:
        while self._closing is None:
            await self._readable.wait()
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._gone = True
                self._console.browser_gone(message.get("code"))
                return
            await self._deliver(message)

    async def _deliver(self, message: Message) -> None:
        text = message.get("text")
        if text is not None:
            self._console.browser_text(text)
            return
        data = message.get("bytes") or b""
        if len(data) > MAX_FRAME_BYTES:
            self._console.browser_violation(1009, f"A message has {len(data)} bytes; at most {MAX_FRAME_BYTES} fit.")
            return
        for start in range(0, len(data), BROWSER_READ_BYTES):
            self._console.browser_data(data[start : start + BROWSER_READ_BYTES])
            await asyncio.sleep(0)  # the others' turn
            await self._readable.wait()

    async def _write_all(self) -> None:
        """One sender keeps the order; a server that waits inside ``send`` is the back-pressure."""
        try:
            while True:
                while self._out:
                    message, size = self._out.popleft()
                    await self._send(message)
                    self._taken(size)
                if self._closing is not None:
                    await self._send(self._closing)
                    return
                self._out_ready.clear()
                await self._out_ready.wait()
        except Exception as error:  # every server has its own way to say that the browser is gone
            log.debug("console %s: sending failed: %r", self._console.id, error)
            self._gone = True
            self._console.browser_gone(None)

    def _taken(self, size: int) -> None:
        self._out_bytes -= size
        if self._full and self._out_bytes <= WRITE_HIGH_BYTES // 4:
            self._full = False
            self._console.browser_drained()

    def _put(self, message: Message, payload_bytes: int) -> None:
        size = payload_bytes + _MESSAGE_BYTES
        self._out.append((message, size))
        self._out_bytes += size
        self._out_ready.set()

    def _bound_closing(self) -> None:
        if self._writer is not None:
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._writer.cancel)

    # BrowserLink

    def send_data(self, data: bytes | memoryview) -> None:
        if self._closing is not None or self._gone:
            return
        self._put({"type": "websocket.send", "bytes": bytes(data)}, len(data))
        if not self._full and self._out_bytes > WRITE_HIGH_BYTES:
            self._full = True
            self._stalled_control = 0
            self._console.browser_full()

    def send_text(self, text: str) -> bool:
        if self._closing is not None or self._gone:
            return False
        if self._full:
            self._stalled_control += len(text)
            if self._stalled_control > MAX_STALLED_CONTROL_BYTES:
                return False
        self._put({"type": "websocket.send", "text": text}, len(text))
        return True

    def ping(self) -> None:
        """ASGI has no message for it."""

    def splice_target(self) -> None:
        """The ASGI server owns the socket."""

    def unsent_bytes(self) -> int:
        return self._out_bytes

    def hold_reading(self) -> None:
        self._readable.clear()

    def release_reading(self) -> None:
        self._readable.set()

    def close(self, code: int, text: str) -> None:
        if self._closing is not None or self._gone:
            return
        reason = close_payload(code, text)[2:].decode()
        self._closing = {"type": "websocket.close", "code": code, "reason": reason}
        self._readable.set()
        self._out_ready.set()
        self._bound_closing()
