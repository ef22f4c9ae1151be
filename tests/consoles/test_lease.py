"""The lease: renewed, given up before it can lapse, told of changes with and without Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.db import connections
from django.db.utils import OperationalError
from django.utils import timezone

from cloudops.core import live
from cloudops.lab.services import PrivateRedis
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess
from consoles import lease, renewal, sessions
from consoles.lease import LeaseKeeper
from consoles.models import Status
from consoles.reasons import ClosedReason
from consoles.sessions import Traffic
from tests.consoles.world import World, actor, build, fresh

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class FakeSocket:
    """What the keeper sees of a socket."""

    session_id: UUID = field(default_factory=uuid4)
    attachment: int = 1
    host_id: UUID = field(default_factory=uuid4)
    closed: list[ClosedReason] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    typed: Traffic | None = None
    checked: int = 0

    def close(self, reason: ClosedReason, text: str = "") -> None:
        self.closed.append(reason)

    def send_control(self, message: Any) -> None:
        self.heard.append(message)

    def unwritten_traffic(self) -> Traffic | None:
        return self.typed

    def note_written(self) -> None:
        self.typed = None

    def was_idle_until_now(self) -> bool:
        return False

    def apply_settings(self, settings: Any) -> None: ...

    def tell_slots(self, usage: Any) -> None:
        self.heard.append(usage.in_use)

    async def check_display(self) -> None:
        self.checked += 1


@pytest.fixture
def world(transactional_db: None) -> World:
    return build(timezone.now())


@pytest_asyncio.fixture
async def keeper() -> AsyncIterator[LeaseKeeper]:
    made = LeaseKeeper()
    yield made
    await made.stop()
    await sync_to_async(connections.close_all)()


async def db(function: Any, *args: Any, **kwargs: Any) -> Any:
    return await sync_to_async(function)(*args, **kwargs)


async def until(check: Any, within_seconds: float = 5.0) -> None:
    deadline = time.monotonic() + within_seconds
    while not check():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


def held(keeper: LeaseKeeper, world: World) -> FakeSocket:
    """A console of this keeper's process, with its socket."""
    assert keeper.process is not None
    world.process = keeper.process
    session = world.connect(timezone.now()).session
    socket = FakeSocket(session.pk, session.attachment, world.host.pk)
    keeper.sockets[session.pk] = socket  # type: ignore[assignment]
    return socket


async def test_registers_renews_and_ends(world: World, keeper: LeaseKeeper) -> None:
    await keeper.start()
    process_id = keeper.taking()
    assert process_id is not None
    row = await db(ServerProcess.objects.get, pk=process_id)
    assert (row.role, row.server_name) == ("web", "test-server")
    assert timedelta(seconds=11) < row.lease_until - timezone.now() <= timedelta(seconds=12)
    await keeper.beat()
    later = await db(ServerProcess.objects.get, pk=process_id)
    assert later.lease_until > row.lease_until
    await keeper.stop()
    assert keeper.taking() is None
    row = await db(ServerProcess.objects.get, pk=process_id)
    assert row.stopped_at is not None
    assert row.lease_until <= timezone.now()


async def test_a_lapsed_lease_is_never_revived(world: World, keeper: LeaseKeeper) -> None:
    await keeper.start()
    first = keeper.taking()
    socket = await db(held, keeper, world)
    past = timezone.now() - timedelta(seconds=1)
    assert first is not None
    await db(ServerProcess.objects.filter(pk=first).update, lease_until=past)
    await keeper.beat()
    assert socket.closed == [ClosedReason.LEASE_LAPSED]
    assert keeper.taking() is None
    await keeper.beat()
    assert keeper.taking() not in {None, first}


async def test_a_lease_about_to_lapse_is_not_renewed(world: World) -> None:
    """Another server may count it as lapsed by the time the renewal is committed."""
    now = world.process.lease_until - timedelta(seconds=processes.SKEW_SECONDS)
    assert not await db(processes.renew, process=world.process, now=now)
    assert await db(processes.renew, process=world.process, now=now - timedelta(seconds=0.1))


