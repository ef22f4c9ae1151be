"""What a slow machine puts between two steps of a console that follows its VM: whatever comes first, the page that
comes back within its time finds its console there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError
from django.utils import timezone

from cloudops.hypervisors.port import Unreachable
from cloudops.inventory import endpoints
from cloudops.inventory.signals import VmMove
from consoles import attach, changes, losses, reaper, sessions
from consoles.attach import Attached
from consoles.errors import ConsoleOver, NotTaking
from consoles.models import ConsoleSession, Status
from consoles.reasons import ClosedReason
from consoles.sessions import Traffic
from tests.consoles.gate import Gate, gate
from tests.consoles.test_moves import MOVED, gone, move, moving
from tests.consoles.world import World, actor, build, fresh

pytestmark = pytest.mark.django_db(transaction=True)
NOTHING = Traffic(None, 0, 0)


@pytest.fixture
def world(transactional_db: None) -> World:
    return build(timezone.now())


def between(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], object]) -> None:
    """``act`` happens once, right before ``module.name`` is called for the first time."""
    plain, left = getattr(module, name), [act]

    def call(*args: Any, **kwargs: Any) -> Any:
        if left:
            left.pop()()
        return plain(*args, **kwargs)

    monkeypatch.setattr(module, name, call)


def end_of(world: World, attached: Attached, reason: ClosedReason) -> bool:
    """The relay's word that this socket is gone."""
    session = attached.session
    return sessions.finish(
        session_id=session.pk,
        attachment=session.attachment,
        reason=reason,
        traffic=NOTHING,
        by=actor(world.tenant),
        now=timezone.now(),
    )


