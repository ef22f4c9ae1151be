"""Claims: taken only where there is room and leave, given back once, moved with the VM, adopted room or not."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.db.models import F, Q
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cloudops.core.models import Operation
from cloudops.core.operations import start, succeed
from cloudops.hypervisors.port import PowerState
from cloudops.inventory.models import Host, Vm
from placement import capacity, claims, reconciling
from placement.errors import AlreadyClaimed, CapacityGone, NothingIncoming
from placement.models import Claim, ClaimKind, HostCapacity
from placement.reconciling import DriftKind
from tests.examples import examples
from tests.placement.world import BY, NOW, add_cluster, add_host, add_vm, operation_on

pytestmark = pytest.mark.django_db


@pytest.fixture
def host() -> Host:
    return add_host("kvm-1", add_cluster("linux"))


@pytest.fixture
def other(host: Host) -> Host:
    return add_host("kvm-2", host.cluster)


def take(host: Host, vm: Vm, **values: Any) -> Claim:
    given: dict[str, Any] = {"kind": ClaimKind.VM, "vcpus": vm.vcpus, "memory_mib": vm.memory_mib, "now": NOW} | values
    return claims.take(host_id=host.pk, vm=vm, **given)


def claimed(host: Host) -> tuple[int, int]:
    row = HostCapacity.objects.get(pk=host.pk)
    return row.vcpu_claimed, row.memory_claimed_mib


def test_a_claim_takes_its_room_and_its_release_gives_it_back_once(host: Host) -> None:
    before = HostCapacity.objects.get(pk=host.pk).version
    claim = take(host, add_vm("a", host))
    row = HostCapacity.objects.get(pk=host.pk)
    assert (row.vcpu_claimed, row.memory_claimed_mib) == (2, 2_048)
    assert row.version >= before
    assert claims.release(claim, now=NOW) == 1
    assert claims.release(claim, now=NOW) == 0
    assert claimed(host) == (0, 0)


def test_the_last_mib_is_given_and_one_more_refused_with_the_numbers(host: Host) -> None:
    take(host, add_vm("a", host, memory_mib=16_384))
    with pytest.raises(CapacityGone) as refused:
        take(host, add_vm("b", host, memory_mib=1))
    assert refused.value.numbers["available"] == {"vcpus": 62, "memory_mib": 0}
    assert "kvm-1 has 62 vCPUs and 0 MiB left; 2 and 1 are needed." in refused.value.detail
    assert Claim.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [({"schedulable": False}, "it is cordoned"), ({"connection": "unreachable"}, "it is not reachable")],
)
def test_the_statement_itself_looks_at_will_and_connection(host: Host, change: dict[str, Any], words: str) -> None:
    """The capacity row was not told: the claim must not rely on that."""
    Host.objects.filter(pk=host.pk).update(**change)
    with pytest.raises(CapacityGone, match=words):
        take(host, add_vm("a", host))
    assert claimed(host) == (0, 0)


@pytest.mark.parametrize("hold", ["draining", "maintenance", "fenced"])
def test_a_held_host_takes_nothing_unless_that_is_wanted(host: Host, hold: str) -> None:
    capacity.set_hold(host.pk, hold, now=NOW)
    vm = add_vm("a", host)
    with pytest.raises(CapacityGone, match="takes no VMs"):
        take(host, vm)
    take(host, vm, ignore_hold=True)
    assert claimed(host) == (2, 2_048)


def test_a_cordoned_host_takes_what_was_asked_for_just_there(host: Host) -> None:
    Host.objects.filter(pk=host.pk).update(schedulable=False)
    take(host, add_vm("a", host), ignore_schedulable=True)
    assert claimed(host) == (2, 2_048)


def test_taking_twice_is_one_claim_and_elsewhere_is_refused(host: Host, other: Host) -> None:
    vm = add_vm("a", host)
    assert take(host, vm) == take(host, vm)
    with pytest.raises(AlreadyClaimed, match="kvm-1"):
        take(other, vm)
    assert (claimed(host), claimed(other)) == ((2, 2_048), (0, 0))


def test_a_vm_that_arrives_leaves_nothing_behind(host: Host, other: Host) -> None:
    vm = add_vm("a", host)
    take(host, vm)
    operation = operation_on(vm)
    take(other, vm, kind=ClaimKind.INCOMING, operation=operation)
    assert (claimed(host), claimed(other)) == ((2, 2_048), (2, 2_048))
    arrived = claims.arrive(vm=vm, operation=operation, now=NOW)
    assert arrived is not None
    assert (arrived.kind, arrived.host_id, arrived.operation_id) == ("vm", other.pk, None)
    assert (claimed(host), claimed(other)) == ((0, 0), (2, 2_048))
    Vm.objects.filter(pk=vm.pk).update(host=other)
    vm.refresh_from_db()
    assert claims.arrive(vm=vm, operation=operation, now=NOW) == arrived


def test_a_vm_that_arrives_switched_off_needs_no_room(host: Host, other: Host) -> None:
    vm = add_vm("a", host, power_state=PowerState.OFF)
    operation = operation_on(vm)
    take(other, vm, kind=ClaimKind.INCOMING, operation=operation)
    assert claims.arrive(vm=vm, operation=operation, running=False, now=NOW) is None
    assert (claimed(host), claimed(other)) == ((0, 0), (0, 0))


def test_nobody_arrives_without_a_claim(host: Host, other: Host) -> None:
    vm = add_vm("a", host)
    with pytest.raises(NothingIncoming):
        claims.arrive(vm=vm, operation=operation_on(vm), now=NOW)


def test_what_runs_already_is_adopted_even_without_room(host: Host) -> None:
    vms = [add_vm(f"vm-{number}", host, memory_mib=8_192) for number in range(3)]
    assert claims.adopt(vms=vms, now=NOW) == 3
    assert claims.adopt(vms=vms, now=NOW) == 0
    assert claimed(host) == (6, 24_576)
    assert capacity.overview(now=NOW)[0].hosts[0].room.over_capacity
    with pytest.raises(CapacityGone):
        take(host, add_vm("more", host))


def test_drift_is_told_and_what_is_sure_is_mended(host: Host, other: Host) -> None:
    unclaimed, stale, elsewhere, orphan = (add_vm(name, host) for name in ("new", "off", "moved", "left"))
    for vm in (stale, elsewhere, orphan):
        take(host, vm)
    Vm.objects.filter(pk=stale.pk).update(power_state=PowerState.OFF)
    Vm.objects.filter(pk=elsewhere.pk).update(host=other)
    operation = operation_on(orphan)
    take(other, orphan, kind=ClaimKind.INCOMING, operation=operation)
    Operation.objects.filter(pk=operation.pk).update(status=Operation.Status.RUNNING)
    operation.refresh_from_db()
    succeed(operation, by=BY, now=NOW)
    HostCapacity.objects.filter(pk=other.pk).update(memory_claimed_mib=F("memory_claimed_mib") + 5)
    found = reconciling.reconcile(now=NOW)
    assert {(one.kind, one.vm_name) for one in found} == {
        (DriftKind.UNCLAIMED, "new"),
        (DriftKind.STALE, "off"),
        (DriftKind.ELSEWHERE, "moved"),
        (DriftKind.ORPHAN, "left"),
        (DriftKind.SUM, ""),
    }
    assert reconciling.drift(now=NOW) == []
    assert (claimed(host), claimed(other)) == ((4, 4_096), (2, 2_048))
    assert Claim.objects.get(vm=unclaimed).adopted


def test_a_host_that_promised_too_much_is_told_and_left_alone(host: Host) -> None:
    claims.adopt(vms=[add_vm("big", host, memory_mib=20_000)], now=NOW)
    assert [one.kind for one in reconciling.reconcile(now=NOW)] == [DriftKind.OVER_CAPACITY]
    assert claimed(host) == (2, 20_000)


def test_a_vm_that_is_being_started_is_no_drift(host: Host) -> None:
    vm = add_vm("starting", host, power_state=PowerState.OFF)
    start(kind="vm.power", title="Start", subject=vm, steps=[], params={"action": "start"}, by=BY, now=NOW)
    take(host, vm)
    assert reconciling.reconcile(now=NOW) == []
    assert claimed(host) == (2, 2_048)


SIZES = st.sampled_from([(1, 512), (4, 4_096), (8, 9_000), (33, 1_024)])


class ClaimsMachine(RuleBasedStateMachine):
    """Takes, releases, moves and adopts in any order: the sums are always those of the claims, and nothing but an
    adopted VM ever exceeds the capacity."""

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        cluster = add_cluster("machine")
        self.hosts = [add_host(f"m{number}", cluster) for number in range(3)]
        self.adopted: set[Any] = set()
        self.count = 0

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    def new_vm(self, host: Host, size: tuple[int, int]) -> Vm:
        self.count += 1
        return add_vm(f"vm-{self.count}", host, vcpus=size[0], memory_mib=size[1])

    @rule(at=st.integers(0, 2), size=SIZES)
    def starts(self, at: int, size: tuple[int, int]) -> None:
        host = self.hosts[at]
        vm = self.new_vm(host, size)
        row = HostCapacity.objects.get(pk=host.pk)
        fits = row.vcpu_claimed + size[0] <= row.vcpu_capacity
        fits = fits and row.memory_claimed_mib + size[1] <= row.memory_capacity_mib
        try:
            take(host, vm)
            assert fits
        except CapacityGone:
            assert not fits
            vm.delete()

    @rule(at=st.integers(0, 2), size=SIZES)
    def is_found_running(self, at: int, size: tuple[int, int]) -> None:
        vm = self.new_vm(self.hosts[at], size)
        assert claims.adopt(vms=[vm], now=NOW) == 1
        self.adopted.add(self.hosts[at].pk)

    @precondition(lambda self: Claim.objects.filter(kind="vm").exists())
    @rule(which=st.integers(0, 50), to=st.integers(0, 2), end=st.sampled_from(["arrive", "fail", "again"]))
    def moves(self, which: int, to: int, end: str) -> None:
        own = Claim.objects.filter(kind="vm").select_related("vm").order_by("pk")
        claim = own[which % len(own)]
        target = self.hosts[to]
        if claim.host_id == target.pk:
            return
        operation = operation_on(claim.vm)
        try:
            take(target, claim.vm, kind=ClaimKind.INCOMING, operation=operation)
            if end == "fail":
                assert claims.release(operation=operation, now=NOW) == 1
            else:
                claims.arrive(vm=claim.vm, operation=operation, now=NOW)
                Vm.objects.filter(pk=claim.vm_id).update(host=target)
        except CapacityGone:
            pass
        Operation.objects.filter(pk=operation.pk).update(status="succeeded")

    @precondition(lambda self: Claim.objects.exists())
    @rule(which=st.integers(0, 50))
    def stops(self, which: int) -> None:
        everything = Claim.objects.order_by("pk")
        claim = everything[which % len(everything)]
        assert claims.release(vm=claim.vm, now=NOW) == 1
        Vm.objects.filter(pk=claim.vm_id).update(power_state=PowerState.OFF)

    @invariant()
    def sums_are_those_of_the_claims(self) -> None:
        assert [one for one in reconciling.drift(now=NOW) if one.kind is not DriftKind.OVER_CAPACITY] == []

    @invariant()
    def nothing_is_over_capacity_unless_it_was_found_so(self) -> None:
        over = Q(vcpu_claimed__gt=F("vcpu_capacity")) | Q(memory_claimed_mib__gt=F("memory_capacity_mib"))
        assert set(HostCapacity.objects.filter(over).values_list("pk", flat=True)) <= self.adopted


def test_any_sequence_keeps_the_sums(db: None) -> None:
    quick = settings(
        max_examples=examples(25), stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(ClaimsMachine, settings=quick)
