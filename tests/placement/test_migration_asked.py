"""Who is moved when: requests that are refused, the choice of a host, and migrations that wait for their turn."""

from __future__ import annotations

from typing import Any

import pytest

from cloudops.core.errors import Refusal
from cloudops.core.models import Event, Operation, RuntimeSettings
from cloudops.core.operations import OperationRunning
from cloudops.inventory.models import Host, Vm
from cloudops.inventory.power import HostNotUp
from placement import vm_migrations
from placement.errors import NoHostFits
from placement.migration_errors import AlreadyThere, LocalStorage, VmNotMovable, VmPinned
from placement.models import Decision, VmMigration
from tests.placement.moving import BY, Moving, settings_now

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_best_host_is_chosen_when_none_is_named(world: Moving) -> None:
    third = world.add_host(3)
    world.add_vm("a", world.hosts[1])
    vm = world.add_vm("web", world.hosts[0])
    operation = world.run(world.migrate(vm, None))
    assert operation.status == "succeeded"
    assert world.where(vm) == {third.name: "running"}


def test_migrations_wait_for_their_turn(world: Moving) -> None:
    RuntimeSettings.objects.update_or_create(pk=1, defaults={"migration_host_limit": 1})
    first, second = world.hosts
    one, two = world.add_vm("one", first), world.add_vm("two", first)
    before, after = world.migrate(one, second), world.migrate(two, second)
    assert vm_migrations.running().total == 2
    assert vm_migrations.running([first.pk]).out_of[first.pk] == 2
    world.run_for(before, 1)
    operation = world.run(after)
    assert operation.status == "running"
    assert "Waits for its turn: 1 of at most 1" in operation.steps[vm_migrations.CHECK]["detail"]
    world.pause(60)
    world.run(before)
    world.pause(5)
    assert vm_migrations.recover(now=world.now) == 1
    assert world.run(after).status == "succeeded"
    assert vm_migrations.running().total == 0


def test_only_those_whose_turn_has_come_are_queued(world: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world.hosts
    third, fourth = world.add_host(3), world.add_host(4)
    queued: list[str] = []
    waiting = []
    for number in range(4):
        waiting.append(world.migrate(world.add_vm(f"vm{number}", first), second))
        world.pause(0.01)
    elsewhere = world.migrate(world.add_vm("other", third), fourth)

    def enqueue(_: str, pk: str, **__: float) -> bool:
        queued.append(pk)
        return True

    monkeypatch.setattr(vm_migrations, "enqueue", enqueue)
    world.pause(5)
    assert vm_migrations.recover(now=world.now) == 3
    assert queued == [str(waiting[0].pk), str(waiting[1].pk), str(elsewhere.pk)]
    RuntimeSettings.objects.update(migration_total_limit=1)
    world.pause(60)
    queued.clear()
    assert vm_migrations.recover(now=world.now) == 1
    assert queued == [str(waiting[0].pk)]


def test_a_queue_that_nobody_serves_is_said(world: Moving) -> None:
    first, second = world.hosts
    migration = world.migrate(world.add_vm("web", first), second)
    world.pause(40)
    assert vm_migrations.recover(now=world.now) == 1
    detail = Operation.objects.get(pk=migration.pk).steps[vm_migrations.CHECK]["detail"]
    assert "queue “migrations”" in detail


def refused(world: Moving, vm: Vm, to: Host | None, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        world.migrate(vm, to, **options)
    return caught.value


def test_what_is_refused_changes_nothing(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    assert isinstance(refused(world, vm, first), AlreadyThere)
    local = {"target": "vdb", "source": "/var/lib/scratch.img", "kind": "local"}
    local_vm = world.add_vm("local", first)
    Vm.objects.filter(pk=local_vm.pk).update(disks=[local])
    refusal = refused(world, local_vm, second)
    assert isinstance(refusal, LocalStorage)
    assert "/var/lib/scratch.img" in refusal.detail
    Vm.objects.filter(pk=vm.pk).update(pinned=True)
    assert isinstance(refused(world, vm, second), VmPinned)
    Vm.objects.filter(pk=vm.pk).update(pinned=False, power_state="unknown")
    assert isinstance(refused(world, vm, second), VmNotMovable)
    world.faults(second, unreachable=True)
    world.sync()
    assert isinstance(refused(world, vm, second), HostNotUp)
    assert VmMigration.objects.count() == 0
    assert Operation.objects.count() == 0


def test_a_pinned_vm_moves_when_asked_all_the_same(world: Moving) -> None:
    first, _ = world.hosts
    vm = world.add_vm("web", first)
    Vm.objects.filter(pk=vm.pk).update(pinned=True)
    assert world.run(world.migrate(vm, None, force_pinned=True)).status == "succeeded"
    vm.refresh_from_db()
    assert vm.pinned


def test_one_operation_at_a_time(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    assert isinstance(refused(world, vm, second), OperationRunning)
    world.run(migration)
    assert world.run(world.migrate(vm, first)).status == "succeeded"
    assert world.where(vm) == {"kvm1": "running"}


def test_a_refusal_keeps_its_decision(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    world.add_vm("fat", second)
    Vm.objects.filter(pk=vm.pk).update(memory_mib=1_000_000)
    refusal = refused(world, vm, second)
    assert isinstance(refusal, NoHostFits)
    assert refusal.remedy_text
    decision = Decision.objects.get()
    assert decision.outcome == "refused"
    assert Operation.objects.count() == 0
    assert Event.objects.filter(kind="vm.migration_refused").count() == 1


def test_bulk_tells_each_outcome(world: Moving) -> None:
    first, second = world.hosts
    vms = [world.add_vm(f"vm{number}", first) for number in range(3)]
    Vm.objects.filter(pk=vms[1].pk).update(pinned=True)
    rows = list(Vm.objects.order_by("name"))
    outcomes = vm_migrations.bulk(
        rows, to=second, options=vm_migrations.Options.of(settings_now()), by=BY, now=world.now
    )
    assert [outcome.vm.name for outcome in outcomes] == ["vm0", "vm1", "vm2"]
    assert [outcome.operation is not None for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1].refusal, VmPinned)