async def test_without_a_database_sockets_close_before_the_lease_lapses(
    world: World, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 4.0)  # held for 2 s from now on
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    await keeper.start()
    socket = await db(held, keeper, world)

    def down(**_: Any) -> None:
        raise OperationalError("connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(renewal, "renew", down)
        broken.setattr(processes, "register", down)
        started = time.monotonic()
        await until(lambda: socket.closed)
        assert 0.5 < time.monotonic() - started < 3.5
        assert socket.closed == [ClosedReason.LEASE_LAPSED]
        assert keeper.taking() is None
    await until(lambda: keeper.taking() is not None)


async def test_a_database_that_hangs_is_the_same(
    world: World, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 4.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lease, "VISIT_SECONDS", 0.5)
    await keeper.start()
    socket = await db(held, keeper, world)
    with monkeypatch.context() as broken:
        broken.setattr(renewal, "renew", lambda **_: time.sleep(6))
        await until(lambda: socket.closed)
    assert socket.closed == [ClosedReason.LEASE_LAPSED]
    await until(lambda: keeper.taking() is not None)


async def test_a_short_outage_closes_nothing(
    world: World, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    await keeper.start()
    socket = await db(held, keeper, world)
    calls: list[int] = []
    really = renewal.renew

    def flaky(**values: Any) -> Any:
        calls.append(1)
        if len(calls) < 3:
            raise OperationalError("server closed the connection unexpectedly")
        return really(**values)

    monkeypatch.setattr(renewal, "renew", flaky)
    await until(lambda: len(calls) > 3)
    assert socket.closed == []
    assert keeper.taking() is not None


async def test_a_draining_process_takes_no_more(world: World, keeper: LeaseKeeper) -> None:
    await keeper.start()
    assert keeper.process is not None
    socket = await db(held, keeper, world)
    await db(processes.drain, process=keeper.process, by=actor(world.admin), now=timezone.now())
    await keeper.beat()
    assert keeper.taking() is None
    assert socket.closed == []
    await db(processes.undrain, process=keeper.process, by=actor(world.admin), now=timezone.now())
    await keeper.beat()
    assert keeper.taking() is not None


async def test_one_renewal_writes_and_learns_everything(world: World, keeper: LeaseKeeper) -> None:
    await keeper.start()
    closed, taken, dropped, typing = [await db(held, keeper, world) for _ in range(4)]
    now = timezone.now()
    rows = {s.session_id: await db(fresh, type("P", (), {"pk": s.session_id})) for s in (closed, taken, dropped)}
    await db(sessions.close, session=rows[closed.session_id], by=actor(world.admin), now=now)
    await db(
        sessions.detach, session=rows[dropped.session_id], reason=ClosedReason.VM_MOVED, by=actor(world.admin), now=now
    )
    other = await db(world.add_process, now)
    await db(type(rows[taken.session_id]).objects.filter(pk=taken.session_id).update, process=other, attachment=2)
    typing.typed = Traffic(now, 700, 30)
    for socket in (closed, taken, dropped, typing):  # only the poll may tell here
        socket.closed.clear()
    await keeper.beat()
    assert closed.closed[-1:] == [ClosedReason.DISCONNECTED]
    assert taken.closed[-1:] == [ClosedReason.TAKEN_OVER]
    assert dropped.closed[-1:] == [ClosedReason.VM_MOVED]
    assert typing.closed == []
    row = await db(fresh, type("P", (), {"pk": typing.session_id}))
    assert (row.last_input_at, row.bytes_to_browser, row.bytes_from_browser) == (now, 700, 30)
    assert typing.heard == [2]


async def test_messages_reach_only_the_socket_they_are_about(world: World, keeper: LeaseKeeper) -> None:
    await keeper.start()
    socket, other = await db(held, keeper, world), await db(held, keeper, world)
    assert keeper.process is not None
    group = sessions.relay_group(keeper.process.pk)
    about = {"session": str(socket.session_id)}
    for message in (
        {"type": "relay.close", **about, "attachment": 99, "reason": "idle"},
        {"type": "relay.close", **about, "attachment": 1, "reason": "nonsense"},
        {"type": "relay.close", "session": "no uuid"},
        {"type": "relay.control", **about, "message": {"type": "release-request"}},
        {"type": "relay.check", **about},
        {"type": "relay.close", **about, "attachment": 1, "reason": "right_revoked"},
    ):
        await db(live.send, group, message)
    await until(lambda: socket.closed)
    assert socket.closed == [ClosedReason.RIGHT_REVOKED]
    assert socket.heard == [{"type": "release-request"}]
    assert socket.checked == 1
    assert (other.closed, other.heard, other.checked) == ([], [], 0)


@pytest.mark.real
async def test_redis_may_restart(
    world: World, keeper: LeaseKeeper, service_dir: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    with PrivateRedis(service_dir / "redis") as redis:
        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                "CONFIG": {"hosts": [{"address": redis.url()}], "prefix": "t"},
            }
        }
        await keeper.start()
        first, second, third = [await db(held, keeper, world) for _ in range(3)]

        async def control(socket: FakeSocket) -> None:
            assert keeper.process is not None
            message = {"type": "relay.control", "session": str(socket.session_id), "message": "hello"}
            await db(live.send, sessions.relay_group(keeper.process.pk), message)

        async def heard(socket: FakeSocket, seconds: float) -> None:
            deadline = time.monotonic() + seconds
            while "hello" not in socket.heard:
                assert time.monotonic() < deadline, "no message came"
                await control(socket)
                await asyncio.sleep(0.2)

        await heard(first, 5)
        redis.kill()
        row = await db(fresh, type("P", (), {"pk": second.session_id}))
        await db(sessions.close, session=row, by=actor(world.admin), now=timezone.now())
        await until(lambda: second.closed, 4)  # by the poll: Redis is down
        assert second.closed == [ClosedReason.DISCONNECTED]
        redis.start()
        await heard(third, 15)
        assert (await db(fresh, type("P", (), {"pk": third.session_id}))).status == Status.ACTIVE
        layer = get_channel_layer()
        assert layer is not None
        await layer.flush()
