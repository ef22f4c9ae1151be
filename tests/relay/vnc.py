"""A small VNC server that does what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from dataclasses import dataclass, field

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from consoles.relay.rfb import vnc_response

SERVER_INIT = struct.pack("!HH16sI", 640, 480, bytes(16), 4) + b"test"


@dataclass
class VncScript:
    """How the server behaves. ``vencrypt`` are the subtypes offered inside security type 19."""

    version: bytes = b"RFB 003.008\n"
    types: tuple[int, ...] = (1,)
    password: str = ""
    vencrypt: tuple[int, ...] = ()
    tls: ssl.SSLContext | None = None
    reason: str = ""
    silent_after: int | None = None
    raw_greeting: bytes | None = None


@dataclass
class VncServer:
    script: VncScript = field(default_factory=VncScript)
    host: str = "127.0.0.1"
    port: int = 0
    received: bytearray = field(default_factory=bytearray)
    peers: list[tuple[str, int]] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    read_input: bool = True
    errors: list[str] = field(default_factory=list)
    _server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> VncServer:
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=tls, limit=1 << 16)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    def endpoint(self, **changes: object) -> ConsoleEndpoint:
        values: dict[str, object] = {"transport": Transport.TCP, "host": self.host, "port": self.port} | changes
        return ConsoleEndpoint(**values)  # type: ignore[arg-type]

    @property
    def writer(self) -> asyncio.StreamWriter:
        return self.writers[-1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.peers.append(writer.get_extra_info("peername")[:2])
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                if await self._handshake(reader, writer):
                    self.ready.set()
                    while self.read_input:
                        data = await reader.read(65536)
                        if not data:
                            break
                        self.received += data
                    if not self.read_input:
                        writer.transport.pause_reading()  # type: ignore[attr-defined]
                        await asyncio.Event().wait()
        except Exception as error:  # shown by the test that cares
            self.errors.append(repr(error))
        finally:
            self.closed.set()
            writer.transport.abort()

    async def _handshake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        script = self.script
        writer.write(script.version if script.raw_greeting is None else script.raw_greeting)
        answer = await reader.readexactly(12)
        minor = int(answer[8:11])
        kind = await self._agree(reader, writer, minor)
        if kind is None:
            return False
        authenticated = True
        if kind == 19:
            kind = await self._vencrypt(reader, writer)
        if kind == 2:
            authenticated = await self._password(reader, writer)
        if kind == 2 or minor >= 8 or 19 in script.types:
            writer.write(struct.pack("!I", 0 if authenticated else 1))
            if not authenticated and minor >= 8:
                writer.write(struct.pack("!I", 21) + b"Authentication failed")
        if not authenticated:
            await writer.drain()
            return False
        self.received += await reader.readexactly(1)
        writer.write(SERVER_INIT)
        return True

    async def _agree(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, minor: int) -> int | None:
        script = self.script
        if script.silent_after == 0:
            await asyncio.Event().wait()
        if script.reason:
            reason = struct.pack("!I", len(script.reason)) + script.reason.encode()
            writer.write((b"\0\0\0\0" if minor == 3 else b"\0") + reason)
            await writer.drain()
            return None
        if minor == 3:
            writer.write(struct.pack("!I", script.types[0]))
            return script.types[0]
        writer.write(bytes((len(script.types), *script.types)))
        return (await reader.readexactly(1))[0]

    async def _vencrypt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(b"\0\2")
        assert await reader.readexactly(2) == b"\0\2"
        offered = self.script.vencrypt
        writer.write(b"\0" + bytes((len(offered),)) + b"".join(struct.pack("!I", kind) for kind in offered))
        chosen = struct.unpack("!I", await reader.readexactly(4))[0]
        assert chosen in offered
        writer.write(b"\1")
        assert self.script.tls is not None
        await writer.start_tls(self.script.tls)
        return 2 if chosen in (258, 261) else 1

    async def _password(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        challenge = os.urandom(16)
        writer.write(challenge)
        return await reader.readexactly(16) == vnc_response(challenge, self.script.password)


def socket_pair_to(server: VncServer) -> int:
    """The descriptor of a socket connected to ``server``, as libvirt would pass it."""
    sock = socket.create_connection((server.host, server.port))
    sock.setblocking(False)
    return sock.detach()
