"""Any number of workers at one job at once: everything is done once."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from cloudops.core.models import Operation
from placement import maintenance
from placement.models import Maintenance, MaintenanceMove, VmMigration
from tests.placement.maintenance.draining import Drains
from tests.placement.moving import BY

WORKERS = 4


def race(*acts: object) -> list[BaseException]:
    """Runs them at the same time, each with a connection of its own; what they raised."""
    raised: list[BaseException] = []
    barrier = threading.Barrier(len(acts))

    def run(act: object) -> None:
        barrier.wait(10)
        try:
            act()  # type: ignore[operator]
        except BaseException as error:
            raised.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


@pytest.mark.postgres
def test_workers_at_one_job_move_each_vm_once(world: Drains) -> None:
    first = world.build_host("kvm1")
    for number in range(2, 5):
        world.build_host(f"kvm{number}")
    for number in range(8):
        world.build_vm(f"vm{number}", first)
    world.ready()
    job = world.start(first)
    while Maintenance.objects.get(pk=job.pk).status != "holding":
        assert race(*[lambda: maintenance.advance(job.pk, clock=world.clock)] * WORKERS) == []
        assert VmMigration.objects.filter(ended_at__isnull=True).count() <= 2
        world.step()
        assert world.now.minute < 5, world.story()
    assert Operation.objects.filter(kind="vm.migrate").count() == 8
    assert MaintenanceMove.objects.filter(maintenance=job, status="moved").count() == 8
    world.sound()


@pytest.mark.postgres
def test_who_asks_at_the_same_time_gets_the_same_job(world: Drains) -> None:
    first, second = world.build_host("kvm1"), world.build_host("kvm2")
    world.build_vm("vm", first)
    world.ready()

    def ask() -> None:
        maintenance.start(host_ids=[first.pk, second.pk], by=BY, now=world.now)

    assert race(*[ask] * WORKERS) == []
    assert Maintenance.objects.count() == 1
