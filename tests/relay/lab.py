"""Runs a scenario against the relay in a real uvicorn: on both paths to the browser and on both event loops."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from cloudops.hypervisors.port import ConsoleEndpoint, Transport
from consoles.reasons import ClosedReason
from consoles.relay import (
    ConsoleHooks,
    ConsolePolicy,
    Outcome,
    RelayedConsole,
    UpstreamError,
    open_upstream,
    refuse,
    serve_console,
    splice,
    tls,
)
from consoles.relay.server import RelayProtocol
from tests.relay.browser import CONTROL, Browser
from tests.relay.certificates import certificate
from tests.relay.vnc import VncScript, VncServer

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


class Clock:
    """A clock that goes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Hooks(ConsoleHooks):
    def __init__(self) -> None:
        self.log: list[str] = []
        self.outcomes: list[Outcome] = []
        self.messages: list[dict[str, Any]] = []
        self.lost_reason: ClosedReason | None = ClosedReason.GUEST_CLOSED
        self.ended_event = asyncio.Event()
        self.started_event = asyncio.Event()

    def started(self, console: RelayedConsole) -> None:
        self.log.append("started")
        self.started_event.set()

    def ended(self, console: RelayedConsole, outcome: Outcome) -> None:
        self.log.append("ended")
        self.outcomes.append(outcome)
        self.ended_event.set()

    async def upstream_lost(self, console: RelayedConsole) -> tuple[ClosedReason, str]:
        self.log.append("upstream_lost")
        if self.lost_reason is None:
            await asyncio.Event().wait()
        assert self.lost_reason is not None
        return self.lost_reason, ""

    def control(self, console: RelayedConsole, message: dict[str, Any]) -> None:
        self.messages.append(message)

    async def outcome(self, seconds: float = 5.0) -> Outcome:
        await asyncio.wait_for(self.ended_event.wait(), seconds)
        return self.outcomes[0]


class Lab:
    """One web server, any number of VNC servers, consoles and browsers."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.policy = ConsolePolicy()
        self.clock = Clock()
        self.endpoint: ConsoleEndpoint | None = None
        self.consoles: list[RelayedConsole] = []
        self.hooks: list[Hooks] = []
        self.returned: list[Outcome] = []
        self.refusal: tuple[int, str] | None = None
        self.close_before_start: ClosedReason | None = None
        self.before_accept: Callable[[], Awaitable[None]] | None = None
        self.vncs: list[VncServer] = []
        self.browsers: list[Browser] = []
        self.port = 0
        self._numbers = itertools.count(1)
        self.tls: ssl.SSLContext | None = None
        self.server: uvicorn.Server | None = None

    async def start(self) -> None:
        ws = WebSocketsSansIOProtocol if self.path == "plain" else RelayProtocol
        splice.ENABLED = self.path == "splice"
        config = uvicorn.Config(self.app, ws=ws, lifespan="off", log_config=None, http="httptools", interface="asgi3")
        config.load()
        config.ssl = self.tls
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.server = uvicorn.Server(config)
        self.server.lifespan = config.lifespan_class(config)
        await self.server.startup(sockets=[sock])

    async def stop(self) -> None:
        splice.ENABLED = True
        for browser in self.browsers:
            browser.drop()
        for vnc in self.vncs:
            await vnc.stop()
        if self.server is not None:
            for listener in self.server.servers:
                listener.close()
            state = self.server.server_state
            for connection in list(state.connections):
                connection.transport.abort()
            for task in list(state.tasks):
                task.cancel()
            await until(lambda: not state.connections and not state.tasks)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if self.refusal is not None:
            await refuse(scope, receive, send, *self.refusal)
            return
        assert self.endpoint is not None
        try:
            upstream = await open_upstream(self.endpoint, timeout_seconds=2)
        except UpstreamError as error:
            await refuse(scope, receive, send, error.closed_reason.ws_code, error.closed_reason.text)
            return
        hooks = Hooks()
        console = RelayedConsole(str(next(self._numbers)), self.policy, hooks, clock=self.clock)
        self.hooks.append(hooks)
        self.consoles.append(console)
        if self.close_before_start is not None:
            console.close(self.close_before_start)
        if self.before_accept is not None:
            await self.before_accept()
        self.returned.append(await serve_console(scope, receive, send, console=console, upstream=upstream))

    async def vnc(self, script: VncScript | None = None) -> VncServer:
        server = await VncServer(script or VncScript()).start()
        self.vncs.append(server)
        self.endpoint = server.endpoint()
        return server

    async def browser(self, subprotocols: tuple[str, ...] = CONTROL, **options: Any) -> Browser:
        if self.tls is not None:
            options["tls"] = tls.verified(ConsoleEndpoint(Transport.TLS, ca_pem=certificate().pem), "127.0.0.1").context
        browser = await Browser.connect(self.port, subprotocols, **options)
        self.browsers.append(browser)
        return browser

    async def open(self, subprotocols: tuple[str, ...] = CONTROL) -> tuple[Browser, VncServer]:
        """A console in use: both handshakes done, ServerInit read."""
        vnc = await self.vnc()
        browser = await self.browser(subprotocols)
        await browser.rfb()
        await browser.data(28)
        await asyncio.wait_for(vnc.ready.wait(), 5)
        return browser, vnc

    @property
    def console(self) -> RelayedConsole:
        return self.consoles[-1]


Scenario = Callable[[Lab], Coroutine[Any, Any, None]]


def _runner(scenario: Scenario) -> Callable[[str, str], None]:
    def test(path: str, loop_name: str) -> None:
        async def body() -> None:
            lab = Lab(path)
            await lab.start()
            try:
                async with asyncio.timeout(20):
                    await scenario(lab)
            finally:
                await lab.stop()

        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.run(body())

    test.__name__ = test.__qualname__ = scenario.__name__
    test.__module__ = scenario.__module__
    test.__doc__ = scenario.__doc__
    return test


def over_tls(scenario: Scenario) -> Any:
    """The scenario with a web server that ends TLS itself, on every path and loop."""

    async def encrypted(lab: Lab) -> None:
        await lab.stop()
        lab.tls = certificate().server
        await lab.start()
        await scenario(lab)

    encrypted.__name__ = encrypted.__qualname__ = scenario.__name__
    encrypted.__module__, encrypted.__doc__ = scenario.__module__, scenario.__doc__
    return on_every_path(encrypted)


def on_every_path(scenario: Scenario) -> Any:
    """The scenario as a test on every path to the browser, under uvloop and asyncio."""
    test = pytest.mark.parametrize("loop_name", list(LOOPS))(_runner(scenario))
    return pytest.mark.parametrize("path", ["swap", "splice", "plain"])(test)


def on_fast_path(scenario: Scenario) -> Any:
    """Where only the fast path lets the relay see or do it (frames, pings)."""
    test = pytest.mark.parametrize("loop_name", list(LOOPS))(_runner(scenario))
    return pytest.mark.parametrize("path", ["swap", "splice"])(test)


def on_splice_path(scenario: Scenario) -> Any:
    """What only the path has on which the kernel moves the bytes."""
    test = pytest.mark.parametrize("loop_name", list(LOOPS))(_runner(scenario))
    return pytest.mark.parametrize("path", ["splice"])(test)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Waits for a condition in small steps; fails when it does not come."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
