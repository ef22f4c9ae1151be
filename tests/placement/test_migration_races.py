"""Several threads, one database: one operation per VM, one runner per migration, no room given twice.

script/test runs this on SQLite and on PostgreSQL, where the threads really work side by side.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from django.utils import timezone

from cloudops.core.errors import TransitionConflict
from cloudops.core.models import Operation
from cloudops.hypervisors import registry
from cloudops.inventory.models import Host, Vm
from placement import migration_run, mirror, vm_migrations
from placement.migration_errors import MigrationOver
from placement.models import Claim, ClaimKind, HostCapacity, VmMigration
from tests.placement.moving import BY, Moving, claims_add_up, settings_now
from tests.racing import together

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
THREADS = 6


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moving]:
    """Hosts by the real clock; nobody serves the queue."""
    monkeypatch.setattr(vm_migrations, "enqueue", lambda *_, **__: True)
    mirror.forget()
    world = Moving(now=timezone.now())
    yield world
    registry.close_all()
    mirror.forget()


def ask(vm: Vm, to: Host | None) -> Operation:
    options = vm_migrations.Options.of(settings_now())
    return vm_migrations.migrate(vm, to=to, options=options, by=BY, now=timezone.now())


def run(operation: Operation) -> None:
    migration_run.run(operation, clock=timezone.now, pause=lambda seconds: time.sleep(seconds / 10))


def test_asked_by_many_at_once_it_is_one_migration(world: Moving) -> None:
    first, second = world.add_host(1), world.add_host(2)
    vm = world.add_vm("web", first)

    def work(_: int) -> str:
        ask(vm, second)
        return "started"

    assert together(work, THREADS) == {"started": 1, "operation-running": THREADS - 1}
    assert VmMigration.objects.count() == 1
    assert world.claims(vm) == {("kvm1", "vm"), ("kvm2", "incoming")}
    claims_add_up()


def test_many_runners_one_at_work(world: Moving) -> None:
    first, second = world.add_host(1), world.add_host(2, rate=20_480)
    vm = world.add_vm("web", first)
    operation = ask(vm, second)

    def work(_: int) -> str:
        try:
            run(Operation.objects.get(pk=operation.pk))
        except TransitionConflict:
            return "taken"
        return "ran"

    assert together(work, THREADS) == {"ran": 1, "taken": THREADS - 1}
    migration = VmMigration.objects.select_related("operation").get()
    assert migration.operation.status == "succeeded"
    assert migration.progress["begun"] == 1
    assert world.where(vm) == {"kvm2": "running"}
    claims_add_up()


@pytest.mark.parametrize("seed", range(6))
def test_an_abort_that_races_the_end(world: Moving, seed: int) -> None:
    """However it ends, operation, hypervisors, inventory and claims tell the same."""
    first, second = world.add_host(1, rate=20_480), world.add_host(2)
    vm = world.add_vm("web", first)
    operation = ask(vm, second)
    delay = random.Random(seed).uniform(0.0, 0.25)

    def work(number: int) -> str:
        if number == 0:
            run(operation)
            return "ran"
        time.sleep(delay)
        vm_migrations.abort(VmMigration.objects.get(pk=operation.pk), by=BY, now=timezone.now())
        return "aborted"

    outcomes = together(work, 2)
    assert set(outcomes) <= {"ran", "aborted", MigrationOver.code}, outcomes
    operation.refresh_from_db()
    vm.refresh_from_db()
    place = {"succeeded": "kvm2", "cancelled": "kvm1"}[operation.status]
    assert world.where(vm) == {place: "running"}
    assert vm.host.name == place
    assert world.claims(vm) == {(place, "vm")}
    claims_add_up()


def test_no_host_is_promised_twice(world: Moving) -> None:
    """Six VMs want to a host with room for three."""
    first, second = world.add_host(1), world.add_host(2, memory_mib=1_024 + 3 * 2_048)
    vms = [world.add_vm(f"vm{number}", first) for number in range(THREADS)]

    def work(number: int) -> str:
        ask(vms[number], second)
        return "started"

    outcomes = together(work, THREADS)
    assert outcomes["started"] == 3, outcomes
    assert set(outcomes) <= {"started", "no-host-fits", "capacity-gone"}
    room = HostCapacity.objects.get(pk=second.pk)
    assert room.memory_claimed_mib == room.memory_capacity_mib
    assert Claim.objects.filter(kind=ClaimKind.INCOMING).count() == 3
    assert Operation.objects.count() == 3
    claims_add_up()


def test_turns_are_kept_by_many_runners(world: Moving) -> None:
    """Two at a time on a host, whoever comes first."""
    first, second = world.add_host(1, rate=4_096), world.add_host(2)
    operations = [ask(world.add_vm(f"vm{number}", first), second) for number in range(THREADS)]
    most: list[int] = []

    def work(number: int) -> str:
        while True:
            row = VmMigration.objects.get(pk=operations[number].pk)
            if row.ended_at is not None:
                return "ended"
            busy = VmMigration.objects.filter(phase__in=["copying", "verifying"], ended_at__isnull=True).count()
            most.append(busy)
            try:
                run(Operation.objects.get(pk=row.pk))
            except TransitionConflict:
                pass
            time.sleep(0.05)

    assert together(work, THREADS) == {"ended": THREADS}
    assert max(most) <= 2
    assert {operation.status for operation in Operation.objects.all()} == {"succeeded"}
    assert HostCapacity.objects.get(pk=first.pk).memory_claimed_mib == 0
    claims_add_up()
