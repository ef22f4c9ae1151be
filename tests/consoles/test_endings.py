"""Each way a console ends: with the right reason, and the slot back within a second."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from django.db.utils import OperationalError
from django.utils import timezone

from cloudops.accounts.models import Membership
from cloudops.hypervisors.port import PowerState, Unreachable, VmFacts, VmNotRunning
from cloudops.inventory import endpoints
from consoles import changes, sessions
from consoles.models import Status
from consoles.reasons import ClosedReason
from tests.consoles.gate import gate, reason_of
from tests.consoles.world import World, actor, build, fresh

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(transactional_db: None) -> World:
    return build(timezone.now())


async def test_disconnected_by_an_administrator(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, _ = await g.enter(opened)
        started = time.monotonic()
        await g.db(sessions.close, session=opened.session, by=actor(world.admin), now=timezone.now())
        assert (await page.closed(2))[0] == ClosedReason.DISCONNECTED.ws_code
        assert time.monotonic() - started < 1
        assert await g.in_use() == 0


async def test_without_messages_the_next_renewal_tells(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, _ = await g.enter(opened)
        monkeypatch.setattr(sessions, "tell_relay", lambda *_: None)
        await g.db(sessions.close, session=opened.session, by=actor(world.admin), now=timezone.now())
        assert (await page.closed(4))[0] == ClosedReason.DISCONNECTED.ws_code


async def test_a_withdrawn_right_ends_it_within_a_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudops.accounts import people

    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, _ = await g.enter(opened)
        membership = await g.db(Membership.objects.get, user=world.tenant)
        started = time.monotonic()
        await g.db(people.change_member, membership, can_console=False, by=actor(world.admin), now=timezone.now())
        assert (await page.closed(2))[0] == ClosedReason.RIGHT_REVOKED.ws_code
        assert time.monotonic() - started < 1
        assert await g.db(reason_of, opened) == ClosedReason.RIGHT_REVOKED


@pytest.mark.parametrize(
    ("power", "reason"),
    [
        (PowerState.OFF, ClosedReason.VM_STOPPED),
        (PowerState.CRASHED, ClosedReason.VM_STOPPED),
        (PowerState.RUNNING, ClosedReason.GUEST_CLOSED),
    ],
)
async def test_a_display_that_went_away_is_explained(
    world: World, monkeypatch: pytest.MonkeyPatch, power: PowerState, reason: ClosedReason
) -> None:
    async with gate(world, monkeypatch) as g:
        g.facts = lambda: VmFacts("ref-alpha", "alpha", world.host.ref, power, 1, 64)
        opened = await g.open()
        page, _ = await g.enter(opened)
        g.vnc.writer.transport.abort()
        assert (await page.closed(4))[0] == reason.ws_code
        await g.eventually(lambda: reason_of(opened) == reason)
        assert await g.in_use() == 0


async def test_a_host_that_does_not_answer_either(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> VmFacts:
        raise Unreachable("no route to host")

    async with gate(world, monkeypatch) as g:
        g.facts = gone
        opened = await g.open()
        page, _ = await g.enter(opened)
        g.vnc.writer.transport.abort()
        assert (await page.closed(4))[0] == ClosedReason.HOST_LOST.ws_code


def silent() -> VmFacts:
    raise Unreachable("It does not answer.")


async def test_a_lost_host_ends_only_what_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, _ = await g.enter(opened)
        await g.db(changes.note_hosts_lost, host_ids=[world.host.pk], now=timezone.now())
        await g.eventually(lambda: len(g.vnc.peers) == 2)  # the relay tried the display, and it lives
        assert (await g.db(fresh, opened.session)).status == Status.ACTIVE
        socket = g.lease.sockets[opened.session.pk]
        assert socket.endpoint is not None
        socket.endpoint = replace(socket.endpoint, port=1)
        g.facts = silent
        await g.db(changes.note_hosts_lost, host_ids=[world.host.pk], now=timezone.now())
        assert (await page.closed(5))[0] == ClosedReason.HOST_LOST.ws_code
        await g.eventually(lambda: reason_of(opened) == ClosedReason.HOST_LOST, within_seconds=1)


async def test_a_vm_that_is_elsewhere_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        g.facts = lambda: VmFacts("ref-alpha", "alpha", "another-host", PowerState.RUNNING, 1, 64)
        page, _ = await g.enter(await g.open())
        g.vnc.writer.transport.abort()
        assert (await page.closed(4))[0] == ClosedReason.VM_MOVED.ws_code


async def test_a_display_that_cannot_be_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        await g.vnc.stop()
        opened = await g.open()
        page = await g.knock(f"cloudops.secret.{opened.secret}")
        assert (await page.closed())[0] == ClosedReason.GUEST_UNREACHABLE.ws_code
        await g.eventually(lambda: reason_of(opened) == ClosedReason.GUEST_UNREACHABLE, within_seconds=1)
        assert await g.in_use() == 0


async def test_a_vm_that_is_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def off(*_: Any, **__: Any) -> None:
        raise VmNotRunning

    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        monkeypatch.setattr(endpoints, "acall", off)
        page = await g.knock(f"cloudops.secret.{opened.secret}")
        assert (await page.closed())[0] == ClosedReason.VM_STOPPED.ws_code


async def test_the_server_stopping_leaves_it_resumable(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, _ = await g.enter(opened)
        await g.lease.stop()
        assert (await page.closed())[0] == ClosedReason.SERVER_STOPPING.ws_code
        row = await g.db(fresh, opened.session)
        assert (row.status, row.detached_reason) == (Status.DETACHED, ClosedReason.SERVER_STOPPING)
        assert row.process is not None
        assert row.process.stopped_at is not None


async def test_it_may_last_only_so_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, _ = await g.enter(opened)
        await g.db(world.settings, console_max_seconds=1)  # changed while it is open
        await g.lease.beat()
        assert (await page.closed(4))[0] == ClosedReason.MAX_DURATION.ws_code
        await g.eventually(lambda: reason_of(opened) == ClosedReason.MAX_DURATION)


async def test_while_the_database_is_away_the_end_is_written_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    really = sessions.finish

    def flaky(**values: Any) -> bool:
        calls.append(values)
        if len(calls) < 3:
            raise OperationalError("server closed the connection unexpectedly")
        return really(**values)

    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, _ = await g.enter(opened)
        monkeypatch.setattr(sessions, "finish", flaky)
        page.close(1000)
        await g.eventually(lambda: fresh(opened.session).status == Status.CLOSED, within_seconds=3)
        assert len(calls) == 3
