"""What the reaper tidies up, what it leaves alone, and what changes elsewhere end."""

from __future__ import annotations

from typing import Any

import pytest

from cloudops.accounts import people
from cloudops.accounts.models import Membership, Role
from cloudops.core import live
from cloudops.inventory.models import Host, Vm
from cloudops.inventory.signals import VmMove
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess
from consoles import changes, reaper, reconcile, sessions, tasks
from consoles.models import ConsoleSession, ForeignConnection, Status
from consoles.reaper import Reaped
from consoles.reasons import ClosedReason
from consoles.sessions import Traffic
from tests.conftest import Clock
from tests.consoles.world import World, actor, add_user, fresh


def reasons() -> dict[str, str]:
    return dict(ConsoleSession.objects.order_by().values_list("user__username", "closed_reason"))


def keep(world: World, clock: Clock) -> None:
    """The process is alive all the time."""
    ServerProcess.objects.filter(pk=world.process.pk).update(lease_until=clock.now.replace(year=2099))


def drop(session: ConsoleSession, reason: ClosedReason, clock: Clock) -> None:
    traffic = Traffic(None, 0, 0)
    by = actor(session.user)
    values: dict[str, Any] = {"attachment": session.attachment, "traffic": traffic, "by": by, "now": clock.now}
    assert sessions.finish(session_id=session.pk, reason=reason, **values)


