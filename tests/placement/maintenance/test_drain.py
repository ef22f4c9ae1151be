"""Draining hosts on simulated hypervisors: the good case, VMs that come and go meanwhile, and the way back."""

from __future__ import annotations

import pytest

from cloudops.core.models import Event
from cloudops.hypervisors.port import PowerState
from cloudops.inventory import hosts as host_rows
from placement import maintenance
from placement.maintenance import words
from placement.maintenance.errors import AlreadyInMaintenance, JobOver, NotEmptyYet
from placement.models import Hold, VmMigration
from tests.placement.maintenance.draining import Drains, hold, three
from tests.placement.moving import BY


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