def test_a_page_may_be_faster_than_the_relays_word(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page comes back in the same moment in which its old socket's end is written down."""
    now = timezone.now()
    attached = world.connect(now)
    between(monkeypatch, attach, "_attach", lambda: end_of(world, attached, ClosedReason.VM_MOVED))
    again = world.resume(attached.resume_secret, now)
    assert (again.session.attachment, fresh(again.session).status) == (2, Status.CONNECTING)
    assert world.in_use(now) == 1


def test_a_page_that_came_twice_at_once_may_come_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier try, given up by the page, was carried out after all."""
    now = timezone.now()
    attached = world.connect(now)
    end_of(world, attached, ClosedReason.VM_MOVED)
    between(monkeypatch, attach, "_attach", lambda: world.resume(attached.resume_secret, now))
    with pytest.raises(NotTaking):
        world.resume(attached.resume_secret, now)
    assert world.resume(attached.resume_secret, now).session.attachment == 3


def test_one_that_ended_meanwhile_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    attached = world.connect(now)
    end_of(world, attached, ClosedReason.VM_MOVED)
    between(
        monkeypatch,
        attach,
        "_attach",
        lambda: sessions.close(session=attached.session, by=actor(world.admin), now=now),
    )
    with pytest.raises(ConsoleOver):
        world.resume(attached.resume_secret, now)


def test_one_that_is_there_already_is_not_sent_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The news of the move is slow: the console came to the new host by itself before it was let go."""
    now = timezone.now()
    attached = world.connect(now)
    target = world.add_host("kvm-02")
    move(world, target)

    def come_back() -> None:
        end_of(world, attached, ClosedReason.VM_MOVED)
        world.resume(attached.resume_secret, now)

    between(monkeypatch, changes, "moving_words", come_back)
    changes.note_vms_moved(moves=[VmMove(world.vm.pk, world.host.pk, target.pk)], now=now)
    row = fresh(attached.session)
    assert (row.status, row.host_id) == (Status.CONNECTING, target.pk)


async def test_a_socket_that_was_let_go_before_it_was_open_is_told_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()

        def let_go() -> None:
            row = ConsoleSession.objects.get(pk=opened.session.pk)
            sessions.detach(session=row, reason=ClosedReason.VM_MOVED, by=actor(world.admin), now=timezone.now())

        between(monkeypatch, attach, "activate", let_go)
        monkeypatch.setattr(sessions, "tell_relay", lambda *args: None)  # that message is slower still
        page = await g.knock(f"cloudops.secret.{opened.secret}")
        assert (await page.closed())[0] == ClosedReason.VM_MOVED.ws_code


async def test_a_database_that_is_slow_to_tell_ends_no_console(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows for a moment whether the VM moves: that is no reason to believe that it stopped."""
    async with gate(world, monkeypatch) as g:
        target = await g.db(world.add_host, "kvm-02")
        g.facts = gone
        page, _ = await g.enter(await g.open())
        asked: list[int] = []

        def slow() -> dict[UUID, str]:
            asked.append(1)
            if len(asked) < 4:
                raise OperationalError("canceling statement due to statement timeout")
            move(world, target)
            return {}

        with moving(slow):
            g.vnc.writer.transport.abort()
            assert await page.closed(6) == MOVED


async def test_a_database_that_does_not_tell_at_all_leaves_the_console_to_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "FOLLOW_SECONDS", 0.2)
    monkeypatch.setattr(losses, "UNKNOWN_SECONDS", 0.2)
    async with gate(world, monkeypatch) as g:
        g.facts = gone
        opened = await g.open()
        page, hello = await g.enter(opened)

        def silent() -> dict[UUID, str]:
            raise OperationalError("the connection is closed")

        with moving(silent):
            g.vnc.writer.transport.abort()
            code, _ = await page.closed(6)
        assert code == ClosedReason.GUEST_CLOSED.ws_code
        again = await g.knock(f"cloudops.resume.{hello['resume']}")
        await again.hello()


async def test_a_host_that_does_not_tell_its_display_at_once_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new host is busy with what moves there. A console that was let go may try until its time is over, and its
    tries do not make that time longer."""
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        _, hello = await g.enter(opened)
        await detached(g, opened.session)
        until = (await g.db(fresh, opened.session)).resume_until
        plain, silent = endpoints.acall, [Unreachable("It did not answer."), Unreachable("It did not answer.")]

        async def acall(*args: Any, **kwargs: Any) -> Any:
            if silent:
                raise silent.pop()
            return await plain(*args, **kwargs)

        monkeypatch.setattr(endpoints, "acall", acall)
        for _ in range(2):
            page = await g.knock(f"cloudops.resume.{hello['resume']}")
            assert (await page.closed())[0] == ClosedReason.HOST_LOST.ws_code
            await g.eventually(lambda: fresh(opened.session).status == Status.DETACHED)
            assert await g.in_use() == 0
        assert (await g.db(fresh, opened.session)).resume_until == until
        page = await g.knock(f"cloudops.resume.{hello['resume']}")
        await page.hello()


async def detached(g: Gate, session: ConsoleSession) -> None:
    """The line breaks."""
    g.pages[-1].cut()
    await g.eventually(lambda: fresh(session).status == Status.DETACHED)


def test_one_that_never_came_back_ends_with_the_last_reason(world: World) -> None:
    now = timezone.now()
    attached = world.connect(now)
    end_of(world, attached, ClosedReason.VM_MOVED)
    again = world.resume(attached.resume_secret, now)
    end_of(world, again, ClosedReason.HOST_LOST)
    assert fresh(attached.session).status == Status.DETACHED
    reaper.reap(now=now + timedelta(seconds=61))
    row = fresh(attached.session)
    assert (row.status, row.closed_reason) == (Status.CLOSED, ClosedReason.HOST_LOST)


def test_a_console_that_worked_ends_with_its_host(world: World) -> None:
    attached = world.connect(timezone.now())
    end_of(world, attached, ClosedReason.HOST_LOST)
    assert fresh(attached.session).status == Status.CLOSED


async def test_a_silent_host_whose_vm_moves_away_takes_no_console_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gate(world, monkeypatch) as g:
        target = await g.db(world.add_host, "kvm-02")
        page, _ = await g.enter(await g.open())
        socket = next(iter(g.lease.sockets.values()))
        socket.endpoint = g.vnc.endpoint(port=1)  # as a display that has left: nobody listens there
        await g.db(move, world, target)
        await socket.check_display()
        assert await page.closed() == MOVED


async def test_a_socket_refused_while_its_vm_moves_may_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened for the first time right in the switch-over: the page learns how to come back before it is closed."""
    async with gate(world, monkeypatch) as g:
        target = await g.db(world.add_host, "kvm-02")
        endpoint_of, first = endpoints.acall, [True]

        async def acall(*args: Any, **kwargs: Any) -> Any:
            if first:
                first.pop()
                raise Unreachable("It did not answer.")
            return await endpoint_of(*args, **kwargs)

        monkeypatch.setattr(endpoints, "acall", acall)
        opened = await g.open()
        with moving(lambda: {world.vm.pk: "kvm-02"}):
            page = await g.knock(f"cloudops.secret.{opened.secret}")
            hello = await page.hello()
            assert await page.closed() == MOVED
        await g.eventually(lambda: fresh(opened.session).status == Status.DETACHED)
        await g.db(move, world, target)
        again = await g.knock(f"cloudops.resume.{hello['resume']}")
        assert (await again.hello())["host"] == "kvm-02"


async def test_a_page_that_gives_a_try_up_keeps_its_console(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """4000: no picture came in time while it came back, and it tries once more."""
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, hello = await g.enter(opened)
        page.close(4000)
        await g.eventually(lambda: fresh(opened.session).status == Status.DETACHED)
        again = await g.knock(f"cloudops.resume.{hello['resume']}")
        await again.hello()
