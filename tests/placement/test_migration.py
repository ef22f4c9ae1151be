"""One VM's move on simulated hosts: the good case, how it is told, and what ends it in order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudops.hypervisors import simulated
from cloudops.hypervisors.port import MigrationFailed, OutOfSpace, PowerState
from cloudops.inventory import hosts, sync
from cloudops.inventory.models import Vm
from placement import vm_migrations
from placement.models import VmMigration
from tests.placement.moving import BY, Moving, claims_add_up, steps

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_running_vm_moves_live(world: Moving, ended: list[dict[str, Any]], moved: list[Any]) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    assert world.claims(vm) == {("kvm1", "vm"), ("kvm2", "incoming")}
    assert migration.mode == "live"
    assert migration.decision is not None

    operation = world.run(migration)

    assert operation.status == "succeeded", operation.error_detail
    assert steps(operation) == ["done"] * 5
    assert "stood still for" in operation.steps[vm_migrations.COPY]["detail"]
    assert world.where(vm) == {"kvm2": "running"}
    assert world.claims(vm) == {("kvm2", "vm")}
    claims_add_up()
    vm.refresh_from_db()
    assert vm.host == second
    assert migration.phase == "ended"
    assert migration.ended_at == world.now
    assert [(move.from_host_id, move.to_host_id) for move in moved] == [(first.pk, second.pk)]
    assert [(end["ok"], end["vm_id"], end["code"]) for end in ended] == [(True, vm.pk, "")]
    world.sync()
    assert len(moved) == 1


def test_progress_is_told_while_it_moves(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    seen: list[tuple[int, str]] = []

    def look() -> None:
        row = VmMigration.objects.select_related("operation").get(pk=migration.pk)
        seen.append((row.progress.get("memory_remaining_mib", -1), row.operation.steps[vm_migrations.COPY]["detail"]))

    world.before_pause = look
    world.run(migration)
    remaining = [one for one, _ in seen if one >= 0]
    assert remaining == sorted(remaining, reverse=True)
    assert len(set(remaining)) > 4
    assert any("MiB left, 512" in words for _, words in seen)
    assert migration.progress["memory_total_mib"] == 2_048
    assert migration.progress["downtime_milliseconds"] > 0


def test_a_vm_that_is_off_moves_without_its_memory(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.OFF)
    migration = world.migrate(vm, second)
    assert migration.mode == "offline"
    operation = world.run(migration)
    assert operation.status == "succeeded", operation.error_detail
    vm.refresh_from_db()
    assert (vm.host, vm.power_state) == (second, "off")
    assert world.where(vm) == {"kvm2": "off"}
    assert world.claims(vm) == set()
    claims_add_up()


def test_a_paused_vm_stays_paused(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.PAUSED)
    operation = world.run(world.migrate(vm, second))
    assert operation.status == "succeeded", operation.error_detail
    assert world.where(vm) == {"kvm2": "paused"}
    assert world.claims(vm) == {("kvm2", "vm")}


@pytest.mark.parametrize("at_percent", [None, 40.0])
def test_a_failure_leaves_the_vm_where_it_was(
    world: Moving, ended: list[dict[str, Any]], at_percent: float | None
) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    world.fault(second, error=OutOfSpace, detail="12 MiB left", at_percent=at_percent)
    migration = world.migrate(vm, second)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", OutOfSpace.code)
    assert operation.error_detail == "12 MiB left"
    assert operation.error_remedy == OutOfSpace.remedy
    assert "failed" in steps(operation)
    assert world.where(vm) == {"kvm1": "running"}
    assert world.claims(vm) == {("kvm1", "vm")}
    claims_add_up()
    assert [(end["ok"], end["code"], end["remedy"]) for end in ended] == [(False, OutOfSpace.code, OutOfSpace.remedy)]


def test_objections_end_it_before_it_begins(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, cpu_model="EPYC")
    Vm.objects.filter(pk=vm.pk).update(cpu_model="")
    uri = second.endpoint.uri
    simulated.put_host(uri, simulated.SimulatedHost(second.ref, second.name, 32, 2_400, "Xeon", 65_536))
    operation = world.run(world.migrate(vm, second))
    assert (operation.status, operation.error_code) == ("failed", "cpu-incompatible")
    assert steps(operation)[vm_migrations.CHECK] == "failed"
    assert world.where(vm) == {"kvm1": "running"}


def test_a_leftover_definition_is_removed_at_the_source(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 1)
    world.pause(30)
    facts = sync.read_vm(second.endpoint, vm.ref)
    assert facts is not None
    simulated.put_vm(first.endpoint.uri, replace(facts, host_ref=first.ref, power_state=PowerState.OFF))
    operation = world.run(migration)
    assert operation.status == "succeeded"
    assert operation.result["leftover"] == ""
    assert world.where(vm) == {"kvm2": "running"}


def test_hosts_behind_one_endpoint(world: Moving) -> None:
    """As behind a vCenter: the VM is known all the time, on one host or the other."""
    uri = f"simulated://{world.name}-both?hosts=2&vms=4"
    simulated.reset(uri)
    cluster = world.hosts[0].cluster
    first, second = hosts.add_host(kind="simulated", uri=uri, cluster=cluster, by=BY, now=world.now)
    world.sync(first)
    vm = Vm.objects.filter(host=first, power_state="running")[0]
    operation = world.run(world.migrate(vm, second))
    assert operation.status == "succeeded", operation.error_detail
    vm.refresh_from_db()
    assert (vm.host, vm.power_state) == (second, "running")
    world.fault(first, error=MigrationFailed, at_percent=30)
    assert world.run(world.migrate(vm, first)).status == "failed"
    vm.refresh_from_db()
    assert vm.host == second
    claims_add_up()
