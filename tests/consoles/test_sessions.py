"""A session's life: open, redeem, activate, detach, resume, close; and everything that refuses it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from cloudops.accounts.models import Membership
from cloudops.core import live
from cloudops.core.actors import system
from cloudops.core.errors import IllegalTransition, TransitionConflict
from cloudops.core.models import Event
from cloudops.core.state import transition
from cloudops.hypervisors.port import PowerState
from cloudops.inventory.models import Connection, Vm
from consoles import attach, sessions
from consoles.errors import (
    ConsoleOver,
    HostUnreachable,
    RightRefused,
    SecretRefused,
    VmMissing,
    VmNotRunning,
    VmWithoutConsole,
)
from consoles.models import ConsoleSession, Status
from consoles.reasons import ClosedReason
from consoles.sessions import Traffic
from tests.conftest import Clock
from tests.consoles.world import World, actor, fresh, kinds_of

NO_TRAFFIC = Traffic(None, 0, 0)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Messages for other processes, as they would go out."""
    found: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(live, "send", lambda group, message: found.append((group, message)))
    return found


def finish(world: World, session: ConsoleSession, reason: ClosedReason, clock: Clock, **more: Any) -> bool:
    values: dict[str, Any] = {"attachment": session.attachment, "traffic": NO_TRAFFIC} | more
    return sessions.finish(session_id=session.pk, reason=reason, by=actor(world.tenant), now=clock.now, **values)


class TestOpening:
    def test_gives_a_link_whose_secret_is_only_in_the_fragment(self, world: World, clock: Clock) -> None:
        opened = world.open(clock.now)
        session = opened.session
        assert opened.url == f"http://testserver/console/{session.pk}/#s={opened.secret}"
        assert opened.websocket_url == "ws://testserver/ws/console/"
        assert re.fullmatch(r"[\w-]{43}", opened.secret)
        stored = [str(value) for value in ConsoleSession.objects.filter(pk=session.pk).values_list().get()]
        assert not any(opened.secret in value for value in stored)
        assert session.status == Status.PENDING
        assert session.redeem_by == clock.now + timedelta(seconds=60)
        assert (opened.usage.in_use, opened.usage.limit) == (1, 40)

    def test_takes_a_slot_of_host_vm_and_user_until_the_link_expires(self, world: World, clock: Clock) -> None:
        world.open(clock.now)
        assert world.counts(clock.now) == (1, 1, 1)
        assert world.counts(clock.advance(59)) == (1, 1, 1)
        assert world.counts(clock.advance(1)) == (0, 0, 0)

    def test_is_in_the_audit_trail_with_its_project(self, world: World, clock: Clock) -> None:
        session = world.open(clock.now, view_only=True).session
        event = Event.objects.get(kind="console.opened")
        assert (event.subject_id, event.project_id) == (str(session.pk), world.project.pk)
        assert (event.actor_name, event.address, event.data) == ("tessa", "198.51.100.7", {"view_only": True})

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"power_state": PowerState.OFF}, VmNotRunning),
            ({"power_state": PowerState.CRASHED}, VmNotRunning),
            ({"has_console": False}, VmWithoutConsole),
        ],
    )
    def test_refuses_a_vm_that_cannot_have_one(
        self, world: World, clock: Clock, change: dict[str, Any], error: type[Exception]
    ) -> None:
        Vm.objects.filter(pk=world.vm.pk).update(**change)
        with pytest.raises(error):
            world.open(clock.now)
        assert world.in_use(clock.now) == 0

    @pytest.mark.parametrize("state", [PowerState.PAUSED, PowerState.UNKNOWN])
    def test_allows_a_vm_that_may_have_one(self, world: World, clock: Clock, state: PowerState) -> None:
        Vm.objects.filter(pk=world.vm.pk).update(power_state=state)
        assert world.open(clock.now).session.pk

    def test_refuses_a_missing_vm_and_a_lost_host(self, world: World, clock: Clock) -> None:
        Vm.objects.filter(pk=world.vm.pk).update(missing_since=clock.now)
        with pytest.raises(VmMissing):
            world.open(clock.now)
        world.host.connection = Connection.UNREACHABLE
        world.host.save()
        with pytest.raises(HostUnreachable) as refused:
            world.open(clock.now, vm=world.other_vm)
        assert refused.value.retry_after_seconds == 10

    def test_tells_the_pages_that_show_it(self, world: World, clock: Clock, sent: list[Any]) -> None:
        world.open(clock.now)
        topics = {message["topic"] for _, message in sent}
        assert {"consoles", "hosts", f"host:{world.host.pk}", f"vm:{world.vm.pk}"} <= topics
        assert {f"user:{world.tenant.pk}", f"project:{world.project.pk}"} <= topics


