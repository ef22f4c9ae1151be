"""One VM's move on simulated hosts: the good case, every end, every fault, and who may ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cloudops.core.errors import Refusal, TransitionConflict
from cloudops.core.models import Event, Operation, RuntimeSettings
from cloudops.core.operations import OperationRunning
from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import MigrationFailed, OutOfSpace, PowerAction, PowerState
from cloudops.inventory import endpoints, hosts, sync
from cloudops.inventory import signals as inventory_signals
from cloudops.inventory.models import Host, Vm
from cloudops.inventory.power import HostNotUp
from placement import fence, migration_run, vm_migrations
from placement import signals as placement_signals
from placement.errors import NoHostFits
from placement.migration_errors import AlreadyThere, LocalStorage, MigrationOver, VmNotMovable, VmPinned
from placement.models import Decision, VmMigration
from tests.placement.moving import BY, Moving, claims_add_up, settings_now

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


@pytest.fixture
def ended() -> Iterator[list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []

    def receive(**what: Any) -> None:
        heard.append(what)

    placement_signals.migration_ended.connect(receive)
    yield heard
    placement_signals.migration_ended.disconnect(receive)


@pytest.fixture
def moved() -> Iterator[list[Any]]:
    heard: list[Any] = []

    def receive(moves: list[Any], **_: Any) -> None:
        heard.extend(moves)

    inventory_signals.vm_moved.connect(receive)
    yield heard
    inventory_signals.vm_moved.disconnect(receive)


def steps(operation: Operation) -> list[str]:
    return [step["status"] for step in operation.steps]


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


def test_the_best_host_is_chosen_when_none_is_named(world: Moving) -> None:
    third = world.add_host(3)
    world.add_vm("a", world.hosts[1])
    vm = world.add_vm("web", world.hosts[0])
    operation = world.run(world.migrate(vm, None))
    assert operation.status == "succeeded"
    assert world.where(vm) == {third.name: "running"}


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


def test_abort_while_it_moves(world: Moving, ended: list[dict[str, Any]]) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second, bandwidth_mib_per_second=1)
    world.run_for(migration, 2)
    vm_migrations.abort(migration, by=BY, now=world.now)
    vm_migrations.abort(migration, by=BY, now=world.now)
    world.pause(30)
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("cancelled", "migration-cancelled")
    assert "ada" in operation.error_detail
    assert world.claims(vm) == {("kvm1", "vm")}
    assert world.where(vm)["kvm1"] == "running"
    assert [end["code"] for end in ended] == ["migration-cancelled"]
    with pytest.raises(MigrationOver):
        vm_migrations.abort(migration, by=BY, now=world.now)


def test_abort_within_the_running_runner(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)

    def abort_at_half() -> None:
        row = VmMigration.objects.get(pk=migration.pk)
        if row.progress.get("percent", 0) >= 50 and row.abort_requested_at is None:
            vm_migrations.abort(row, by=BY, now=world.now)

    world.before_pause = abort_at_half
    operation = world.run(migration)
    assert operation.status == "cancelled"
    assert world.where(vm) == {"kvm1": "running"}


def test_abort_before_a_runner_came(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    vm_migrations.abort(migration, by=BY, now=world.now)
    operation = world.run(migration)
    assert operation.status == "cancelled"
    assert steps(operation)[vm_migrations.COPY] == "pending"
    assert world.claims(vm) == {("kvm1", "vm")}


def test_an_abort_that_comes_too_late_changes_nothing(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second)
    world.run_for(migration, 2)
    world.pause(30)
    vm_migrations.abort(migration, by=BY, now=world.now)
    operation = world.run(migration)
    assert operation.status == "succeeded"
    assert world.where(vm) == {"kvm2": "running"}
    assert world.claims(vm) == {("kvm2", "vm")}


def test_too_long_is_aborted(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second, timeout_seconds=20, bandwidth_mib_per_second=10)
    RuntimeSettings.objects.update(migration_timeout_seconds=86_400)  # asked for before: not its business
    began = world.now
    operation = world.run(migration)
    assert (operation.status, operation.error_code) == ("failed", "migration-timeout")
    assert 20 <= (world.now - began).total_seconds() < 25
    assert world.where(vm) == {"kvm1": "running"}


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


def test_post_copy_cannot_be_aborted_any_more(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    migration = world.migrate(vm, second, post_copy=True)

    def abort_late() -> None:
        row = VmMigration.objects.get(pk=migration.pk)
        if row.progress.get("post_copy") and row.abort_requested_at is None:
            vm_migrations.abort(row, by=BY, now=world.now)

    world.before_pause = abort_late
    operation = world.run(migration)
    assert migration.abort_requested_at is not None
    assert operation.status == "succeeded"
    assert world.where(vm) == {"kvm2": "running"}


def test_a_line_that_breaks_is_typed(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    world.fault(first, error=MigrationFailed, detail="unable to connect to server", at_percent=10)
    operation = world.run(world.migrate(vm, second))
    assert (operation.error_code, operation.error_detail) == ("migration-failed", "unable to connect to server")
    assert operation.error_remedy
