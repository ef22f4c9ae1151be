"""The ASGI application's edges: who may watch what, where sockets lead, and the lease's life with the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.db import connections
from django.test import Client
from django.utils import timezone

from cloudops.accounts.models import Role, User
from cloudops.asgi import application, may_watch
from cloudops.core import live, operations
from cloudops.managers.models import ServerProcess
from consoles.lease import keeper
from tests.consoles.world import World, actor, add_user, build


@pytest.fixture
def world(transactional_db: None) -> Iterator[World]:
    yield build(timezone.now())
    connections.close_all()


def cookie_of(user: User) -> bytes:
    client = Client()
    client.force_login(user)
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}".encode()


class Page:
    """A page's WebSocket, or the server's lifespan, over plain ASGI messages."""

    def __init__(self, scope: dict[str, Any]):
        self._app: Any = ApplicationCommunicator(application, scope)  # type: ignore[no-untyped-call]

    async def put(self, message: dict[str, Any]) -> None:
        await self._app.send_input(message)

    async def get(self) -> dict[str, Any]:
        return dict(await self._app.receive_output(5))

    async def end(self) -> None:
        await self._app.wait(5)

    async def connect(self) -> tuple[bool, int]:
        """Whether it was accepted, and the code with which it was closed instead."""
        await self.put({"type": "websocket.connect"})
        answer = await self.get()
        return answer["type"] == "websocket.accept", answer.get("code", 0)

    async def send(self, message: dict[str, Any]) -> None:
        await self.put({"type": "websocket.receive", "text": json.dumps(message)})

    async def next(self) -> Any:
        return json.loads((await self.get())["text"])

    async def leave(self) -> None:
        await self.put({"type": "websocket.disconnect", "code": 1000})
        await self.end()


async def page(path: str, user: User | None, origin: bytes = b"http://testserver") -> Page:
    headers = [(b"host", b"testserver"), (b"origin", origin)]
    if user is not None:
        headers.append((b"cookie", await sync_to_async(cookie_of)(user)))
    scope = {"type": "websocket", "path": path, "headers": headers, "subprotocols": [], "query_string": b""}
    return Page(scope)


class TestWhoMayWatchWhat:
    def test_fleet_people_watch_the_fleet(self, world: World) -> None:
        operator = add_user("olga", Role.OPERATOR)
        for topic in ("hosts", "vms", "consoles", "servers", f"host:{world.host.pk}", f"user:{world.tenant.pk}"):
            assert may_watch(operator, topic)
            assert may_watch(world.admin, topic)
        for topic in ("settings", "users"):
            assert may_watch(world.admin, topic)
            assert not may_watch(operator, topic)

    def test_tenants_watch_their_own(self, world: World) -> None:
        own = [f"user:{world.tenant.pk}", f"project:{world.project.pk}", f"vm:{world.vm.pk}", "offerings"]
        for topic in own:
            assert may_watch(world.tenant, topic)
        for topic in own[:3]:
            assert not may_watch(world.stranger, topic)

    @pytest.mark.parametrize(
        "topic", ["hosts", "vms", "consoles", "servers", "settings", "users", "host:x", "vm:x", "user:", "", "project:"]
    )
    def test_tenants_watch_nothing_else(self, world: World, topic: str) -> None:
        assert not may_watch(world.tenant, topic)
        assert not may_watch(world.tenant, f"vm:{uuid4()}")

    def test_operations_are_watched_by_who_started_them_and_their_project(self, world: World) -> None:
        operation = operations.start(
            kind="vm.power", title="Start", subject=world.vm, steps=["x"], by=actor(world.admin), now=timezone.now()
        )
        assert may_watch(world.tenant, f"operation:{operation.pk}")
        assert not may_watch(world.stranger, f"operation:{operation.pk}")

    def test_nobody_and_the_inactive_watch_nothing(self, world: World) -> None:
        from django.contrib.auth.models import AnonymousUser

        world.admin.is_active = False
        assert not may_watch(world.admin, "hosts")
        assert not may_watch(AnonymousUser(), "offerings")


@pytest_asyncio.fixture(autouse=True)
async def _close_connections() -> AsyncIterator[None]:
    """Those of the thread in which async tests use the database."""
    yield
    await sync_to_async(connections.close_all)()


@pytest_asyncio.fixture
async def ticking() -> AsyncIterator[None]:
    """The in-memory channel layer does not wake another thread's event loop; one that ticks needs no waking."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.02)

    task = asyncio.create_task(tick())
    yield
    task.cancel()


async def test_a_page_hears_of_what_it_may_watch(world: World, ticking: None) -> None:
    socket = await page("/ws/live/", world.tenant)
    connected, _ = await socket.connect()
    assert connected
    topic = f"vm:{world.vm.pk}"
    await socket.send({"subscribe": [topic, "hosts", 7]})
    assert await socket.next() == {"subscribed": [topic]}
    await sync_to_async(live.publish)("hosts", topic)
    assert await socket.next() == {"changed": [topic]}
    await socket.leave()


async def test_live_updates_need_a_login(world: World) -> None:
    socket = await page("/ws/live/", None)
    await socket.connect()
    assert await socket.get() == {"type": "websocket.close", "code": 4401}


@pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"https://testserver.evil.example"])
async def test_live_updates_are_for_our_own_pages(world: World, origin: bytes) -> None:
    connected, code = await (await page("/ws/live/", world.tenant, origin)).connect()
    assert (connected, code) == (False, 4403)


async def test_an_unknown_socket_leads_nowhere(world: World) -> None:
    connected, code = await (await page("/ws/else/", world.tenant)).connect()
    assert (connected, code) == (False, 4004)


async def test_the_lease_lives_as_long_as_the_server(world: World) -> None:
    lifespan = Page({"type": "lifespan"})
    await lifespan.put({"type": "lifespan.startup"})
    assert (await lifespan.get())["type"] == "lifespan.startup.complete"
    process_id: Any = keeper().taking()
    row = await sync_to_async(ServerProcess.objects.get)(pk=process_id)
    assert row.stopped_at is None
    await lifespan.put({"type": "lifespan.shutdown"})
    assert (await lifespan.get())["type"] == "lifespan.shutdown.complete"
    row = await sync_to_async(ServerProcess.objects.get)(pk=process_id)
    assert row.stopped_at is not None
    await lifespan.end()
