"""What a migration makes of doubt: stale definitions, hosts that cannot be asked, surprises, and clocks that differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from cloudops.core import crypto
from cloudops.core.errors import TransitionConflict, Unavailable
from cloudops.core.held import LEASE_SECONDS
from cloudops.core.models import Event, Operation, RuntimeSettings
from cloudops.hypervisors import simulated
from cloudops.hypervisors.port import InvalidState, MigrationFailed, PowerState
from cloudops.inventory import hosts, sync
from cloudops.inventory.models import Host, Vm
from cloudops.managers.processes import SKEW_SECONDS
from placement import migration_run, vm_migrations, whereabouts
from placement.models import VmMigration
from tests.placement.moving import BY, Killed, Moving, claims_add_up

pytestmark = pytest.mark.django_db(transaction=True)


def leave_behind(world: Moving, vm: Vm, host: Host, **changes: Any) -> None:
    """A definition of the VM that something earlier left on ``host``: half the memory, no disks, off."""
    facts = sync.read_vm(vm.host.endpoint, vm.ref)
    assert facts is not None
    values: dict[str, Any] = {"memory_mib": 512, "disks": (), "power_state": PowerState.OFF, **changes}
    simulated.put_vm(host.endpoint.uri, replace(facts, host_ref=host.ref, **values))


def keeps_its_definition(world: Moving, vm: Vm, host: Host) -> None:
    assert world.where(vm) == {host.name: "off"}
    facts = sync.read_vm(host.endpoint, vm.ref)
    assert facts is not None
    assert (facts.memory_mib, len(facts.disks)) == (2_048, 1)


def test_a_stale_definition_never_replaces_the_real_one_though_the_worker_dies(
    world: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.OFF)
    migration = world.migrate(vm, second)
    leave_behind(world, vm, second)

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(simulated.SimulatedHypervisor, "migrate", die)
        with pytest.raises(Killed):
            world.run(migration)
    migration.refresh_from_db()
    assert migration.copying_since is not None
    keeps_its_definition(world, vm, first)
    world.pause(30)
    assert world.run(migration).status == "succeeded"
    keeps_its_definition(world, vm, second)


def test_a_stale_definition_that_comes_in_between_is_no_arrival(world: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that appears after the destination was looked at: only a job that is known to have ended says so."""
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.OFF)
    migration = world.migrate(vm, second)

    def die(*_: Any) -> None:
        leave_behind(world, vm, second)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(simulated.SimulatedHypervisor, "migrate", die)
        with pytest.raises(Killed):
            world.run(migration)
    world.pause(30)
    assert world.run(migration).status == "succeeded"
    keeps_its_definition(world, vm, second)


def test_a_beginning_that_fails_leaves_the_real_definition(world: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.OFF)
    migration = world.migrate(vm, second)
    leave_behind(world, vm, second)

    def fail(*_: Any) -> None:
        raise MigrationFailed("the destination refused it")

    monkeypatch.setattr(simulated.SimulatedHypervisor, "migrate", fail)
    operation = world.run(migration)
    assert (operation.status, operation.error_detail) == ("failed", "the destination refused it")
    keeps_its_definition(world, vm, first)
    vm.refresh_from_db()
    assert (vm.host, vm.memory_mib) == (first, 2_048)


def test_the_end_of_an_earlier_job_is_not_taken_for_this_ones(world: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.OFF)
    assert world.run(world.migrate(vm, second)).status == "succeeded"
    assert world.run(world.migrate(vm, first)).status == "succeeded"
    vm.refresh_from_db()
    migration = world.migrate(vm, second)  # the first host remembers that such a job was completed

    def fail(*_: Any) -> None:
        leave_behind(world, vm, second)
        raise MigrationFailed("the destination refused it")

    monkeypatch.setattr(simulated.SimulatedHypervisor, "migrate", fail)
    assert world.run(migration).status == "failed"
    keeps_its_definition(world, vm, first)


