"""Room follows power: taken at a start, given back at a stop, and in step with what others do outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cloudops.accounts.models import User
from cloudops.core import operations
from cloudops.core.actors import Actor, ActorKind
from cloudops.core.models import Operation
from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import PowerAction, PowerState
from cloudops.inventory import hosts, power, sync
from cloudops.inventory.models import Host, Vm
from placement import capacity, claims, fence, mirror, power_claims, vm_migrations
from placement.models import Claim, Hold
from placement.power_claims import NoRoomToStart
from tests.placement.moving import BY, Moving, claims_add_up

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moving]:
    monkeypatch.setattr(vm_migrations, "enqueue", lambda *_, **__: True)
    monkeypatch.setattr(power, "enqueue", lambda *_, **__: True)
    mirror.forget()
    world = Moving(now=datetime(2030, 1, 15, 12, 0, tzinfo=UTC))
    simulated.set_clock(lambda: world.now.timestamp())
    world.add_host(1, memory_mib=1_024 + 2 * 2_048)
    world.add_host(2)
    yield world
    simulated.set_clock(None)
    registry.close_all()


def start(world: Moving, vm: Vm, by: Actor = BY) -> Operation:
    row = Vm.objects.select_related("host").get(pk=vm.pk)
    return power.power(row, action=PowerAction.START, by=by, now=world.now)


def work(world: Moving, operation: Operation) -> Operation:
    power.run(Operation.objects.get(pk=operation.pk), clock=world.clock)
    operation.refresh_from_db()
    return operation


def test_a_start_takes_room_and_a_stop_gives_it_back(world: Moving) -> None:
    vm = world.add_vm("web", world.hosts[0], state=PowerState.OFF)
    assert world.claims(vm) == set()
    operation = start(world, vm)
    assert world.claims(vm) == {("kvm1", "vm")}
    world.sync()  # it is still off: a start that is at work keeps its room
    assert world.claims(vm) == {("kvm1", "vm")}
    assert work(world, operation).status == "succeeded"
    assert world.claims(vm) == {("kvm1", "vm")}
    row = Vm.objects.select_related("host").get(pk=vm.pk)
    work(world, power.power(row, action=PowerAction.STOP, by=BY, now=world.now))
    assert world.claims(vm) == set()
    claims_add_up()


def test_a_start_that_fails_gives_its_room_back(world: Moving) -> None:
    vm = world.add_vm("web", world.hosts[0], state=PowerState.OFF)
    operation = start(world, vm)
    world.faults(world.hosts[0], error="internal error: cannot start")
    assert work(world, operation).status == "failed"
    assert world.claims(vm) == set()


def test_a_full_host_refuses_in_words(world: Moving) -> None:
    for name in ("a", "b"):
        world.add_vm(name, world.hosts[0])
    vm = world.add_vm("web", world.hosts[0], state=PowerState.OFF)
    with pytest.raises(NoRoomToStart) as caught:
        start(world, vm)
    assert "0 MiB left" in caught.value.detail
    assert "kvm1" in caught.value.detail
    assert "another host" in caught.value.remedy_text
    assert caught.value.numbers["available"] == {"vcpus": 124, "memory_mib": 0}
    assert Operation.objects.count() == 0


def test_a_tenant_is_not_told_how_full_it_is(world: Moving) -> None:
    user = User.objects.create_user("tessa", password="x", role="tenant")
    for name in ("a", "b"):
        world.add_vm(name, world.hosts[0])
    vm = world.add_vm("web", world.hosts[0], state=PowerState.OFF)
    with pytest.raises(NoRoomToStart) as caught:
        start(world, vm, Actor(ActorKind.USER, "tessa", user_id=user.pk))
    assert "kvm1" not in caught.value.detail
    assert caught.value.numbers == {}


def test_a_stale_claim_elsewhere_does_not_hinder_a_start(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first, state=PowerState.OFF)
    claims.take(host_id=second.pk, vm=vm, kind="vm", vcpus=1, memory_mib=100, now=world.now)
    operation = start(world, vm)
    assert world.claims(vm) == {("kvm1", "vm")}
    claims_add_up()
    assert work(world, operation).status == "succeeded"


def test_a_start_that_finds_no_room_leaves_the_stale_claim_as_it_was(world: Moving) -> None:
    first, second = world.hosts
    for name in ("a", "b"):
        world.add_vm(name, first)
    vm = world.add_vm("web", first, state=PowerState.OFF)
    claims.take(host_id=second.pk, vm=vm, kind="vm", vcpus=1, memory_mib=100, now=world.now)
    with pytest.raises(NoRoomToStart):
        start(world, vm)
    assert world.claims(vm) == {("kvm2", "vm")}
    claims_add_up()


def test_room_that_a_migration_owns_is_not_given_back_for_a_start(world: Moving) -> None:
    user = User.objects.create_user("tessa", password="x", role="tenant")
    first, second = world.hosts
    vm = world.add_vm("web", second)
    operation = world.migrate(vm, first).operation
    row = Vm.objects.select_related("host").get(pk=vm.pk)
    row.host = first
    with pytest.raises(NoRoomToStart) as caught:
        power_claims.claim_for_start(row, operation=operation, by=BY, now=world.now)
    assert "kvm2" in caught.value.detail
    by = Actor(ActorKind.USER, "tessa", user_id=user.pk)
    with pytest.raises(NoRoomToStart) as caught:
        power_claims.claim_for_start(row, operation=operation, by=by, now=world.now)
    assert "kvm" not in f"{caught.value.detail} {caught.value.remedy_text}"
    assert caught.value.numbers == {}
    assert world.claims(vm) == {("kvm2", "vm"), ("kvm1", "incoming")}


def test_a_held_or_cordoned_host_refuses(world: Moving) -> None:
    vm = world.add_vm("web", world.hosts[0], state=PowerState.OFF)
    capacity.set_hold(world.hosts[0].pk, Hold.MAINTENANCE, now=world.now)
    with pytest.raises(NoRoomToStart, match="in maintenance"):
        start(world, vm)
    capacity.set_hold(world.hosts[0].pk, Hold.NONE, now=world.now)
    hosts.cordon(world.hosts[0], by=BY, now=world.now)
    with pytest.raises(NoRoomToStart, match="cordoned"):
        start(world, vm)
    hosts.uncordon(world.hosts[0], by=BY, now=world.now)
    start(world, vm)


def test_what_is_started_outside_is_adopted_even_without_room(world: Moving) -> None:
    vms = [world.add_vm(f"vm{number}", world.hosts[0]) for number in range(3)]
    assert all(world.claims(vm) == {("kvm1", "vm")} for vm in vms)
    assert Claim.objects.filter(adopted=True).count() == 3
    claims_add_up()


def test_a_size_that_is_changed_outside_is_followed(world: Moving) -> None:
    vm = world.add_vm("web", world.hosts[1])
    facts = sync.read_vm(world.hosts[1].endpoint, vm.ref)
    assert facts is not None
    simulated.put_vm(world.hosts[1].endpoint.uri, replace(facts, memory_mib=8_192, vcpus=6))
    sync.sync_endpoint(world.hosts[1].endpoint, now=world.now)
    claim = Claim.objects.get(vm=vm)
    assert (claim.vcpus, claim.memory_mib) == (6, 8_192)
    claims_add_up()


def test_a_move_outside_is_followed(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", first)
    facts = sync.read_vm(first.endpoint, vm.ref)
    assert facts is not None
    simulated.put_vm(second.endpoint.uri, replace(facts, host_ref=second.ref))
    simulated.remove_vm(first.endpoint.uri, vm.ref)
    world.now = world.clock().replace(second=1)
    sync.sync_endpoint(second.endpoint, now=world.now)
    assert world.claims(vm) == {("kvm2", "vm")}
    claims_add_up()


def test_an_unknown_state_keeps_its_room(world: Moving) -> None:
    vm = world.add_vm("web", world.hosts[0])
    world.faults(world.hosts[0], unreachable=True)
    world.sync()
    vm.refresh_from_db()
    assert vm.power_state == "unknown"
    assert world.claims(vm) == {("kvm1", "vm")}


def test_a_lost_signal_is_made_good(world: Moving) -> None:
    on, off = world.add_vm("on", world.hosts[0]), world.add_vm("off", world.hosts[0])
    Claim.objects.filter(vm=on).delete()
    capacity.refresh(now=world.now)
    Vm.objects.filter(pk=off.pk).update(power_state="off")
    assert power_claims.follow_all(now=world.now) == 2
    assert world.claims(on) == {("kvm1", "vm")}
    assert world.claims(off) == set()
    assert power_claims.follow_all(now=world.now) == 0


def test_a_migrating_vm_is_left_to_its_migration(world: Moving) -> None:
    first, second = world.hosts
    vm = world.add_vm("web", second)
    world.migrate(vm, first)
    Vm.objects.filter(pk=vm.pk).update(power_state="off", host=first)
    assert power_claims.follow_all(now=world.now) == 0
    assert power_claims.follow(vm_ids=[vm.pk], now=world.now, gone=True) == 0
    assert world.claims(vm) == {("kvm2", "vm"), ("kvm1", "incoming")}


def test_fencing_needs_an_unreachable_host(world: Moving) -> None:
    first = world.hosts[0]
    with pytest.raises(fence.HostAnswers):
        fence.fence(first, by=BY, now=world.now, reason="I feel like it.")
    with pytest.raises(fence.NotFenced):
        fence.unfence(first, by=BY, now=world.now)


def test_fencing_holds_the_host_until_it_is_taken_back(world: Moving) -> None:
    first = world.hosts[0]
    vm = world.add_vm("web", first)
    off = world.add_vm("off", first, state=PowerState.OFF)
    world.faults(first, unreachable=True)
    world.sync()
    fence.fence(first, by=BY, now=world.now, reason="Its power supply is off.")
    fence.fence(first, by=BY, now=world.now, reason="Its power supply is off.")
    assert fence.is_fenced(first)
    assert world.claims(vm) == {("kvm1", "vm")}
    world.faults(first)
    world.now = world.clock().replace(second=5)
    world.sync()
    assert Host.objects.get(pk=first.pk).connection == "up"
    with pytest.raises(NoRoomToStart, match="fenced"):
        start(world, off)
    fence.unfence(first, by=BY, now=world.now)
    assert not fence.is_fenced(first)
    start(world, off)


def test_the_words_of_an_operation_that_was_cancelled(world: Moving) -> None:
    vm = world.add_vm("web", world.hosts[0])
    operation = operations.start(kind="x", title="X", subject=vm, steps=["One"], by=BY, now=world.now)
    operations.cancel(operation, by=BY, now=world.now, code="c", detail="Because.", remedy="Again.")
    row = Operation.objects.get(pk=operation.pk)
    assert (row.status, row.error_code, row.error_detail, row.error_remedy) == ("cancelled", "c", "Because.", "Again.")
