"""Maintenance jobs that are cancelled, resumed, take hosts in turns, or meet other jobs."""

from __future__ import annotations

import pytest

from placement import maintenance, vm_migrations
from placement.maintenance import words
from placement.maintenance.errors import HostsWaiting
from placement.models import HostCapacity, Maintenance, VmMigration
from tests.placement.maintenance.draining import Drains, hold, three
from tests.placement.moving import BY


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