class TestRedeeming:
    def test_makes_the_session_this_processes(self, world: World, clock: Clock) -> None:
        opened = world.open(clock.now)
        attached = world.redeem(opened, clock.advance(5), address="203.0.113.9")
        row = fresh(opened.session)
        assert (row.status, row.process_id, row.client_address) == (Status.CONNECTING, world.process.pk, "203.0.113.9")
        assert attached.usage.in_use == 1
        assert attached.resume_secret != opened.secret
        assert kinds_of(row) == ["console.opened", "console.redeemed"]

    def test_takes_few_statements(self, world: World, clock: Clock, django_assert_max_num_queries: Any) -> None:
        opened = world.open(clock.now)
        with django_assert_max_num_queries(9):  # right, savepoint pair, compare-and-set, event, settings, counts
            attached = world.redeem(opened, clock.now)
        with django_assert_max_num_queries(4):  # savepoint pair, compare-and-set, event
            attach.activate(session=attached.session, relay_address=("192.0.2.1", 5), now=clock.now)

    def test_works_once(self, world: World, clock: Clock) -> None:
        opened = world.open(clock.now)
        world.redeem(opened, clock.now)
        with pytest.raises(SecretRefused):
            world.redeem(opened, clock.now)
        assert world.in_use(clock.now) == 1

    def test_ends_with_its_time(self, world: World, clock: Clock) -> None:
        opened = world.open(clock.now)
        with pytest.raises(SecretRefused):
            world.redeem(opened, clock.advance(60))
        assert fresh(opened.session).status == Status.PENDING
        assert world.in_use(clock.now) == 0

    def test_stops_a_moment_before_the_slot_is_given_away(self, world: World, clock: Clock) -> None:
        """Nobody's late commit may come after somebody else has counted the slot as free."""
        opened = world.open(clock.now)
        with pytest.raises(SecretRefused):
            world.redeem(opened, clock.advance(58.5))
        assert world.in_use(clock.now) == 1

    def test_refuses_an_unknown_secret(self, world: World, clock: Clock) -> None:
        with pytest.raises(SecretRefused):
            attach.redeem(secret="x" * 43, process_id=world.process.pk, user=None, address="", now=clock.now)

    def test_refuses_somebody_else_without_using_the_secret_up(self, world: World, clock: Clock) -> None:
        opened = world.open(clock.now)
        with pytest.raises(RightRefused) as refused:
            world.redeem(opened, clock.now, user=world.second)
        assert refused.value.session.pk == opened.session.pk  # type: ignore[attr-defined]
        assert world.redeem(opened, clock.now, user=world.tenant).session.status == Status.CONNECTING

    def test_refuses_and_ends_it_when_the_right_is_gone(self, world: World, clock: Clock) -> None:
        opened = world.open(clock.now)
        Membership.objects.filter(user=world.tenant).update(can_console=False)
        with pytest.raises(RightRefused):
            world.redeem(opened, clock.now)
        assert fresh(opened.session).closed_reason == ClosedReason.RIGHT_REVOKED
        assert world.in_use(clock.now) == 0

    def test_refuses_what_was_closed_before(self, world: World, clock: Clock) -> None:
        opened = world.open(clock.now)
        assert sessions.close(session=opened.session, by=actor(world.admin), now=clock.now)
        with pytest.raises(ConsoleOver):
            world.redeem(opened, clock.now)

    def test_takes_the_slot_of_the_host_where_the_vm_is_now(self, world: World, clock: Clock) -> None:
        opened = world.open(clock.now)
        other = world.add_host("beta-host")
        Vm.objects.filter(pk=world.vm.pk).update(host=other)
        attached = world.redeem(opened, clock.now)
        assert fresh(attached.session).host_id == other.pk
        assert attached.host == other
        assert world.in_use(clock.now) == 0


class TestActivating:
    def test_notes_the_relays_own_end(self, world: World, clock: Clock) -> None:
        row = fresh(world.connect(clock.now).session)
        assert row.status == Status.ACTIVE
        assert row.relay_host == "192.0.2.1"
        assert row.connected_at == row.last_input_at == clock.now

    def test_fails_when_it_was_ended_meanwhile(self, world: World, clock: Clock) -> None:
        attached = world.redeem(world.open(clock.now), clock.now)
        sessions.close(session=fresh(attached.session), by=actor(world.admin), now=clock.now)
        with pytest.raises(TransitionConflict):
            attach.activate(session=attached.session, relay_address=None, now=clock.now)

    def test_fails_for_a_socket_that_was_superseded(self, world: World, clock: Clock) -> None:
        first = world.redeem(world.open(clock.now), clock.now)
        world.resume(first.resume_secret, clock.now)
        with pytest.raises(TransitionConflict):
            attach.activate(session=first.session, relay_address=None, now=clock.now)


