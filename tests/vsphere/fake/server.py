"""TLS listeners and just enough HTTP/1.1: SOAP at /sdk, REST below /api, displays at /ticket/."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tests.vsphere.fake import mks, soap
from tests.vsphere.fake.certificates import Certificate
from tests.vsphere.fake.faults import VCENTER
from tests.vsphere.fake.rest import Rest
from tests.vsphere.fake.service import COOKIE, Service
from tests.vsphere.fake.types import support

MAX_HEAD_BYTES = 1 << 16
FOREVER_SECONDS = 3600.0


@dataclass
class Head:
    verb: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Head:
        first, *lines = data.decode("latin-1").split("\r\n")
        verb, target, _version = first.split(" ", 2)
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        return cls(verb, target, {name.strip().lower(): value.strip() for name, value in pairs})

    def cookie(self, name: str) -> str:
        for one in self.headers.get("cookie", "").split(";"):
            key, _, value = one.strip().partition("=")
            if key == name:
                return value.strip('"')
        return ""


class _Stream(asyncio.StreamReaderProtocol):
    """A stream that says when its connection is lost, whatever is waited for meanwhile."""

    on_lost: Callable[[], object] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()


class Listener:
    """One address and port. ``host`` names the ESXi host whose displays are served there; ``has_api``: /sdk and /api
    are."""

    def __init__(
        self, service: Service, certificate: Certificate, address: str, port: int, *, host: str, has_api: bool
    ) -> None:
        self.address = address
        self.port = port
        self.certificate = certificate
        self._service = service
        self._host = host
        self._has_api = has_api
        self._places = {host} | ({VCENTER} if has_api else set())
        self._rest = Rest(service)
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        if self._socket is not None:
            return
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind((self.address, self.port))
        listening.listen(512)
        self.port = listening.getsockname()[1]
        self._socket = listening
        self._accepting = asyncio.create_task(self._accept(listening))

    async def close(self) -> None:
        """Stops listening and resets every connection."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
        self._socket = self._accepting = None
        handlers = list(self._handlers)
        for one in handlers:
            one.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    async def gate(self) -> None:
        """Returns once the place is not frozen."""
        while self._places & self._service.faults.frozen:
            await self._service.change(FOREVER_SECONDS)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(listening)
            handler = asyncio.create_task(self._connected(accepted))
            self._handlers.add(handler)
            handler.add_done_callback(self._handlers.discard)

    async def _connected(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self.gate()
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = asyncio.StreamReader(MAX_HEAD_BYTES * 4, loop=loop)
            transport, protocol = await loop.connect_accepted_socket(
                lambda: _Stream(reader, loop=loop), accepted, ssl=self.certificate.context
            )
        except OSError:
            accepted.close()
            return
        except asyncio.CancelledError:
            accepted.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await self._requests(reader, writer, protocol)
            writer.close()
        finally:
            if not writer.is_closing():
                transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: _Stream) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        while True:
            await self.gate()
            data = await reader.readuntil(b"\r\n\r\n")
            head = Head.parse(data)
            if head.target.startswith("/ticket/") and self._host:
                await self.gate()
                consoles, world = self._service.consoles, self._service.world
                await mks.serve(consoles, world, self._host, data, reader, writer, self.gate)
                return
            body = await reader.readexactly(int(head.headers.get("content-length", "0")))
            await self.gate()
            stream.on_lost = handler.cancel
            client = writer.get_extra_info("peername") or ("",)  # nobody, who has gone meanwhile
            status, answer, more = await self._route(head, body, client[0])
            await self.gate()
            stream.on_lost = None
            writer.write(_http(status, answer, more))
            await writer.drain()
            if head.headers.get("connection", "").lower() == "close":
                return

    async def _route(self, head: Head, body: bytes, client: str) -> tuple[int, bytes, dict[str, str]]:
        if not self._has_api:
            return 404, b"", {}
        path = head.target.partition("?")[0]
        if path in ("/sdk/vimServiceVersions.xml", "/sdk/vimService/vimServiceVersions.xml"):
            return 200, versions(self._service.world.api_version), {"Content-Type": "text/xml"}
        if path.startswith("/api/"):
            self._service.calls[path] += 1
            answer = self._rest.answer(head.verb, head.target, head.headers, body)
            return answer.status, answer.body(), {"Content-Type": "application/json"}
        if path.rstrip("/") != "/sdk" or head.verb != "POST":
            return 404, b"", {}
        try:
            status, content, cookie = await self._service.answer(
                body, action=head.headers.get("soapaction", ""), cookie=head.cookie(COOKIE), client=client
            )
        except soap.BadRequest as error:
            return 400, str(error).encode(), {}
        more = {"Content-Type": "text/xml; charset=utf-8"}
        if cookie:
            more["Set-Cookie"] = f'{COOKIE}="{cookie}"; Path=/; HttpOnly; Secure;'
        return status, content, more


def _http(status: int, body: bytes, more: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def versions(api_version: str) -> bytes:
    """What a client reads to agree on a version: this server's and all older ones."""
    own: Any = support.versionMap[f"vim25/{api_version}"]
    older = [
        name.partition("/")[2]
        for name, version in support.versionMap.items()
        if name.startswith("vim25/") and version != own and support.IsChildVersion(own, version)
    ]
    prior = "".join(f"<version>{one}</version>" for one in older)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><namespaces version="1.0"><namespace><name>urn:vim25</name>'
        f"<version>{api_version}</version><priorVersions>{prior}</priorVersions></namespace></namespaces>"
    ).encode()
