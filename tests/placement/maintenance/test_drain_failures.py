"""Drains in which migrations, hosts and workers fail, or for which there is no room."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import datetime

from cloudops.core.models import Operation
from cloudops.hypervisors.port import MigrationInterrupted
from cloudops.inventory.models import Connection, Host
from placement import fence, maintenance
from placement.maintenance import words
from placement.models import Hold
from tests.placement.maintenance.draining import Drains, hold, three
from tests.placement.moving import BY, Killed


def test_a_vm_that_vanishes_is_said_to_be_gone(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    vm = world.vm("vm1")
    vm.missing_since = world.now
    vm.save(update_fields=["missing_since"])
    job = world.start(first)
    world.until_status(job, "holding")
    assert world.move(job, "vm1").status == "gone"
    assert "does not report it" in world.move(job, "vm1").reason


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
