"""Several threads, one database: one operation per VM, one runner per migration, no room given twice.

script/test runs this on SQLite and on PostgreSQL, where the threads really work side by side.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from django.db import connection
from django.utils import timezone

from cloudops.core.errors import Refusal, TransitionConflict
from cloudops.core.models import Operation
from cloudops.core.operations import OperationRunning
from cloudops.hypervisors import registry
from cloudops.inventory.models import Host, Vm
from placement import migration_run, mirror, vm_migrations
from placement.migration_errors import MigrationOver
from placement.models import Claim, ClaimKind, HostCapacity, VmMigration
from tests.placement.moving import BY, Moving, claims_add_up, settings_now

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


def together(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Every thread begins at the same moment; what one raises is the test's failure."""
    barrier, errors = threading.Barrier(threads), list[BaseException]()

    def run(number: int) -> None:
        try:
            barrier.wait(10)
            work(number)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in running)


def ask(vm: Vm, to: Host | None) -> Operation:
    options = vm_migrations.Options.of(settings_now())
    return vm_migrations.migrate(vm, to=to, options=options, by=BY, now=timezone.now())


def run(operation: Operation) -> None:
    migration_run.run(operation, clock=timezone.now, pause=lambda seconds: time.sleep(seconds / 10))


def test_asked_by_many_at_once_it_is_one_migration(world: Moving) -> None:
    first, second = world.add_host(1), world.add_host(2)
    vm = world.add_vm("web", first)
    outcomes: Counter[str] = Counter()

    def work(_: int) -> None:
        try:
            ask(vm, second)
            outcomes["started"] += 1
        except OperationRunning:
            outcomes["running"] += 1

    together(work)
    assert outcomes == {"started": 1, "running": THREADS - 1}
    assert VmMigration.objects.count() == 1
    assert world.claims(vm) == {("kvm1", "vm"), ("kvm2", "incoming")}
    claims_add_up()


def test_many_runners_one_at_work(world: Moving) -> None:
    first, second = world.add_host(1), world.add_host(2, rate=20_480)
    vm = world.add_vm("web", first)
    operation = ask(vm, second)
    outcomes: Counter[str] = Counter()

    def work(_: int) -> None:
        try:
            run(Operation.objects.get(pk=operation.pk))
            outcomes["ran"] += 1
        except TransitionConflict:
            outcomes["taken"] += 1

    together(work)
    assert outcomes == {"ran": 1, "taken": THREADS - 1}
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

    def work(number: int) -> None:
        if number == 0:
            run(operation)
            return
        time.sleep(delay)
        try:
            vm_migrations.abort(VmMigration.objects.get(pk=operation.pk), by=BY, now=timezone.now())
        except MigrationOver:
            pass

    together(work, threads=2)
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
    outcomes: Counter[str] = Counter()

    def work(number: int) -> None:
        try:
            ask(vms[number], second)
            outcomes["started"] += 1
        except Refusal as refusal:
            outcomes[refusal.code] += 1

    together(work)
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

    def work(number: int) -> None:
        while True:
            row = VmMigration.objects.get(pk=operations[number].pk)
            if row.ended_at is not None:
                return
            busy = VmMigration.objects.filter(phase__in=["copying", "verifying"], ended_at__isnull=True).count()
            most.append(busy)
            try:
                run(Operation.objects.get(pk=row.pk))
            except TransitionConflict:
                pass
            time.sleep(0.05)

    together(work)
    assert max(most) <= 2
    assert {operation.status for operation in Operation.objects.all()} == {"succeeded"}
    assert HostCapacity.objects.get(pk=first.pk).memory_claimed_mib == 0
    claims_add_up()
