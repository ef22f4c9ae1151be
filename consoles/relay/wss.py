"""A VNC server behind a secure WebSocket (ESXi's webmks, QEMU's websocket): looks like any other transport."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import Any, Final, cast
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from cloudops.hypervisors.port import ConsoleEndpoint
from consoles.relay import tls
from consoles.relay.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTicketRefused,
    UpstreamUnreachable,
)
from consoles.relay.frames import BINARY, CLOSE, PING, PONG, FrameParser, close_payload, masked_frame

MAX_RESPONSE_BYTES: Final = 16 * 1024
PING_SECONDS: Final = 10.0
SILENT_SECONDS: Final = 25.0
KEEPALIVE_SECONDS: Final = 5
TICKET_REFUSALS: Final = frozenset({b"400", b"401", b"403", b"404", b"410"})
"""HTTP statuses by which a server says that it knows no such ticket, or knows it no more."""


async def connect_wss(endpoint: ConsoleEndpoint, protocol: asyncio.Protocol) -> None:
    """Connects ``protocol`` to the VNC server behind ``endpoint.url``.

    The certificate is verified by pin or CA. Raises :class:`UpstreamError` subclasses and what ``create_connection``
    raises.
    """
    parts = urlsplit(endpoint.url)
    if parts.scheme != "wss" or not parts.hostname:
        raise UpstreamUnreachable("The console's URL is not a wss:// URL.")
    settings = tls.verified(endpoint, parts.hostname)
    try:
        line = _WssLine(endpoint.url)
    except WebSocketException as error:
        raise UpstreamUnreachable(f"The console's URL is not valid: {error}") from None
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: line,
        parts.hostname,
        parts.port or 443,
        ssl=settings.context,
        server_hostname=settings.server_hostname,
    )
    try:
        settings.check(transport.get_extra_info("ssl_object"))
        await line.open()
    except BaseException:
        transport.abort()
        raise
    line.attach(protocol)


class _WssLine(asyncio.Protocol):
    """The TLS transport's protocol: the HTTP upgrade first, then frames.

    A line whose other end is gone is noticed by the kernel (keep-alive). A server that knows pings, as it sent one
    itself, is pinged too, and given up when it falls silent: it hangs although its machine lives. Others are not, as
    nobody knows what a display's server makes of a ping, and one that does not change may say nothing for hours.
    """

    def __init__(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        self._client = ClientProtocol(parse_uri(url), subprotocols=[Subprotocol("binary")])
        self._parser = FrameParser(masked=False)
        self._answer: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._heard_at = loop.time()
        self._knows_pings = False
        self._timer: asyncio.TimerHandle | None = None
        self._head = bytearray()
        self._early: list[bytes] = []
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.outer: WssTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        _keep_alive(transport.get_extra_info("socket"))

    async def open(self) -> None:
        """The upgrade. Raises :class:`UpstreamRefused` when the server says no."""
        self._client.send_request(self._client.connect())
        self.transport.writelines(self._client.data_to_send())
        await self._answer

    def attach(self, protocol: asyncio.Protocol) -> None:
        self.outer = WssTransport(self.transport, protocol)
        protocol.connection_made(self.outer)
        for piece in self._early:
            self.outer.deliver(piece)
        self._early.clear()
        self._check_life()

    def _check_life(self) -> None:
        """Every few seconds, as long as the line lives."""
        if self.transport.is_closing():
            return
        now = self._loop.time()
        if self.outer is not None and not self.outer.is_reading():
            self._heard_at = now  # the browser is slow: what the server says cannot be heard
        silence = now - self._heard_at
        if self._knows_pings and silence >= SILENT_SECONDS:
            self.transport.abort()
            return
        if self._knows_pings and silence >= PING_SECONDS:
            self.transport.write(masked_frame(b"", os.urandom(4), PING))
        self._timer = self._loop.call_later(PING_SECONDS / 2, self._check_life)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        if not self._answer.done():
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > MAX_RESPONSE_BYTES:
                    self._fail("The server's answer to the WebSocket upgrade has no end.")
                return
            head, data = bytes(self._head[: end + 4]), bytes(self._head[end + 4 :])
            self._upgraded(head)
        if data:
            self._frames(data)

    def _upgraded(self, head: bytes) -> None:
        status = head.split(b" ", 2)[1:2]
        if status and status[0] in TICKET_REFUSALS:
            self._refused(UpstreamTicketRefused(f"The server answered {head.splitlines()[0].decode('latin-1')[:100]}."))
            return
        try:
            self._client.receive_data(head)
            for event in self._client.events_received():
                if isinstance(event, Response) and self._client.handshake_exc is None:
                    self._answer.set_result(None)
                    return
        except WebSocketException as error:
            self._fail(str(error))
            return
        self._fail(str(self._client.handshake_exc or "The server does not speak WebSocket."))

    def _frames(self, data: bytes) -> None:
        for opcode, payload in self._parser.feed(data):
            if opcode == BINARY:
                if self.outer is None:
                    self._early.append(payload)
                else:
                    self.outer.deliver(payload)
            elif opcode == PING:
                self._knows_pings = True
                self.transport.write(masked_frame(payload, os.urandom(4), PONG))
            elif opcode == CLOSE:
                self.transport.close()
        if self._parser.failure is not None:
            self.transport.abort()

    def _fail(self, detail: str) -> None:
        self._refused(UpstreamRefused(detail))

    def _refused(self, error: UpstreamError) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # nobody may ask any more, when the certificate was not the right one

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._refused(UpstreamProtocolError("The server closed during the WebSocket upgrade."))
        if self.outer is not None:
            self.outer.get_protocol().connection_lost(exc)

    def pause_writing(self) -> None:
        if self.outer is not None:
            self.outer.get_protocol().pause_writing()

    def resume_writing(self) -> None:
        if self.outer is not None:
            self.outer.get_protocol().resume_writing()


def _keep_alive(line: Any) -> None:
    """A peer that does not answer any more is given up by the kernel, whether we have something to say or not."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(PING_SECONDS) or 1)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_SECONDS * 1000))


class WssTransport(asyncio.Transport):
    """The byte stream inside the WebSocket, with the flow control of the TLS transport under it."""

    def __init__(self, line: asyncio.Transport, protocol: asyncio.BaseProtocol):
        super().__init__()
        self._line = line
        self._protocol = protocol
        self._reading = True  # TLS transports cannot be asked

    def deliver(self, data: bytes) -> None:
        """Bytes of the server for whichever kind of protocol is set."""
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            while data:
                buffer = memoryview(protocol.get_buffer(len(data)))
                size = min(len(buffer), len(data))
                buffer[:size] = data[:size]
                protocol.buffer_updated(size)
                data = data[size:]
        elif isinstance(protocol, asyncio.Protocol):
            protocol.data_received(data)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if data:
            self._line.write(masked_frame(bytes(data), os.urandom(4)))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._line.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._line.is_closing()

    def close(self) -> None:
        if not self._line.is_closing():
            self._line.write(masked_frame(close_payload(1000), os.urandom(4), CLOSE))
            self._line.close()

    def abort(self) -> None:
        self._line.abort()

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False
        self._line.pause_reading()

    def resume_reading(self) -> None:
        self._reading = True
        self._line.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._line.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        return self._line.get_write_buffer_size()
