"""What others do to a VM while it is copied, and what is said while nothing comes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudops.hypervisors import simulated
from cloudops.hypervisors.port import MigrationState, MigrationStatus, PowerState
from cloudops.inventory import sync
from placement import migration_words, vm_migrations
from tests.placement.moving import Moving, claims_add_up

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_vm_that_somebody_moves_on_while_it_is_copied(world: Moving) -> None:
    """By hand, past CloudOps: it is at neither end any more. That is said, no room stays behind on either, and the
    inventory has it where it runs."""
    first, second = world.hosts
    third = world.add_host(3)
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    assert migration.copying_since is not None
    facts = sync.read_vm(first.endpoint, vm.ref)
    assert facts is not None
    for host in (first, second):
        simulated.reset(host.endpoint.uri)
        simulated.put_host(host.endpoint.uri, simulated.SimulatedHost(host.ref, host.name, 32, 2_400, "EPYC", 65_536))
    simulated.put_vm(third.endpoint.uri, replace(facts, host_ref=third.ref))
    world.pause(30)
    operation = world.run(migration)
    assert operation.status == "failed"
    assert operation.error_code == "vm-vanished", operation.error_detail
    world.sync()
    vm.refresh_from_db()
    assert (vm.host, vm.power_state, vm.missing_since) == (third, "running", None)
    assert world.claims(vm) == {(third.name, "vm")}
    claims_add_up()


def test_what_is_waited_for_is_said_when_the_source_does_not_reach_the_destination(
    world: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong migration address: libvirt tries for about two minutes, and nothing flows."""
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    nothing_yet = MigrationStatus(MigrationState.RUNNING)
    monkeypatch.setattr(simulated.SimulatedHypervisor, "migration", lambda *_: nothing_yet)
    said: list[str] = []

    def look(*_: Any) -> None:
        migration.operation.refresh_from_db()
        said.append(migration.operation.steps[vm_migrations.COPY]["detail"])

    world.before_pause = look
    world.run_for(migration, 8)
    words = migration_words.reaching(first.name, second.name)
    assert words in said
    assert said.index(words) >= 8, "not before some seconds have passed"
    assert "migration URI" in words
    assert PowerState.RUNNING in world.where(vm).values()
