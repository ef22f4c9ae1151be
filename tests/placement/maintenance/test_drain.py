"""Draining hosts on simulated hypervisors: the good case, and everything that may come in between."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import datetime

import pytest

from cloudops.core import operations
from cloudops.core.models import Event, Operation
from cloudops.hypervisors.port import MigrationInterrupted, PowerAction, PowerState
from cloudops.inventory import hosts as host_rows
from cloudops.inventory.models import Connection, Host
from cloudops.inventory.power import power
from placement import fence, maintenance, vm_migrations
from placement.maintenance import words
from placement.maintenance.errors import AlreadyInMaintenance, HostsWaiting, JobOver, NotEmptyYet, StopNotRepeated
from placement.maintenance.options import Choice, VmChoice
from placement.models import Claim, Hold, HostCapacity, Maintenance, VmMigration
from placement.power_claims import NoRoomToStart
from tests.placement.maintenance.draining import Drains
from tests.placement.moving import BY, Killed


def three(world: Drains, vms: int = 4, gib: int = 64) -> list[Host]:
    """Three hosts; the first runs some VMs of 2 GiB."""
    hosts = [world.build_host(f"kvm{number}", gib=gib) for number in range(1, 4)]
    for number in range(vms):
        world.build_vm(f"vm{number}", hosts[0])
    world.ready()
    return hosts


def hold(host: Host) -> str:
    return str(HostCapacity.objects.get(pk=host.pk).hold)


def test_a_host_is_emptied_live_and_held(world: Drains) -> None:
    first, *_ = three(world)
    job = world.start(first, reason="New memory")
    assert hold(first) == Hold.DRAINING
    first.refresh_from_db()
    assert not first.schedulable
    world.until_status(job, "holding")
    assert set(world.statuses(job).values()) == {"moved"}
    assert hold(first) == Hold.MAINTENANCE
    for number in range(4):
        (where,) = world.really_on(world.vm(f"vm{number}"))
        assert where != "kvm1"
    world.sound()
    kinds = set(Event.objects.filter(subject_id=str(job.pk)).values_list("kind", flat=True))
    assert {"maintenance.started", "maintenance.draining", "maintenance.holding"} <= kinds


def test_completing_restores_what_was(world: Drains) -> None:
    first, second, _ = three(world, vms=1)
    host_rows.cordon(second, by=BY, now=world.now)
    job = world.start(first, second)
    world.until_status(job, "holding")
    maintenance.complete(job, by=BY, now=world.now)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.schedulable, second.schedulable) == (True, False)
    assert (hold(first), hold(second)) == ("", "")
    job.refresh_from_db()
    assert job.status == "completed"
    with pytest.raises(JobOver):
        maintenance.complete(job, by=BY, now=world.now)


def test_completing_before_it_is_empty_is_refused_with_numbers(world: Drains) -> None:
    first, *_ = three(world)
    job = world.start(first)
    world.advance(job)
    with pytest.raises(NotEmptyYet) as refusal:
        maintenance.complete(job, by=BY, now=world.now)
    assert refusal.value.numbers == {"hosts": 1, "vms": 4}


def test_asked_twice_it_is_one_job(world: Drains) -> None:
    first, second, _ = three(world)
    job = world.start(first)
    assert world.start(first) == job
    with pytest.raises(AlreadyInMaintenance) as refusal:
        world.start(first, second)
    assert refusal.value.numbers["maintenance"] == str(job.pk)
    assert hold(second) == ""


def test_vms_that_are_off_stay_and_it_is_said(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    world.build_vm("off", first, state=PowerState.OFF)
    world.ready()
    job = world.start(first)
    world.until_status(job, "holding")
    row = world.move(job, "off")
    assert (row.status, row.reason_code) == ("skipped", words.POWERED_OFF)
    assert "cannot be started" in row.reason
    with pytest.raises(NoRoomToStart):
        power(world.vm("off"), action=PowerAction.START, by=BY, now=world.now)


def test_vms_that_are_off_are_moved_when_asked(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    world.build_vm("off", first, state=PowerState.OFF)
    world.ready()
    job = world.start(first, move_powered_off=True)
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "moved", "off": "moved"}
    assert world.vm("off").host != first
    assert not Claim.objects.filter(vm=world.vm("off")).exists()


def test_paused_vms_move_and_stay_paused(world: Drains) -> None:
    first, *_ = three(world, vms=0)
    world.build_vm("paused", first, state=PowerState.PAUSED)
    world.ready()
    job = world.start(first)
    world.step()
    world.run(VmMigration.objects.get())  # one runner sees it through: what is paused has to be looked at for a while
    world.until_status(job, "holding")
    assert world.vm("paused").power_state == "paused"
    assert world.vm("paused").host != first


def test_an_operation_at_work_is_waited_for(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    operation = power(world.vm("vm0"), action=PowerAction.REBOOT, by=BY, now=world.now)
    job = world.start(first)
    for _ in range(6):
        world.step()
    row = world.move(job, "vm0")
    assert (row.status, row.reason_code) == ("waiting", words.OPERATION_RUNNING)
    assert operation.title in row.reason
    world.run_power()
    world.until_status(job, "holding")
    assert world.move(job, "vm0").reason == ""


def test_a_pinned_vm_blocks_until_somebody_chooses(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    vm = world.vm("vm0")
    vm.pinned = True
    vm.save(update_fields=["pinned"])
    job = world.start(first)
    world.until_status(job, "blocked")
    row = world.move(job, "vm0")
    assert (row.status, row.reason_code) == ("blocked", words.PINNED)
    assert [one["choice"] for one in row.remedies] == ["move-pinned", "skip", "stop"]
    assert "vm0" in job.blocked_reason
    maintenance.choose(row, choice=Choice.MOVE_PINNED, by=BY, now=world.now)
    world.until_status(job, "holding")
    assert world.move(job, "vm0").status == "moved"


def test_unpinning_unblocks_by_itself(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    vm = world.vm("vm0")
    vm.pinned = True
    vm.save(update_fields=["pinned"])
    job = world.start(first)
    world.until_status(job, "blocked")
    vm.pinned = False
    vm.save(update_fields=["pinned"])
    world.until_status(job, "holding")


def test_a_skipped_vm_goes_on_running_there(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    job = world.start(first, choices={world.vm("vm0").pk: VmChoice(Choice.SKIP)})
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "skipped", "vm1": "moved"}
    assert world.really_on(world.vm("vm0")) == ["kvm1"]
    assert "goes on running" in world.move(job, "vm0").reason


def test_a_vm_is_stopped_only_by_choice(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    job = world.start(first, choices={world.vm("vm0").pk: VmChoice(Choice.STOP)})
    world.step()
    assert world.move(job, "vm0").status == "stopping"
    world.run_power()
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "stopped", "vm1": "moved"}


def test_only_a_stop_that_is_chosen_again_powers_a_vm_off(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    vm = world.vm("vm0")
    job = world.start(first, choices={vm.pk: VmChoice(Choice.STOP)})
    world.step()
    asked = Operation.objects.filter(kind="vm.power")
    operations.begin(asked.get(), by=BY, now=world.now)
    operations.fail(asked.get(), by=BY, now=world.now, code="guest-did-not-react", detail="still running", remedy="-")
    world.until(lambda: world.statuses(job) == {"vm0": "blocked"}, seconds=30)
    row = world.move(job, "vm0")
    assert (row.status, row.reason_code, row.choice) == ("blocked", "stop-failed", "")
    assert "Stop this VM" in row.remedy
    assert maintenance.retry(job, by=BY, now=world.now) == 0
    with pytest.raises(StopNotRepeated):
        maintenance.retry(job, move=row, by=BY, now=world.now)
    for _ in range(4):
        world.step(30)
    assert world.statuses(job) == {"vm0": "blocked"}
    assert [one.params["action"] for one in asked] == ["shutdown"]
    maintenance.choose(row, choice=Choice.STOP, by=BY, now=world.now)
    world.step()
    assert [one.params["action"] for one in asked.order_by("created_at")] == ["shutdown", "stop"]
    world.run_power()
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "stopped"}


def test_after_a_stop_in_vain_a_remedy_moves_the_vm_and_stops_nothing(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    job = world.start(first, choices={world.vm("vm0").pk: VmChoice(Choice.STOP)})
    world.step()
    asked = Operation.objects.get(kind="vm.power")
    operations.begin(asked, by=BY, now=world.now)
    operations.fail(asked, by=BY, now=world.now, code="guest-did-not-react", detail="still running", remedy="-")
    world.until(lambda: world.statuses(job) == {"vm0": "blocked"}, seconds=30)
    maintenance.choose(world.move(job, "vm0"), choice=Choice.ACROSS, by=BY, now=world.now)
    world.until_status(job, "holding")
    assert world.statuses(job) == {"vm0": "moved"}
    assert Operation.objects.filter(kind="vm.power").count() == 1


def test_the_chosen_host_is_taken(world: Drains) -> None:
    first, _, third = three(world, vms=3)
    job = world.start(first, choices={world.vm("vm1").pk: VmChoice(Choice.HOST, third.pk)})
    world.until_status(job, "holding")
    assert world.vm("vm1").host == third


def test_a_vm_that_appears_while_it_drains_is_moved_too(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    job = world.start(first)
    world.step()
    world.build_vm("late", first)
    world.sync(first)
    world.until_status(job, "holding")
    row = world.move(job, "late")
    assert row.status == "moved"
    assert Event.objects.filter(kind="maintenance.vm_appeared").count() == 1


def test_a_vm_that_appears_on_a_held_host_is_moved_off_again(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    job = world.start(first)
    world.until_status(job, "holding")
    world.build_vm("late", first)
    world.sync(first)
    world.until_status(job, "draining")
    world.until_status(job, "holding")
    assert world.vm("late").host != first


def test_a_vm_started_outside_while_the_host_is_held_is_moved(world: Drains) -> None:
    first, *_ = three(world, vms=0)
    world.build_vm("off", first, state=PowerState.OFF)
    world.ready()
    job = world.start(first)
    world.until_status(job, "holding")
    world.build_vm("off", first)
    world.sync(first)
    world.until(lambda: world.move(job, "off").status == "moved")
    world.until_status(job, "holding")


def test_a_vm_that_somebody_else_moves_is_left_there(world: Drains) -> None:
    first, second, _ = three(world, vms=3)
    own = world.migrate(world.vm("vm2"), second)
    job = world.start(first)
    world.until_status(job, "holding")
    row = world.move(job, "vm2")
    own.refresh_from_db()
    assert (row.status, row.reason_code, own.maintenance) == ("moved", words.MOVED_BY_OTHERS, None)
    assert VmMigration.objects.filter(vm=world.vm("vm2")).count() == 1


def test_a_vm_that_vanishes_is_said_to_be_gone(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    vm = world.vm("vm1")
    vm.missing_since = world.now
    vm.save(update_fields=["missing_since"])
    job = world.start(first)
    world.until_status(job, "holding")
    assert world.move(job, "vm1").status == "gone"
    assert "does not report it" in world.move(job, "vm1").reason


def test_an_unknown_power_state_blocks_until_it_is_known(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    vm = world.vm("vm0")
    vm.power_state = "unknown"
    vm.save(update_fields=["power_state"])
    job = world.start(first)
    world.until_status(job, "blocked")
    assert world.move(job, "vm0").reason_code == words.STATE_UNKNOWN
    world.sync(first)
    world.until_status(job, "holding")


def test_after_a_failure_the_next_best_host_is_taken(world: Drains) -> None:
    first, second, _ = three(world, vms=1)
    world.fault(second, error=MigrationInterrupted, detail="line cut", at_percent=50, direction="to")
    job = world.start(first)
    world.until_status(job, "holding")
    row = world.move(job, "vm0")
    assert row.attempts == 1
    (tried,) = row.tried_hosts
    assert (tried["host_name"], row.target.name if row.target else "") == ("kvm2", "kvm3")
    assert "line cut" in tried["detail"]
    assert world.really_on(world.vm("vm0")) == ["kvm3"]


def test_when_every_host_was_tried_it_is_blocked_with_reasons_and_goes_on_by_itself(world: Drains) -> None:
    first, second, third = three(world, vms=1)
    for host in (second, third):
        world.fault(host, error=MigrationInterrupted, detail="line cut", at_percent=50, direction="to")
    job = world.start(first)
    world.until_status(job, "blocked")
    row = world.move(job, "vm0")
    assert "tried without success" in row.reason
    assert world.really_on(world.vm("vm0")) == ["kvm1"]
    assert {"host", "skip", "stop"} <= {one["choice"] for one in row.remedies}
    world.until_status(job, "holding")
    world.sound()


def test_no_room_blocks_and_room_unblocks(world: Drains) -> None:
    hosts = [world.build_host("kvm1", gib=8), world.build_host("kvm2", gib=2)]
    for number in range(2):
        world.build_vm(f"vm{number}", hosts[0])
    world.ready()
    job = world.start(hosts[0])
    world.until_status(job, "blocked")
    assert sorted(world.statuses(job).values()) == ["blocked", "moved"]
    assert "too little memory" in job.blocked_reason
    world.build_host("kvm3")
    world.ready()
    world.until_status(job, "holding", seconds=10)


def test_a_destination_that_dies_is_planned_around(world: Drains) -> None:
    first, second, third = three(world, vms=4)
    job = world.start(first)
    world.step()
    targets = {row.target for row in world.moves(job).values() if row.target}
    dead = second if second in targets else third
    world.faults(dead, unreachable=True)
    Host.objects.filter(pk=dead.pk).update(connection=Connection.UNREACHABLE)
    world.sync(dead)
    world.until(lambda: world.vm("vm3").host != first or world.vm("vm2").host != first)
    world.faults(dead)
    world.sync(dead)
    world.until_status(job, "holding")
    world.sound()


def test_the_drained_host_dies_and_says_so(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    job = world.start(first)
    world.faults(first, unreachable=True)
    world.sync(first)
    world.until_status(job, "blocked")
    row = world.move(job, "vm0")
    assert row.reason_code == words.UNREACHABLE
    assert "fence" in row.remedy
    fence.fence(first, by=BY, now=world.now, reason="It burns.")
    world.step()
    assert hold(first) == Hold.FENCED
    maintenance.cancel(job, by=BY, now=world.now)
    assert hold(first) == Hold.FENCED
    assert hold(first) != Hold.NONE


def test_a_host_that_comes_back_goes_on_by_itself(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    world.faults(first, unreachable=True)
    world.sync(first)
    job = world.start(first)
    world.until_status(job, "blocked")
    world.faults(first)
    world.sync(first)
    world.until_status(job, "holding")


def test_cancel_returns_the_host_at_once_and_lets_migrations_end(world: Drains) -> None:
    first, *_ = three(world, vms=4)
    job = world.start(first)
    world.step()
    assert "moving" in world.statuses(job).values()
    maintenance.cancel(job, by=BY, now=world.now)
    first.refresh_from_db()
    assert (first.schedulable, hold(first)) == (True, "")
    world.until(lambda: not VmMigration.objects.filter(ended_at__isnull=True).exists())
    for _ in range(6):
        world.step()
    assert sorted(world.statuses(job).values()) == ["moved", "moved", "waiting", "waiting"]
    job.refresh_from_db()
    assert (job.status, job.wake_at) == ("cancelled", None)
    world.sound()


def test_cancel_may_abort_what_moves(world: Drains) -> None:
    first, *_ = three(world, vms=4)
    job = world.start(first)
    world.step()
    maintenance.cancel(job, abort_running=True, by=BY, now=world.now)
    world.until(lambda: not VmMigration.objects.filter(ended_at__isnull=True).exists())
    for number in range(4):
        assert world.really_on(world.vm(f"vm{number}")) == ["kvm1"]
    world.sound()


def test_resume_is_a_new_job_with_the_same_hosts(world: Drains) -> None:
    first, *_ = three(world, vms=4)
    job = world.start(first, reason="Fan")
    world.step()
    maintenance.cancel(job, by=BY, now=world.now)
    again = maintenance.resume(job, by=BY, now=world.now)
    assert (again.pk != job.pk, again.reason) == (True, "Fan")
    world.until_status(again, "holding")
    world.sound()


def test_an_aborted_migration_waits_for_somebody(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    job = world.start(first)
    world.step()
    (running,) = VmMigration.objects.filter(ended_at__isnull=True)
    vm_migrations.abort(running, by=BY, now=world.now)
    world.until_status(job, "blocked")
    row = world.move(job, "vm0")
    assert row.reason_code == words.ABORTED
    for _ in range(40):
        world.step(5)
    assert world.really_on(world.vm("vm0")) == ["kvm1"]
    maintenance.retry(job, by=BY, now=world.now)
    world.until_status(job, "holding")


def test_drain_without_hold_gives_the_host_back(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    job = world.start(first, mode="drain")
    world.until_status(job, "completed")
    first.refresh_from_db()
    assert (first.schedulable, hold(first)) == (True, "")
    assert world.vm("vm0").host != first


def test_rolling_takes_hosts_in_turns(world: Drains) -> None:
    hosts = [world.build_host(f"kvm{number}", gib=16) for number in range(1, 4)]
    for number in range(6):
        world.build_vm(f"vm{number}", hosts[number % 3])
    world.ready()
    job = world.start(*hosts, hosts_at_once=1)
    for host in hosts:
        world.until_status(job, "holding")
        held = [row.host for row in job.hosts.filter(status="held").select_related("host")]
        assert held == [host]
        assert HostCapacity.objects.exclude(hold="").count() == 1
        if host != hosts[-1]:
            with pytest.raises(HostsWaiting):
                maintenance.complete(job, by=BY, now=world.now)
        maintenance.release_host(job, host=host, by=BY, now=world.now)
        job.refresh_from_db()
    assert job.status == "completed"
    assert HostCapacity.objects.exclude(hold="").count() == 0
    world.sound()


def test_waiting_hosts_take_vms_only_when_nothing_else_can(world: Drains) -> None:
    hosts = [world.build_host(f"kvm{number}", gib=16) for number in range(1, 4)]
    for number in range(3):
        world.build_vm(f"vm{number}", hosts[0])
    world.ready()
    job = world.start(hosts[0], hosts[1], hosts_at_once=1)
    world.until_status(job, "holding")
    assert {world.vm(f"vm{number}").host for number in range(3)} == {hosts[2]}


def test_two_admins_drain_two_hosts_into_each_other(world: Drains) -> None:
    first, second = (world.build_host(name, gib=16) for name in ("kvm1", "kvm2"))
    world.build_vm("one", first)
    world.build_vm("two", second)
    world.ready()
    jobs = [world.start(first, title="Ada's"), world.start(second, title="Bob's")]
    for job in jobs:
        world.until_status(job, "blocked")
    for _ in range(20):
        world.step(3)
    assert not VmMigration.objects.exists()
    maintenance.cancel(jobs[1], by=BY, now=world.now)
    world.until_status(jobs[0], "holding")
    assert world.really_on(world.vm("one")) == ["kvm2"]
    world.sound()


def test_limits_hold_across_jobs_and_manual_migrations(world: Drains) -> None:
    hosts = [world.build_host(f"kvm{number}", gib=64) for number in range(1, 6)]
    for number in range(8):
        world.build_vm(f"vm{number}", hosts[number % 2], gib=8)
    world.ready()
    world.migrate(world.vm("vm0"), hosts[4])
    jobs = [world.start(hosts[0]), world.start(hosts[1])]
    while not all(Maintenance.objects.get(pk=job.pk).status == "holding" for job in jobs):
        world.step()
        running = vm_migrations.running()
        assert running.total <= 16
        assert all(running.on(host.pk) <= 2 for host in hosts)
        assert world.now.minute < 10, world.story()
    world.sound()


def test_a_third_vm_makes_room(world: Drains) -> None:
    """The VM that must leave fits nowhere before a smaller one has gone elsewhere."""
    first, second, third = (world.build_host(f"kvm{n}", gib=gib) for n, gib in ((1, 16), (2, 12), (3, 4)))
    world.build_vm("big", first, gib=12)
    world.build_vm("small", second, gib=4)
    world.ready()
    job = world.start(first)
    world.until_status(job, "holding")
    assert (world.vm("big").host, world.vm("small").host) == (second, third)
    row = world.move(job, "small")
    assert (row.resident, row.status) == (True, "moved")
    world.sound()


def test_vms_are_brought_home(world: Drains) -> None:
    first, second, third = three(world, vms=4)
    job = world.start(first)
    world.until_status(job, "holding")
    maintenance.complete(job, by=BY, now=world.now)
    away = world.vm("vm3")
    world.run(world.migrate(away, third if away.host == second else second))
    world.build_vm("stopped", second)
    job.refresh_from_db()
    who = maintenance.homecoming(job, now=world.now)
    assert [one.vm_name for one in who.goes] == ["vm0", "vm1", "vm2"]
    assert [(one.vm_name, one.code) for one in who.stays] == [("vm3", "moved-on")]
    home = maintenance.bring_home(job, by=BY, now=world.now)
    assert maintenance.bring_home(job, by=BY, now=world.now) == home
    world.until_status(home, "completed")
    for number in range(3):
        assert world.really_on(world.vm(f"vm{number}")) == ["kvm1"]
    assert home.plan["stays"][0]["vm_name"] == "vm3"
    world.sound()


def test_nothing_is_lost_when_a_worker_is_killed_at_any_point(world: Drains) -> None:
    """Whatever a worker had begun is undone or goes on: the next one does everything once."""
    first, *_ = three(world, vms=4)
    job = world.start(first)

    for deadline in range(1, 6):
        asked = itertools.count(1)

        def dying_clock(asked: Iterator[int] = asked, deadline: int = deadline) -> datetime:
            if next(asked) >= deadline:
                raise Killed
            return world.now

        with contextlib.suppress(Killed):
            maintenance.advance(job.pk, clock=dying_clock)
        world.step()
    world.until_status(job, "holding")
    assert Operation.objects.filter(kind="vm.migrate").count() == 4
    world.sound()
