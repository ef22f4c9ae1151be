"""The real gateway on a real web server in this event loop, with a scripted VNC server behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import uvicorn
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.test import Client
from django.utils import timezone

from cloudops.accounts.models import User
from cloudops.asgi import application
from cloudops.hypervisors.port import ConsoleEndpoint, VmFacts
from cloudops.inventory import endpoints
from consoles.lease import LeaseKeeper, keeper
from consoles.relay.frames import CLOSE, parse_close
from consoles.sessions import Opened
from tests.consoles.world import World, fresh
from tests.relay.browser import Browser
from tests.relay.vnc import VncServer

T = TypeVar("T")
CONTROL = ("binary", "cloudops.control.v1")


class Page(Browser):
    """A browser's console page, or a script; knows how to come with a cookie, an Origin or a token."""

    @classmethod
    async def visit(cls, port: int, subprotocols: tuple[str, ...], headers: dict[str, str]) -> Page:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        lines = [
            "GET /ws/console/ HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: " + ", ".join(subprotocols),
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 15)).decode()
        return cls(reader, writer, head)

    async def closed(self, seconds: float = 8.0) -> tuple[int, str]:
        """The close frame's code and words; everything before it is dropped."""
        while True:
            frame = await self.next(seconds)
            assert frame is not None, "line ended without a close frame"
            if frame[0] == CLOSE:
                code, words = parse_close(frame[1])
                return code or 0, words

    async def hello(self) -> dict[str, Any]:
        message = await self.message(10)
        assert message["type"] == "hello", message
        return message

    def cut(self) -> None:
        """The line breaks without a word."""
        self.writer.transport.abort()


@dataclass
class Gate:
    """What a gateway test works with."""

    world: World
    vnc: VncServer
    port: int
    lease: LeaseKeeper
    facts: Callable[[], VmFacts] | None = None
    pages: list[Page] = field(default_factory=list)

    async def db(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await sync_to_async(partial(function, *args, **kwargs))()

    async def open(self, **more: Any) -> Opened:
        return await self.db(self.world.open, timezone.now(), **more)

    async def in_use(self) -> int:
        return await self.db(self.world.in_use, timezone.now())

    async def cookie(self, user: User) -> str:
        def sign_in() -> str:
            client = Client()
            client.force_login(user)
            return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"

        return await self.db(sign_in)

    async def knock(self, *secrets: str, **headers: str) -> Page:
        """A socket with these extra subprotocols and headers (``_`` for ``-``)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        page = await Page.visit(self.port, (*CONTROL, *secrets), named)
        self.pages.append(page)
        return page

    async def enter(self, opened: Opened, **headers: str) -> tuple[Page, dict[str, Any]]:
        """A script's page that is in."""
        page = await self.knock(f"cloudops.secret.{opened.secret}", **headers)
        return page, await page.hello()

    async def eventually(self, check: Callable[[], T], within_seconds: float = 5.0) -> T:
        """``check()`` in a thread until it is true."""
        deadline = asyncio.get_running_loop().time() + within_seconds
        while not (found := await self.db(check)):
            assert asyncio.get_running_loop().time() < deadline, "it never came true"
            await asyncio.sleep(0.05)
        return found


@contextlib.asynccontextmanager
async def gate(world: World, monkeypatch: Any, *, fast: bool = True) -> AsyncIterator[Gate]:
    """Starts everything, and stops it in good order."""
    vnc = await VncServer().start()
    lease = keeper()
    await lease.start()
    ws = "consoles.relay.server:RelayProtocol" if fast else "websockets-sansio"
    config = uvicorn.Config(application, host="127.0.0.1", port=0, ws=ws, lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    made = Gate(world, vnc, port, lease)

    async def acall(endpoint: Any, name: str, function: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        return function(_Driver(made))

    monkeypatch.setattr(endpoints, "acall", acall)
    try:
        yield made
    finally:
        for page in made.pages:
            page.cut()
        server.should_exit = True
        await task
        await vnc.stop()
        await sync_to_async(connections.close_all)()


class _Driver:
    """A hypervisor that has the scripted VNC server as every VM's display."""

    def __init__(self, made: Gate):
        self._gate = made

    def console(self, vm_ref: str) -> ConsoleEndpoint:
        return self._gate.vnc.endpoint()

    def vm(self, vm_ref: str) -> VmFacts:
        assert self._gate.facts is not None, "this test did not say how the VM is"
        return self._gate.facts()


def reason_of(opened: Opened) -> str:
    row = fresh(opened.session)
    return row.closed_reason or row.detached_reason
