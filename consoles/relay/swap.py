"""The fast path to the browser: WebSocket frames straight on the transport, no ASGI message per frame."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from consoles.relay.flow import COPY_BELOW_BYTES, WRITE_HIGH_BYTES
from consoles.relay.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameParser,
    close_payload,
    header,
    parse_close,
)
from consoles.relay.links import CLOSE_SECONDS, Hold, ReadGate, close_bounded, waiting_bytes
from consoles.relay.runtime import BROWSER_READ_BYTES, loop_state
from consoles.relay.splice import SplicePump, SpliceTarget, plain_socket

if TYPE_CHECKING:
    from consoles.relay.console import RelayedConsole

# What a browser that takes no data may have waiting besides one read of the VNC server.
MAX_STALLED_CONTROL_BYTES: Final = 16 * 1024
CLOSE_REPLY_SECONDS: Final = 2.0


class SwappedBrowser(asyncio.BufferedProtocol):
    """The browser's transport after the 101 answer, and its ``BrowserLink``.

    ``on_lost`` is called once, when the transport is gone: the web server keeps its own account of connections.
    """

    __slots__ = (
        "_close_sent",
        "_closing",
        "_console",
        "_deferred",
        "_full",
        "_gate",
        "_late_pong",
        "_loop",
        "_lost",
        "_on_lost",
        "_parser",
        "_stalled_control",
        "_state",
        "_stuck",
        "_transport",
        "closed",
    )

    can_ping = True
    lends_buffers = True

    def __init__(
        self,
        transport: asyncio.Transport,
        console: RelayedConsole,
        on_lost: Callable[[Exception | None], None] = lambda exc: None,
    ):
        loop = asyncio.get_running_loop()
        self._transport = transport
        self._console = console
        self._on_lost = on_lost
        self._loop = loop
        self._state = loop_state()
        self._parser = FrameParser()
        self._gate = ReadGate(transport, loop)
        self._full = False
        self._stalled_control = 0
        self._late_pong: bytes | None = None
        self._stuck: SplicePump | None = None  # has half a frame out
        self._deferred: list[bytes] = []  # whole frames that wait for the end of that one
        self._close_sent = False
        self._closing = False
        self._lost = False
        self.closed: asyncio.Future[None] = loop.create_future()
        # uvloop chooses how it reads when reading starts, so it has to be stopped for the change.
        transport.pause_reading()
        transport.set_protocol(self)
        # 0: uvloop sends at once instead of at the turn's end, so the read buffer is free again for the next console.
        # Its TLS transport does not take that.
        plain = transport.get_extra_info("ssl_object") is None
        transport.set_write_buffer_limits(high=0 if plain else WRITE_HIGH_BYTES, low=0)
        transport.resume_reading()

    # Reading (asyncio.BufferedProtocol)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._state.browser_view

    def buffer_updated(self, nbytes: int) -> None:
        if nbytes == BROWSER_READ_BYTES:
            self._gate.yield_turn()
        self.feed(bytes(self._state.browser_view[:nbytes]))

    def feed(self, data: bytes) -> None:
        """Bytes of the browser as they came from the line."""
        pieces: list[bytes] = []
        for opcode, payload in self._parser.feed(data):
            if opcode == BINARY:
                pieces.append(payload)
                continue
            if pieces:
                self._deliver(pieces)
            self._other(opcode, payload)
        if pieces:
            self._deliver(pieces)
        failure = self._parser.failure
        if failure is not None:
            self._violated(failure)

    def _deliver(self, pieces: list[bytes]) -> None:
        self._console.browser_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        pieces.clear()

    def _other(self, opcode: int, payload: bytes) -> None:
        if opcode == PONG:
            self._console.browser_heard()
        elif opcode == PING:
            self._answer_ping(payload)
        elif opcode == TEXT:
            try:
                self._console.browser_text(payload.decode())
            except UnicodeDecodeError:
                self._violated(FrameError(1007, "A text message is not UTF-8."))
        elif opcode == CLOSE:
            self._closed_by_browser(payload)

    def _closed_by_browser(self, payload: bytes) -> None:
        try:
            code, _ = parse_close(payload)
        except FrameError as error:
            self._violated(error)
            return
        if not self._close_sent:
            self._send_close(payload[:2])
            # A close frame without a code is a deliberate close too (WebSocket.close() without arguments).
            self._console.browser_gone(1000 if code is None else code)
        self._finish()

    def _violated(self, failure: FrameError) -> None:
        self._console.browser_violation(failure.code, str(failure))
        self._finish()

    def _answer_ping(self, payload: bytes) -> None:
        self._console.browser_heard()
        if self._close_sent:
            return
        if self._full:
            self._late_pong = payload  # only the latest need be answered (RFC 6455, 5.5.3)
        else:
            self._write(header(len(payload), PONG) + payload)

    def _write(self, frame: bytes) -> None:
        if self._stuck is not None:
            self._deferred.append(frame)
        else:
            self._transport.write(frame)

    def _finish(self) -> None:
        """Closes when everything is sent."""
        self._closing = True
        if self._stuck is None:
            close_bounded(self._loop, self._transport)
        else:
            self._loop.call_later(CLOSE_SECONDS, self._transport.abort)

    def eof_received(self) -> None:
        self._console.browser_gone(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._console.browser_gone(None)
        if self._stuck is not None:
            self._stuck.stop()
            self._stuck = None
        self._on_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)

    # Back-pressure of the browser (asyncio.BaseProtocol)

    def pause_writing(self) -> None:
        self._full = True
        self._stalled_control = 0
        self._console.browser_full()

    def resume_writing(self) -> None:
        self._full = False
        pong, self._late_pong = self._late_pong, None
        if pong is not None and not self._close_sent:
            self._write(header(len(pong), PONG) + pong)
        self._console.browser_drained()

    # SpliceTarget

    def splice_target(self) -> SpliceTarget | None:
        return None if self._close_sent else self

    def plain_socket(self) -> socket.socket | None:
        return plain_socket(self._transport)

    def frame_stuck(self, pump: SplicePump) -> None:
        self._stuck = pump
        self.pause_writing()

    def frame_done(self) -> None:
        self._stuck = None
        self.resume_writing()
        deferred, self._deferred = self._deferred, []
        if deferred and not self._transport.is_closing():
            self._transport.writelines(deferred)
        if self._closing:
            close_bounded(self._loop, self._transport)

    def abort(self) -> None:
        self._transport.abort()

    # BrowserLink

    def send_data(self, data: bytes | memoryview) -> None:
        if self._close_sent:
            return
        if self._stuck is not None:
            self._deferred.append(header(len(data)) + data)
        elif len(data) < COPY_BELOW_BYTES:
            self._transport.write(header(len(data)) + data)
        else:
            self._transport.writelines((header(len(data)), data))

    def send_text(self, text: str) -> bool:
        return self._send_control(TEXT, text.encode())

    def ping(self) -> None:
        self._send_control(PING, os.urandom(4))

    def _send_control(self, opcode: int, payload: bytes) -> bool:
        if self._close_sent or self._transport.is_closing():
            return False
        if self._full:
            self._stalled_control += len(payload) + 4
            if self._stalled_control > MAX_STALLED_CONTROL_BYTES:
                return False
        self._write(header(len(payload), opcode) + payload)
        return True

    def unsent_bytes(self) -> int:
        stuck = 0 if self._stuck is None else self._stuck.waiting_bytes
        return waiting_bytes(self._transport) + stuck

    def hold_reading(self) -> None:
        self._gate.hold(Hold.PEER)

    def release_reading(self) -> None:
        self._gate.release(Hold.PEER)

    def close(self, code: int, text: str) -> None:
        if not self._close_sent and not self._transport.is_closing():
            self._gate.release(Hold.PEER)  # to see the browser's own close frame
            self._send_close(close_payload(code, text))
            self._loop.call_later(CLOSE_REPLY_SECONDS, self._transport.abort)

    def _send_close(self, payload: bytes) -> None:
        self._close_sent = True
        self._write(header(len(payload), CLOSE) + payload)