@pytest.mark.parametrize("state", [PowerState.OFF, PowerState.PAUSED])
def test_what_holds_the_destination_ends_it_before_it_begins(
    world: Moving, monkeypatch: pytest.MonkeyPatch, state: PowerState
) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.OFF)
    migration = world.migrate(vm, second)
    leave_behind(world, vm, second, power_state=state)
    monkeypatch.setattr(simulated.SimulatedHypervisor, "check_migration", lambda *_: [])

    def refuse(*_: Any) -> None:
        raise InvalidState("It has a snapshot.")

    monkeypatch.setattr(simulated.SimulatedHypervisor, "discard", refuse)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "vm-name-taken")
    assert "kvm2 holds web already" in operation.error_detail
    assert world.where(vm)["kvm1"] == "off"


def test_a_vm_that_is_only_at_the_destination_is_not_wiped_there(
    world: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.OFF)
    migration = world.migrate(vm, second)
    leave_behind(world, vm, second, memory_mib=2_048)
    simulated.remove_vm(first.endpoint.uri, vm.ref)
    monkeypatch.setattr(simulated.SimulatedHypervisor, "check_migration", lambda *_: [])
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "vm-not-found")
    assert world.where(vm) == {"kvm2": "off"}


# Hosts whose secret cannot be decrypted


@contextmanager
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def no(*_: Any) -> str:
        raise Unavailable("A stored credential cannot be decrypted.")

    with monkeypatch.context() as patch:
        patch.setattr(crypto, "decrypt", no)
        yield


def test_a_secret_that_cannot_be_decrypted_ends_what_was_not_begun(
    world: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    with unreadable(monkeypatch):
        operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "credential-unreadable")
    assert "CLOUDOPS_ENCRYPTION_KEYS" in operation.error_remedy
    assert world.claims(vm) == {("kvm1", "vm")}


@pytest.mark.parametrize("aborted", [False, True])
def test_a_secret_that_cannot_be_decrypted_is_waited_for_in_words(
    world: Moving, monkeypatch: pytest.MonkeyPatch, aborted: bool
) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.pause(30)
    if aborted:
        vm_migrations.abort(migration, by=BY, now=world.now)
    with unreadable(monkeypatch):
        operation = world.run_for(migration, 20)
    words = operation.steps[vm_migrations.COPY]["detail"]
    assert operation.status == "running"
    assert "cannot be decrypted" in words
    assert "CLOUDOPS_ENCRYPTION_KEYS" in words
    world.pause(30)
    assert world.run(migration).status == "succeeded"


