"""Opens the way to a VM's VNC server, whatever its transport, and does the RFB security handshake there."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final, cast
from urllib.parse import urlsplit

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from consoles.relay import rfb, tls
from consoles.relay.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimedOut,
    UpstreamTlsError,
    UpstreamUnreachable,
)

# More than any handshake needs; a server that says more before ClientInit is no VNC server.
MAX_EARLY_BYTES: Final = 64 * 1024


class HandshakeStream(asyncio.Protocol):
    """Reads exact amounts while the handshake lasts, and keeps what comes after it for the relay."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > MAX_EARLY_BYTES and self.transport is not None:
            self.transport.abort()
        if len(self._buffer) >= self._wanted:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take_early(self) -> bytes:
        """What came after the handshake's last answer."""
        early = bytes(self._buffer)
        self._buffer.clear()
        return early

    # rfb.Stream

    async def read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if self.lost:
                raise UpstreamRefused("The server closed the connection during the handshake.")
            self._wanted = count
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    async def start_tls(self, settings: tls.TlsSettings) -> None:
        if self._buffer or self.transport is None:
            raise UpstreamProtocolError("The server spoke before TLS began.")
        loop = asyncio.get_running_loop()
        try:
            upgraded = await loop.start_tls(
                self.transport, self, settings.context, server_hostname=settings.server_hostname or None
            )
        except OSError as error:  # ssl.SSLError is one
            raise UpstreamTlsError(tls.error_text(error)) from None
        if upgraded is None:
            raise UpstreamTlsError("The server closed the connection during the TLS handshake.")
        self.transport = upgraded
        settings.check(upgraded.get_extra_info("ssl_object"))


class Upstream:
    """A VNC server that has let us in and waits for ClientInit. Whoever holds it closes it."""

    def __init__(self, stream: HandshakeStream, transport: asyncio.Transport, security: str):
        self._stream = stream
        self._transport = transport
        self._attached = False
        self.security = security
        self.local_address = _local_address(transport)

    @property
    def lost(self) -> bool:
        """Whether the server has gone away since."""
        return self._stream.lost or self._transport.is_closing()

    def take_early(self) -> bytes:
        """What the server said since the handshake; normally nothing."""
        return self._stream.take_early()

    def attach(self) -> asyncio.Transport:
        """Gives the transport to the caller, who sets its own protocol and closes it."""
        self._attached = True
        return self._transport

    def close(self) -> None:
        """Ends the connection; after :meth:`attach` that is the caller's to do, and this does nothing."""
        if not self._attached:
            self._transport.abort()


async def open_upstream(endpoint: ConsoleEndpoint, timeout_seconds: float = 10.0) -> Upstream:
    """Connects and authenticates within ``timeout_seconds``.

    A passed file descriptor is closed in any case. Raises :class:`UpstreamError` subclasses; see ``errors``.
    """
    stream = HandshakeStream()
    try:
        async with asyncio.timeout(timeout_seconds):
            await _connect(endpoint, stream)
            security = await rfb.secure(stream, endpoint)
    except TimeoutError:
        _abort(stream)
        where = "connected, but silent" if stream.transport is not None else "no connection"
        raise UpstreamTimedOut(
            f"{_name(endpoint)}: {where} after {timeout_seconds:g} s.", numbers={"timeout_seconds": timeout_seconds}
        ) from None
    except (UpstreamError, asyncio.CancelledError):
        _abort(stream)
        raise
    if stream.transport is None:
        raise UpstreamUnreachable(f"{_name(endpoint)}: no connection.")
    return Upstream(stream, stream.transport, security)


async def _connect(endpoint: ConsoleEndpoint, stream: HandshakeStream) -> None:
    loop = asyncio.get_running_loop()
    try:
        match endpoint.transport:
            case Transport.TCP:
                await loop.create_connection(lambda: stream, endpoint.host, endpoint.port)
            case Transport.TLS:
                settings = tls.verified(endpoint)
                transport, _ = await loop.create_connection(
                    lambda: stream,
                    endpoint.host,
                    endpoint.port,
                    ssl=settings.context,
                    server_hostname=settings.server_hostname,
                )
                settings.check(transport.get_extra_info("ssl_object"))
            case Transport.FD:
                await _adopt(endpoint.fd, stream)
            case Transport.WSS:
                from consoles.relay.wss import connect_wss  # here, as only ESXi needs it

                await connect_wss(endpoint, stream)
    except ssl.SSLError as error:
        raise UpstreamTlsError(f"{_name(endpoint)}: {tls.error_text(error)}") from None
    except (OSError, ValueError, OverflowError) as error:
        raise UpstreamUnreachable(f"{_name(endpoint)}: {error}") from None


async def _adopt(fd: int, stream: HandshakeStream) -> None:
    """Takes a connected socket over; libvirt passes Unix sockets, tests TCP ones too."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(fileno=fd)
    try:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            await loop.create_unix_connection(lambda: stream, sock=sock)
        else:
            await loop.create_connection(lambda: stream, sock=sock)
    except BaseException:
        sock.close()
        raise


def _abort(stream: HandshakeStream) -> None:
    if stream.transport is not None:
        stream.transport.abort()


def _name(endpoint: ConsoleEndpoint) -> str:
    if endpoint.transport is Transport.FD:
        return f"file descriptor {endpoint.fd}"
    if endpoint.transport is Transport.WSS:
        return urlsplit(endpoint.url).netloc  # not all of it: a ticket is a secret
    return f"{endpoint.host}:{endpoint.port}"


def _local_address(transport: asyncio.Transport) -> tuple[str, int] | None:
    """Our end of the line as the VNC server sees it; None where it has no address."""
    name = transport.get_extra_info("sockname")
    if isinstance(name, tuple) and len(name) >= 2:
        return str(name[0]), int(name[1])
    return None