class TestFinishing:
    @pytest.mark.parametrize("reason", [reason for reason in ClosedReason if not reason.resumable])
    def test_closes_for_good(self, world: World, clock: Clock, reason: ClosedReason) -> None:
        session = world.connect(clock.now).session
        clock.advance(10)
        traffic = Traffic(clock.now, 5_000, 70)
        assert finish(world, session, reason, clock, traffic=traffic)
        row = fresh(session)
        assert (row.status, row.closed_reason, row.ended_at) == (Status.CLOSED, reason, clock.now)
        assert (row.bytes_to_browser, row.bytes_from_browser, row.last_input_at) == (5_000, 70, clock.now)
        assert world.counts(clock.now) == (0, 0, 0)

    @pytest.mark.parametrize("reason", [reason for reason in ClosedReason if reason.resumable])
    def test_gives_the_slot_back_and_waits_for_the_page(self, world: World, clock: Clock, reason: ClosedReason) -> None:
        session = world.connect(clock.now).session
        assert finish(world, session, reason, clock)
        row = fresh(session)
        assert (row.status, row.detached_reason) == (Status.DETACHED, reason)
        assert row.resume_until == clock.now + timedelta(seconds=60)
        assert world.counts(clock.now) == (0, 0, 0)

    def test_does_nothing_for_a_superseded_socket(self, world: World, clock: Clock) -> None:
        first = world.connect(clock.now)
        number = first.session.attachment
        world.resume(first.resume_secret, clock.now)
        assert not finish(world, first.session, ClosedReason.USER_CLOSED, clock, attachment=number)
        assert fresh(first.session).status == Status.CONNECTING

    def test_does_nothing_twice(self, world: World, clock: Clock) -> None:
        session = world.connect(clock.now).session
        assert finish(world, session, ClosedReason.USER_CLOSED, clock)
        assert not finish(world, session, ClosedReason.IDLE, clock)
        assert fresh(session).closed_reason == ClosedReason.USER_CLOSED


class TestResuming:
    def test_takes_a_slot_anew(self, world: World, clock: Clock) -> None:
        attached = world.connect(clock.now)
        finish(world, attached.session, ClosedReason.LINE_LOST, clock)
        world.process = world.add_process(clock.advance(59))
        again = world.resume(attached.resume_secret, clock.now)
        assert again.session.attachment == 2
        assert world.counts(clock.now) == (1, 1, 1)

    def test_keeps_its_secret_until_the_end(self, world: World, clock: Clock) -> None:
        """A line that drops again before the page heard anything must not strand it."""
        attached = world.connect(clock.now)
        for _ in range(3):
            assert world.resume(attached.resume_secret, clock.now).resume_secret == attached.resume_secret
        assert world.in_use(clock.now) == 1

    def test_is_refused_at_the_limit(self, world: World, clock: Clock) -> None:
        from consoles.errors import ConsoleLimit

        world.settings(console_host_limit=1)
        attached = world.connect(clock.now)
        finish(world, attached.session, ClosedReason.LINE_LOST, clock)
        world.open(clock.now, user=world.second)
        with pytest.raises(ConsoleLimit):
            world.resume(attached.resume_secret, clock.now)
        assert fresh(attached.session).status == Status.DETACHED

    def test_does_not_count_itself_against_the_limit(self, world: World, clock: Clock) -> None:
        world.settings(console_host_limit=1)
        attached = world.connect(clock.now)
        world.resume(attached.resume_secret, clock.now)
        assert world.in_use(clock.now) == 1

    def test_ends_with_its_time(self, world: World, clock: Clock) -> None:
        attached = world.connect(clock.now)
        finish(world, attached.session, ClosedReason.LINE_LOST, clock)
        with pytest.raises(ConsoleOver):
            world.resume(attached.resume_secret, clock.advance(60))

    def test_works_after_the_process_died(self, world: World, clock: Clock) -> None:
        attached = world.connect(clock.now)
        clock.advance(12)
        assert world.in_use(clock.now) == 0
        assert fresh(attached.session).shown_status(clock.now) == Status.DETACHED
        other = world.add_process(clock.now)
        world.resume(attached.resume_secret, clock.now, process_id=other.pk)
        assert world.in_use(clock.now) == 1
        with pytest.raises(ConsoleOver):
            world.resume(attached.resume_secret, clock.advance(12 + 60), process_id=other.pk)

    def test_closes_the_socket_that_was_there_before(self, world: World, clock: Clock, sent: list[Any]) -> None:
        attached = world.connect(clock.now)
        sent.clear()
        world.resume(attached.resume_secret, clock.now)
        messages = [item for item in sent if item[1]["type"] == "relay.close"]
        assert messages == [
            (
                f"relay.{world.process.pk}",
                {"type": "relay.close", "session": str(attached.session.pk), "attachment": 1, "reason": "taken_over"},
            )
        ]

    def test_refuses_somebody_else_and_the_ended(self, world: World, clock: Clock) -> None:
        attached = world.connect(clock.now)
        with pytest.raises(RightRefused):
            world.resume(attached.resume_secret, clock.now, user=world.second)
        sessions.close(session=attached.session, by=actor(world.admin), now=clock.now)
        with pytest.raises(ConsoleOver):
            world.resume(attached.resume_secret, clock.now)
        with pytest.raises(SecretRefused):
            world.resume("", clock.now)