class TestReaping:
    def test_ends_what_is_over_with_its_reason(self, world: World, clock: Clock) -> None:
        world.open(clock.now)
        world.connect(clock.now, user=world.second)
        drop(world.connect(clock.now, user=world.admin).session, ClosedReason.BROWSER_SILENT, clock)
        assert reaper.reap(now=clock.now) == Reaped(0, 0, 0, 0, 0, 0)
        assert reaper.reap(now=clock.advance(60)) == Reaped(1, 0, 1, 0, 0, 0)
        assert reaper.reap(now=clock.advance(12)) == Reaped(0, 1, 0, 0, 0, 0)
        assert reasons() == {"tessa": "expired", "sam": "lease_lapsed", "ada": "browser_silent"}

    def test_leaves_living_consoles_alone(self, world: World, clock: Clock) -> None:
        keep(world, clock)
        session = world.connect(clock.now).session
        reaper.reap(now=clock.advance(86_400))
        assert fresh(session).status == Status.ACTIVE

    def test_purges_after_the_retention(self, world: World, clock: Clock) -> None:
        session = world.open(clock.now).session
        sessions.close(session=session, by=actor(world.tenant), now=clock.now)
        assert reaper.reap(now=clock.advance(7200)).purged == 0
        assert reaper.reap(now=clock.advance(1)).purged == 1
        assert not ConsoleSession.objects.exists()

    def test_the_retention_is_a_setting(self, world: World, clock: Clock) -> None:
        world.settings(console_retention_seconds=60)
        session = world.open(clock.now).session
        sessions.close(session=session, by=actor(world.tenant), now=clock.now)
        assert reaper.reap(now=clock.advance(61)).purged == 1

    def test_removes_processes_that_are_long_gone(self, world: World, clock: Clock) -> None:
        processes.stop(process=world.process, now=clock.now)
        assert reaper.reap(now=clock.advance(reaper.KEEP_PROCESSES_SECONDS)).processes == 0
        assert reaper.reap(now=clock.advance(1)).processes == 1

    def test_a_session_whose_process_is_gone_altogether_ends(self, world: World, clock: Clock) -> None:
        world.connect(clock.now)
        world.process.delete()
        assert world.in_use(clock.now) == 0
        assert reaper.reap(now=clock.now).lapsed == 1

    def test_finds_rights_that_nobody_told_it_of(self, world: World, clock: Clock) -> None:
        keep(world, clock)
        world.connect(clock.now)
        Membership.objects.filter(user=world.tenant).delete()
        assert reaper.reap(now=clock.now).revoked == 1
        assert reasons() == {"tessa": "right_revoked"}

    def test_a_row_that_changed_meanwhile_is_left_alone(
        self, world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attached = world.connect(clock.now)
        drop(attached.session, ClosedReason.LINE_LOST, clock)
        clock.advance(60)
        world.process = world.add_process(clock.now)
        really = sessions._close_batch

        def resumed_first(matching: Any, *rest: Any) -> int:
            ConsoleSession.objects.update(status=Status.CONNECTING, process=world.process)
            return really(matching, *rest)

        monkeypatch.setattr(sessions, "_close_batch", resumed_first)
        assert reaper.reap(now=clock.now).detached == 0
        assert fresh(attached.session).status == Status.CONNECTING


def test_the_task_works_once_per_interval(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    reconciled: list[Any] = []
    monkeypatch.setattr(reaper, "reap", lambda *, now: runs.append(now))
    monkeypatch.setattr(reconcile, "reconcile_endpoint", lambda *, endpoint, now: reconciled.append(endpoint))
    for _ in range(3):
        tasks.reap()
    assert len(runs) == 1
    assert reconciled == [world.host.endpoint]


class TestRights:
    def test_only_those_who_lost_it(self, world: World, clock: Clock, django_assert_max_num_queries: Any) -> None:
        operator = add_user("olga", Role.OPERATOR, can_console=True)
        for user in (world.tenant, world.second, world.admin, operator):
            world.connect(clock.now, user=user)
        Membership.objects.filter(user=world.tenant).update(can_console=False)
        operator.can_console = False
        operator.save()
        with django_assert_max_num_queries(9):
            assert changes.revoke_lost_rights(now=clock.now) == 2
        assert reasons() == {"tessa": "right_revoked", "olga": "right_revoked", "sam": "", "ada": ""}

    @pytest.mark.django_db(transaction=True)
    def test_accounts_announce_it(self, transactional_db: None, clock: Clock) -> None:
        from tests.consoles.world import build

        world = build(clock.now)
        world.connect(clock.now)
        world.connect(clock.now, user=world.second)
        membership = Membership.objects.get(user=world.tenant)
        people.change_member(membership, can_console=False, by=actor(world.admin), now=clock.now)
        assert reasons() == {"tessa": "right_revoked", "sam": ""}
        people.deactivate(world.second, by=actor(world.admin), now=clock.now)
        assert reasons()["sam"] == "right_revoked"


class TestInventory:
    def test_a_stopped_vm_ends_its_consoles(self, world: World, clock: Clock) -> None:
        world.connect(clock.now)
        world.open(clock.now, user=world.second)
        world.connect(clock.now, user=world.admin, vm=world.other_vm)
        ForeignConnection.objects.create(
            vm=world.vm, host=world.host, label="x", first_seen_at=clock.now, last_seen_at=clock.now
        )
        assert changes.note_vms_stopped(vm_ids=[world.vm.pk], now=clock.now) == 2
        assert reasons() == {"tessa": "vm_stopped", "sam": "vm_stopped", "ada": ""}
        assert world.in_use(clock.now) == 1

    def test_a_moved_vm_lets_its_consoles_come_after_it(self, world: World, clock: Clock) -> None:
        attached = world.connect(clock.now)
        target = world.add_host("beta-host")
        Vm.objects.filter(pk=world.vm.pk).update(host=target)
        move = VmMove(world.vm.pk, world.host.pk, target.pk)
        assert changes.note_vms_moved(moves=[move], now=clock.now) == 1
        assert world.in_use(clock.now) == 0
        assert fresh(attached.session).detached_reason == ClosedReason.VM_MOVED
        again = world.resume(attached.resume_secret, clock.now)
        assert fresh(again.session).host_id == target.pk
        assert again.usage.in_use == 1
        assert changes.note_vms_moved(moves=[move], now=clock.now) == 0

    def test_consoles_of_a_lost_host_are_tried_not_ended(
        self, world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = world.connect(clock.now).session
        sent: list[Any] = []
        monkeypatch.setattr(live, "send", lambda group, message: sent.append((group, message)))
        assert changes.note_hosts_lost(host_ids=[world.host.pk], now=clock.now) == 1
        assert sent == [(f"relay.{world.process.pk}", {"type": "relay.check", "session": str(session.pk)})]
        assert fresh(session).status == Status.ACTIVE

    def test_removing_a_host_ends_its_consoles(self, world: World, clock: Clock) -> None:
        world.connect(clock.now)
        assert changes.on_host_use(host_ids=[world.host.pk], now=clock.now) == {"consoles": 1}
        assert changes.note_hosts_removing(host_ids=[world.host.pk], now=clock.now) == 1
        assert reasons() == {"tessa": "host_lost"}
        assert Host.objects.filter(pk=world.host.pk).exists()
