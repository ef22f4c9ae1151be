"""What a migration makes of doubt: stale definitions, hosts that cannot be asked, surprises, and clocks that differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import InvalidState, MigrationFailed, PowerState
from cloudops.inventory import sync
from cloudops.inventory.models import Host, Vm
from placement import vm_migrations
from tests.placement.moving import Killed, Moving

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moving]:
    """Two hosts, and a queue that nobody serves: the test is the worker."""
    monkeypatch.setattr(vm_migrations, "enqueue", lambda *_, **__: True)
    world = Moving(now=datetime(2030, 1, 15, 12, 0, tzinfo=UTC))
    simulated.set_clock(lambda: world.now.timestamp())
    world.add_host(1)
    world.add_host(2)
    yield world
    simulated.set_clock(None)
    registry.close_all()


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