def test_a_secret_that_cannot_be_decrypted_while_it_is_verified(world: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.pause(30)
    VmMigration.objects.filter(pk=migration.pk).update(phase="verifying")
    with unreadable(monkeypatch):
        operation = world.run_for(migration, 20)
    assert "CLOUDOPS_ENCRYPTION_KEYS" in operation.steps[vm_migrations.VERIFY]["detail"]
    world.pause(30)
    assert world.run(migration).status == "succeeded"


# Surprises


def test_what_nobody_foresaw_is_said_and_tried_again(world: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.pause(30)

    def surprise(*_: Any, **__: Any) -> None:
        raise ValueError("seven is no host")

    pauses = []
    with monkeypatch.context() as patch:
        patch.setattr(whereabouts, "look", surprise)
        for _ in range(5):
            with pytest.raises(ValueError, match="seven"):
                world.run(migration)
            migration.refresh_from_db()
            assert migration.runner == ""
            assert migration.runner_until is not None
            assert vm_migrations.recover(now=world.now) == 0  # nobody is sent for it at once
            pauses.append((migration.runner_until - world.now).total_seconds())
            world.pause(pauses[-1])
    assert pauses == [10, 20, 40, 60, 60]
    words = Operation.objects.get(pk=migration.pk).steps[vm_migrations.COPY]["detail"]
    assert words == "Something unexpected happened: ValueError: seven is no host; it is tried again in 60 s."
    assert vm_migrations.recover(now=world.now) == 1
    assert world.run(migration).status == "succeeded"
    assert world.claims(vm) == {("kvm2", "vm")}


# Turns


def test_one_whose_whereabouts_are_unclear_holds_nobodys_turn(world: Moving) -> None:
    RuntimeSettings.objects.update_or_create(pk=1, defaults={"migration_host_limit": 1})
    first, second = world.hosts
    third = world.add_host(3)
    lost, other = world.migrate(world.add_vm("lost", second), first), world.add_vm("other", third)
    after = world.migrate(other, first)
    world.run_for(lost, 1)
    operation = world.run(after)
    words = operation.steps[vm_migrations.CHECK]["detail"]
    assert words == "Waits for its turn: 1 of at most 1 migrations are under way on kvm1 (lost)."
    for host in (first, second):
        world.faults(host, unreachable=True)
    world.sync()
    world.pause(30)
    operation = world.run(after)
    words = operation.steps[vm_migrations.CHECK]["detail"]
    assert "kvm1 does not answer: fence kvm1 if it is dead." in words
    assert "kvm2 does not answer: fence kvm2 if it is dead." in words
    operation = world.run_for(lost, 20)
    assert "Neither host answers" in operation.steps[vm_migrations.COPY]["detail"]
    assert "If kvm2 is dead, fence kvm2. If kvm1 is dead, fence kvm1." in operation.steps[vm_migrations.COPY]["detail"]
    assert "kvm1" not in Event.objects.get(kind="vm.migration_unclear").reason
    assert vm_migrations.running().total == 1
    world.faults(first)
    world.sync()
    assert world.run(after).status == "succeeded"
    world.faults(second)
    world.pause(30)
    assert world.where(other) == {"kvm1": "running"}
    assert world.run(lost).ended_at is not None
    claims_add_up()


# Another host of the destination's endpoint


def test_a_vm_that_its_platform_moved_on_is_followed_and_said(world: Moving) -> None:
    first = world.hosts[0]
    uri = f"simulated://{world.name}-both?hosts=2&vms=0"
    simulated.reset(uri)
    one, other = hosts.add_host(kind="simulated", uri=uri, cluster=first.cluster, by=BY, now=world.now)
    world.sync(one)
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, one)
    world.run_for(migration, 1)
    world.pause(30)
    facts = sync.read_vm(one.endpoint, vm.ref)
    assert facts is not None
    simulated.put_vm(uri, replace(facts, host_ref=other.ref))
    simulated.put_vm(first.endpoint.uri, replace(facts, host_ref=first.ref, power_state=PowerState.OFF))
    VmMigration.objects.filter(pk=migration.pk).update(phase="verifying")
    began = world.now
    operation = world.run(migration)
    assert 10 <= (world.now - began).total_seconds() < 15
    assert (operation.status, operation.error_code) == ("failed", "vm-elsewhere")
    assert operation.error_detail == f"web is on {other.name}, not on {one.name}."
    vm.refresh_from_db()
    assert (vm.host, vm.power_state) == (other, "running")
    assert world.claims(vm) == {(other.name, "vm")}
    claims_add_up()


# Clocks


def test_a_server_whose_clock_is_ahead_takes_no_live_runners_row(world: Moving) -> None:
    first, second = world.hosts
    migration = world.migrate(world.add_vm("web", first), second)
    world.run_for(migration, 1)
    assert migration.runner_until is not None
    until = migration.runner_until
    world.now = until.replace(microsecond=0)
    world.pause(SKEW_SECONDS - 0.1 + until.microsecond / 1e6)
    assert vm_migrations.recover(now=world.now) == 0
    with pytest.raises(TransitionConflict):
        migration_run.run(Operation.objects.get(pk=migration.pk), clock=world.clock, pause=world.pause)
    assert LEASE_SECONDS > SKEW_SECONDS
    world.pause(0.2)
    assert vm_migrations.recover(now=world.now) == 1
    assert world.run(migration).status == "succeeded"
