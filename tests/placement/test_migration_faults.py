"""Workers, hosts and VMs that fail in the middle of a move on simulated hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudops.core.errors import TransitionConflict
from cloudops.core.models import Event, Operation
from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import MigrationFailed, PowerAction
from cloudops.inventory import endpoints, hosts, sync
from placement import fence, migration_run, vm_migrations
from placement.models import VmMigration
from tests.placement.moving import BY, Moving, claims_add_up

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_runner_that_is_killed_is_followed_by_another(world: Moving, moved: list[Any]) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 2)
    assert migration.phase == "copying"
    with pytest.raises(TransitionConflict):
        world.run(migration)
    assert vm_migrations.recover(now=world.now) == 0
    world.pause(60)
    assert vm_migrations.recover(now=world.now) == 1
    assert vm_migrations.recover(now=world.now) == 0
    operation = world.run(migration)
    assert operation.status == "succeeded"
    assert migration.progress["begun"] == 1
    assert world.where(vm) == {"kvm2": "running"}
    assert len(moved) == 1


def test_a_runner_that_died_between_writing_and_beginning(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    progress = {"begun": 1}
    rows = VmMigration.objects.filter(pk=migration.pk)
    rows.update(phase="copying", copying_since=world.now, progress=progress, runner="dead", runner_until=world.now)
    Operation.objects.filter(pk=migration.pk).update(status="running")
    world.pause(3)
    operation = world.run(migration)
    assert operation.status == "succeeded"
    assert migration.progress["begun"] == 2


def test_a_runner_that_is_overtaken_stops(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)

    def pause(seconds: float) -> None:
        world.pause(seconds)
        VmMigration.objects.filter(pk=migration.pk).update(runner="somebody else")

    operation = world.run(migration, pause)
    assert operation.status == "running"
    assert migration.runner == "somebody else"


def test_a_process_that_stops_hands_it_on(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    operation = world.run(migration, lambda _: True)
    assert operation.status == "running"
    assert migration.runner == ""
    world.pause(0.1)
    assert vm_migrations.recover(now=world.now) == 1
    assert world.run(migration).status == "succeeded"


def test_the_destination_dies(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)

    def die() -> None:
        if VmMigration.objects.get(pk=migration.pk).progress.get("percent", 0) >= 50:
            world.faults(second, unreachable=True)

    world.before_pause = die
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "migration-interrupted")
    assert world.claims(vm) == {("kvm1", "vm")}
    claims_add_up()


def test_neither_host_answers_so_it_waits_and_says_so(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    for host in world.hosts:
        world.faults(host, unreachable=True)
    world.pause(30)
    operation = world.run_for(migration, 600)
    assert operation.status == "running"
    assert "Neither host answers" in operation.steps[vm_migrations.COPY]["detail"]
    assert world.claims(vm) == {("kvm1", "vm"), ("kvm2", "incoming")}
    assert Event.objects.filter(kind="vm.migration_unclear").count() == 1
    for host in world.hosts:
        world.faults(host)
    world.pause(30)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "migration-interrupted")
    assert world.where(vm) == {"kvm1": "running"}
    assert world.claims(vm) == {("kvm1", "vm")}


def test_the_source_falls_silent_after_the_vm_left(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.pause(30)
    assert world.where(vm) == {"kvm2": "running"}
    world.faults(first, unreachable=True)
    operation = world.run(migration)
    assert operation.status == "succeeded"
    assert "may be left there" in operation.result["leftover"]
    vm.refresh_from_db()
    assert vm.host == second
    assert Event.objects.filter(kind="vm.migration_leftover").count() == 1


def test_the_destination_falls_silent_after_the_vm_came(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.pause(30)
    assert world.where(vm) == {"kvm2": "running"}
    world.faults(second, unreachable=True)
    operation = world.run_for(migration, 300)
    assert operation.status == "running"
    assert "does not answer" in operation.steps[vm_migrations.COPY]["detail"]
    assert world.claims(vm) == {("kvm1", "vm"), ("kvm2", "incoming")}

    world.sync(second)
    fence.fence(second, by=BY, now=world.now, reason="It burns.")
    world.pause(60)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "host-fenced")
    vm.refresh_from_db()
    assert (vm.host, vm.power_state) == (second, "unknown")
    assert world.claims(vm) == {("kvm2", "vm")}
    claims_add_up()


def test_a_fenced_source_ends_it(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.faults(first, unreachable=True)
    world.sync(first)
    fence.fence(first, by=BY, now=world.now, reason="Its rack is dark.")
    world.pause(30)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "host-fenced")
    assert world.claims(vm) == {("kvm1", "vm")}


def test_both_report_it_running_so_nothing_is_done(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.pause(30)
    facts = sync.read_vm(second.endpoint, vm.ref)
    assert facts is not None
    simulated.put_vm(first.endpoint.uri, replace(facts, host_ref=first.ref))
    operation = world.run_for(migration, 120)
    assert operation.status == "running"
    assert "Both hosts report" in operation.steps[vm_migrations.COPY]["detail"]
    assert world.where(vm) == {"kvm1": "running", "kvm2": "running"}
    simulated.remove_vm(first.endpoint.uri, vm.ref)
    world.pause(30)
    assert world.run(migration).status == "succeeded"
    assert world.claims(vm) == {("kvm2", "vm")}


def test_a_vm_that_shuts_down_while_it_moves(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    registry.call(endpoints.spec_of(first.endpoint), lambda hypervisor: hypervisor.power(vm.ref, PowerAction.STOP))
    world.pause(30)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "vm-stopped-meanwhile")
    vm.refresh_from_db()
    assert vm.power_state == "off"
    assert world.claims(vm) == set()
    claims_add_up()


def test_a_vm_that_vanishes(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.pause(30)
    assert world.where(vm) == {"kvm2": "running"}
    simulated.remove_vm(second.endpoint.uri, vm.ref)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "vm-vanished")
    assert world.claims(vm) == {("kvm1", "vm")}  # the inventory will see that it stays away
    world.pause(20)
    world.sync()
    world.pause(20)
    world.sync()
    assert world.claims(vm) == set()


def test_a_removed_host_ends_its_migrations(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    with pytest.raises(hosts.HostInUse):
        hosts.remove_host(second, by=BY, now=world.now)
    hosts.remove_host(second, by=BY, now=world.now, force=True)
    world.hosts.remove(second)
    operation = Operation.objects.get(pk=migration.pk)
    assert (operation.status, operation.error_code) == ("failed", "host-removed")
    assert world.claims(vm) == {("kvm1", "vm")}
    with pytest.raises(TransitionConflict):
        migration_run.run(operation, clock=world.clock, pause=world.pause)


def test_a_line_that_breaks_is_typed(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    world.fault(first, error=MigrationFailed, detail="unable to connect to server", at_percent=10)
    operation = world.run(world.migrate(vm, second))
    assert (operation.error_code, operation.error_detail) == ("migration-failed", "unable to connect to server")
    assert operation.error_remedy