class TestClosing:
    def test_frees_the_slot_and_tells_the_relay(self, world: World, clock: Clock, sent: list[Any]) -> None:
        session = world.connect(clock.now).session
        sent.clear()
        assert sessions.close(session=session, by=actor(world.admin), now=clock.advance(3))
        assert world.counts(clock.now) == (0, 0, 0)
        row = fresh(session)
        assert (row.closed_reason, row.closed_by, row.ended_at) == (ClosedReason.DISCONNECTED, "ada", clock.now)
        assert kinds_of(row)[-1] == "console.closed"
        assert (f"relay.{world.process.pk}", "relay.close") in [(group, m["type"]) for group, m in sent]

    def test_of_what_has_ended_is_false(self, world: World, clock: Clock) -> None:
        session = world.connect(clock.now).session
        assert sessions.close(session=session, by=actor(world.admin), now=clock.now)
        assert not sessions.close(session=session, by=actor(world.tenant), now=clock.now)
        assert fresh(session).closed_by == "ada"

    def test_many_at_once_in_few_statements(
        self, world: World, clock: Clock, django_assert_max_num_queries: Any, sent: list[Any]
    ) -> None:
        for _ in range(12):
            world.connect(clock.now)
        pending = world.open(clock.now)
        everything = ConsoleSession.objects.all()
        with django_assert_max_num_queries(8):
            assert sessions.close_many(sessions=everything, by=actor(world.admin), now=clock.now) == 13
        assert sessions.close_many(sessions=everything, by=actor(world.admin), now=clock.now) == 0
        assert world.in_use(clock.now) == 0
        assert kinds_of(pending.session) == ["console.opened", "console.closed"]
        assert Event.objects.filter(kind="console.closed", from_state="active", to_state="closed").count() == 12
        assert sum(1 for _, message in sent if message["type"] == "relay.close") == 12

    def test_only_the_idle_ones(self, world: World, clock: Clock) -> None:
        idle = world.connect(clock.now).session
        clock.advance(100)
        world.process = world.add_process(clock.now)
        ConsoleSession.objects.filter(pk=idle.pk).update(process=world.process)
        busy = world.connect(clock.now).session
        found = ConsoleSession.objects.idle(clock.now, 60)
        assert sessions.close_many(sessions=found, by=actor(world.admin), now=clock.now) == 1
        assert (fresh(idle).status, fresh(busy).status) == (Status.CLOSED, Status.ACTIVE)


def test_illegal_steps_are_refused(world: World, clock: Clock) -> None:
    legal = ConsoleSession.TRANSITIONS
    session = world.open(clock.now).session
    for before in Status:
        for after in set(Status) - legal[before]:
            session.status = before
            with pytest.raises(IllegalTransition):
                transition(session, to=after, by=system("test"), now=clock.now)
    assert fresh(session).status == Status.PENDING


def test_shown_status_needs_no_reaper(world: World, clock: Clock) -> None:
    pending = world.open(clock.now).session
    attached = world.connect(clock.now)
    dropped = world.connect(clock.now)
    finish(world, dropped.session, ClosedReason.LINE_LOST, clock)
    rows = [pending, attached.session, dropped.session]
    assert [fresh(row).shown_status(clock.now) for row in rows] == ["pending", "active", "detached"]
    assert ConsoleSession.objects.current(clock.now).count() == 3
    clock.advance(61)
    assert [fresh(row).shown_status(clock.now) for row in rows] == ["closed", "detached", "closed"]
    assert ConsoleSession.objects.current(clock.now).count() == 0


def test_people_see_their_own_and_their_projects(world: World, clock: Clock) -> None:
    mine = world.open(clock.now).session
    for user, expected in [(world.tenant, 1), (world.second, 1), (world.stranger, 0), (world.admin, 1)]:
        found = ConsoleSession.objects.visible_to(user)
        assert found.count() == expected, user
    assert mine in ConsoleSession.objects.visible_to(world.second)
