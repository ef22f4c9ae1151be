"""A resize from asking to its end, on simulated hosts: live, after a move, with a restart, off; what goes wrong, and
what a successor makes of a worker that was killed at any write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudops.core import operations_view, runtime
from cloudops.core.held import Held
from cloudops.core.models import Event, Operation
from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import (
    CeilingExceeded,
    DestinationIncompatible,
    HypervisorError,
    PowerState,
    ResizeKind,
    SlotsExhausted,
    Unreachable,
    VmFacts,
)
from cloudops.hypervisors.simulated import ResizeFault, SimulatedGuest
from cloudops.inventory import endpoints
from cloudops.inventory.models import Vm
from placement import claims, fence
from scaling import resize_run, resizes
from scaling.models import Resize, SizeSample
from scaling.values import Reach
from tests.placement.moving import claims_add_up
from tests.scaling.world import BY, LEASE_OVER_SECONDS, Killed, Scaling, facts

pytestmark = pytest.mark.timeout(120)
Outcome = Resize.Outcome


def test_live_it_grows_step_by_step_and_the_guest_confirms(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1))
    row = world.resize(vm, world.wanted(3, 1_025))
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256), "resize": ("kvm1", 2, 770)}
    assert row.operation.title == "Resize web to 3 vCPUs, 1,026 MiB"
    row = world.go(row)
    assert (row.outcome, row.operation.status) == (Outcome.APPLIED, "succeeded")
    assert row.seen["words"] == "Applied in guest: 3 of 3 vCPUs. Applied in guest: 1,026 of 1,026 MiB."
    assert [step["status"] for step in row.operation.steps] == ["done"] * 4
    assert (world.truth(vm).vcpus, world.truth(vm).memory_mib) == (3, 1_026)
    assert world.claimed(vm) == {"vm": ("kvm1", 3, 1_026)}
    vm.refresh_from_db()
    assert (vm.offering.name if vm.offering else "", vm.offering_version) == ("web", 1)
    assert (vm.size.vcpus, vm.size.memory_mib, vm.size.virtio_mem_seen) == (3, 1_026, True)
    sample = SizeSample.objects.filter(vm=vm).order_by("-at", "-pk")[0]
    assert (sample.vcpus, sample.memory_mib, sample.wanted_memory_mib, sample.guest_memory_mib) == (
        3,
        1_026,
        1_026,
        1_026,
    )
    assert Event.objects.filter(kind="vm.resized", reason=row.seen["words"]).count() == 1
    assert "kvm" not in str(row.operation.steps), "tenants read the steps in full"
    claims_add_up()


def test_a_guest_that_does_not_tell_is_not_called_applied(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    simulated.set_guest(host.endpoint.uri, vm.ref, SimulatedGuest(tells=False))
    row = world.go(world.resize(vm, world.wanted(2, 512)))
    assert (row.outcome, row.operation.status) == (Outcome.UNCONFIRMED, "succeeded")
    assert "does not tell" in row.seen["words"]


def test_a_guest_that_takes_its_time_is_waited_for(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    simulated.set_guest(host.endpoint.uri, vm.ref, SimulatedGuest(after_seconds=25))
    row = world.go(world.resize(vm, world.wanted(1, 512)))
    assert row.outcome == Outcome.APPLIED
    assert row.ended_at is not None
    assert 25 <= (row.ended_at - row.created_at).total_seconds() < 30


def test_a_guest_that_takes_a_part_leaves_it_partly_and_asks_for_no_more(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    simulated.set_guest(host.endpoint.uri, vm.ref, SimulatedGuest(share=0.5))
    row = world.go(world.resize(vm, world.wanted(1, 768)))
    assert (row.outcome, row.operation.status, row.operation.error_code) == (Outcome.PARTLY, "failed", "partly-applied")
    assert "Continue, or roll back" in row.operation.error_remedy
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 512)}
    assert world.truth(vm).facts.memory_devices[0].requested_mib == 256, "what it did not take is not asked for"
    simulated.set_guest(host.endpoint.uri, vm.ref, SimulatedGuest())
    world.pause(1)
    done = world.go(Resize.objects.get(pk=resizes.continue_(row, by=BY, now=world.now).pk))
    assert (done.outcome, world.truth(vm).memory_mib) == (Outcome.APPLIED, 768)
    claims_add_up()


def test_rolled_back_it_has_the_size_that_it_had(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    fault = ResizeFault(SlotsExhausted, "memory device count '9' exceeds slots count '8'", kind=ResizeKind.VIRTIO_MEM)
    simulated.add_resize_fault(host.endpoint.uri, fault)
    simulated.put_vm(host.endpoint.uri, _removable(vm))
    row = world.go(world.resize(vm, world.wanted(2, 512)))
    assert (row.outcome, row.operation.error_code) == (Outcome.PARTLY, "partly-applied")
    assert "exceeds slots count" in row.operation.error_detail
    assert world.claimed(vm) == {"vm": ("kvm1", 2, 256)}
    world.pause(1)
    back = world.go(Resize.objects.get(pk=resizes.roll_back(row, by=BY, now=world.now).pk))
    assert (back.outcome, world.truth(vm).vcpus) == (Outcome.APPLIED, 1)
    vm.refresh_from_db()
    assert vm.offering is None
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256)}


def _removable(vm: Vm) -> VmFacts:
    """The same VM, of which vCPUs may leave."""
    endpoint = Vm.objects.select_related("host__endpoint").get(pk=vm.pk).host.endpoint
    one = registry.call(endpoints.spec_of(endpoint), lambda hypervisor: hypervisor.vm(vm.ref))
    return replace(one, scaling=facts(256, removable_vcpus=2))


@pytest.mark.parametrize("error", [CeilingExceeded, SlotsExhausted, HypervisorError])
def test_a_hypervisor_that_refuses_the_first_step_leaves_everything_as_it_was(
    world: Scaling, error: type[HypervisorError]
) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    simulated.add_resize_fault(host.endpoint.uri, ResizeFault(error, "its own words"))
    row = world.go(world.resize(vm, world.wanted(2, 512)))
    assert (row.outcome, row.operation.status, row.operation.error_code) == (Outcome.NOTHING, "failed", error.code)
    assert row.operation.error_detail == "its own words"
    assert row.operation.error_remedy
    assert (world.truth(vm).vcpus, world.truth(vm).memory_mib) == (1, 256)
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256)}


def test_a_step_whose_answer_is_lost_is_looked_at_and_not_guessed(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    simulated.add_resize_fault(host.endpoint.uri, ResizeFault(Unreachable, "gone", applied=True))
    row = world.go(world.resize(vm, world.wanted(2, 512)))
    assert (row.outcome, world.truth(vm).vcpus) == (Outcome.APPLIED, 2)


def test_a_silent_host_is_waited_for_and_fencing_it_ends_that(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    row = world.resize(vm, world.wanted(2, 512))
    world.faults(host, unreachable=True)
    row = world.work_for(row, 5)
    assert row.ended_at is None
    assert "does not answer" in str(row.operation.steps)
    world.sync()
    fence.fence(host, by=BY, now=world.now, reason="The test says so.")
    world.pause(LEASE_OVER_SECONDS)
    row = world.go(row)
    assert (row.operation.error_code, row.outcome) == ("host-fenced", Outcome.NOTHING)
    assert "resize" not in world.claimed(vm)
    claims_add_up()


def test_after_a_move_it_is_one_operation(world: Scaling) -> None:
    first, second = world.add_host(1, memory_mib=1_024 + 512), world.add_host(2)
    vm = world.add_sized("web", first)
    wanted = world.wanted(2, 1_024)
    assert world.plan(vm, wanted).reach is Reach.MOVE
    row = world.resize(vm, wanted, Reach.MOVE)
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256), "incoming": ("kvm2", 2, 1_024)}
    row = world.go(row)
    assert (row.outcome, row.operation.status) == (Outcome.APPLIED, "succeeded")
    assert Operation.objects.count() == 1
    vm.refresh_from_db()
    assert vm.host_id == second.pk
    assert (world.truth(vm).vcpus, world.truth(vm).memory_mib) == (2, 1_024)
    assert world.claimed(vm) == {"vm": ("kvm2", 2, 1_024)}
    outsider = operations_view.told_to(_Outsider(), row.operation)
    assert "kvm" not in str(outsider.steps)
    assert "kvm" in str(row.operation.steps)
    claims_add_up()


class _Outsider:
    sees_fleet = False
    pk = 0


def test_a_move_that_fails_ends_it_with_nothing_changed(world: Scaling) -> None:
    first, second = world.add_host(1, memory_mib=1_024 + 512), world.add_host(2)
    vm = world.add_sized("web", first)
    world.fault(second, error=DestinationIncompatible)
    row = world.go(world.resize(vm, world.wanted(2, 1_024), Reach.MOVE))
    assert (row.outcome, row.operation.status) == (Outcome.NOTHING, "failed")
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256)}
    assert operations_view.told_to(_Outsider(), row.operation).error_code == "operation-failed"


def test_with_a_restart_it_is_shut_down_and_started_with_its_size(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1), scaling=facts(256, most_vcpus=1, virtio_mib=0))
    wanted = world.wanted(3, 1_025)
    assert world.plan(vm, wanted).reach is Reach.RESTART
    row = world.go(world.resize(vm, wanted, Reach.RESTART))
    assert (row.outcome, row.operation.status) == (Outcome.APPLIED, "succeeded")
    state = world.truth(vm)
    assert (state.power_state, state.vcpus, state.memory_mib) == (PowerState.RUNNING, 3, 1_025)
    assert state.facts.max_vcpus >= 8, "it can grow from now on"
    assert world.claimed(vm) == {"vm": ("kvm1", 3, 1_025)}
    claims_add_up()


def test_a_guest_that_ignores_acpi_keeps_running_at_its_old_size(
    world: Scaling, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.change(by=BY, now=world.now, scaling_shutdown_seconds=60)
    vm = world.add_sized("web", world.add_host(1), scaling=facts(256, most_vcpus=1, virtio_mib=0))
    asked: list[Any] = []
    monkeypatch.setattr(simulated.SimulatedHypervisor, "power", lambda self, ref, action: asked.append(action))
    row = world.go(world.resize(vm, world.wanted(3, 1_024), Reach.RESTART))
    assert (row.outcome, row.operation.error_code) == (Outcome.NOTHING, "guest-did-not-react")
    assert set(asked) == {"shutdown"}
    state = world.truth(vm)
    assert (state.power_state, state.vcpus, state.memory_mib) == (PowerState.RUNNING, 1, 256)
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256)}


def test_cancelled_while_it_waits_for_the_guest(world: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = world.add_sized("web", world.add_host(1), scaling=facts(256, most_vcpus=1, virtio_mib=0))
    monkeypatch.setattr(simulated.SimulatedHypervisor, "power", lambda self, ref, action: None)
    row = world.work_for(world.resize(vm, world.wanted(3, 1_024), Reach.RESTART), 3)
    resizes.cancel(row, by=BY, now=world.now)
    resizes.cancel(row, by=BY, now=world.now)
    world.pause(LEASE_OVER_SECONDS)
    row = world.go(row)
    assert (row.outcome, row.operation.status) == (Outcome.NOTHING, "cancelled")
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256)}


def test_what_cannot_be_defined_is_started_again_as_it_was(world: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = world.add_sized("web", world.add_host(1), scaling=facts(256, most_vcpus=1, virtio_mib=0))

    def define(self: Any, ref: str, shape: Any) -> None:
        raise CeilingExceeded("no such machine")

    monkeypatch.setattr(simulated.SimulatedHypervisor, "define", define)
    row = world.go(world.resize(vm, world.wanted(3, 1_024), Reach.RESTART))
    assert (row.outcome, row.operation.error_code) == (Outcome.NOTHING, CeilingExceeded.code)
    state = world.truth(vm)
    assert (state.power_state, state.vcpus) == (PowerState.RUNNING, 1)


def test_what_does_not_start_with_its_new_size_is_started_with_its_old_one(
    world: Scaling, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = world.add_sized("web", world.add_host(1), scaling=facts(256, most_vcpus=1, virtio_mib=0))
    power = simulated.SimulatedHypervisor.power

    def refuse_the_large(self: Any, ref: str, action: Any) -> None:
        if action == "start" and self.scaling(ref).vcpus == 3:
            raise HypervisorError("cannot set up guest memory: Cannot allocate memory")
        power(self, ref, action)

    monkeypatch.setattr(simulated.SimulatedHypervisor, "power", refuse_the_large)
    row = world.go(world.resize(vm, world.wanted(3, 1_024), Reach.RESTART))
    assert (row.outcome, row.operation.status) == (Outcome.NOTHING, "failed")
    assert "Cannot allocate memory" in row.operation.error_detail
    state = world.truth(vm)
    assert (state.power_state, state.vcpus, state.memory_mib) == (PowerState.RUNNING, 1, 256)
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256)}


def test_off_its_definition_changes_at_once(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1), state=PowerState.OFF)
    row = world.go(world.resize(vm, world.wanted(2, 512), Reach.NOW))
    assert row.outcome == Outcome.APPLIED
    state = world.truth(vm)
    assert (state.power_state, state.next_start.vcpus, state.next_start.memory_mib) == (PowerState.OFF, 2, 512)
    assert world.claimed(vm) == {}


class _Writes:
    """Kills the runner at one of its writes: before it, or right after."""

    def __init__(self, at: int, after: bool) -> None:
        self.at, self.after, self.count = at, after, 0

    def __call__(self, write: Any) -> Any:
        def wrapped(held: Any, now: Any, **fields: Any) -> None:
            self.count += 1
            if self.count == self.at and not self.after:
                raise Killed
            write(held, now, **fields)
            if self.count == self.at:
                raise Killed

        return wrapped


@pytest.fixture(params=[Reach.LIVE, Reach.RESTART, Reach.MOVE])
def how(request: pytest.FixtureRequest) -> Reach:
    return Reach(request.param)


def test_killed_at_any_write_a_successor_ends_it_truthfully(
    world: Scaling, how: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every write of the runners, for long ones by turns: what lies in between is done, or not."""
    world.add_host(1, memory_mib=1_024 + 512, rate=65_536)
    world.add_host(2, memory_mib=262_144, rate=65_536)
    write, at = Held.write, 0
    while True:
        at += 1
        writes = _Writes(at if how is not Reach.LIVE else (at + 1) // 2, after=bool(at % 2))
        vm = world.add_sized(f"web{at}", world.hosts[0 if how is Reach.MOVE else 1])
        row = world.resize(vm, world.wanted(2, 1_024), how)
        monkeypatch.setattr(Held, "write", writes(write))
        try:
            row = world.go(row)
        except Killed:
            pass
        monkeypatch.setattr(Held, "write", write)
        reached = writes.count >= writes.at
        world.pause(LEASE_OVER_SECONDS)
        resizes.recover(now=world.now)
        row = world.go(row)
        state = world.truth(vm)
        assert (row.outcome, row.operation.status) == (Outcome.APPLIED, "succeeded"), f"killed at write {at}"
        assert (state.power_state, state.vcpus, state.memory_mib) == (PowerState.RUNNING, 2, 1_024)
        assert {kind: claim[1:] for kind, claim in world.claimed(vm).items()} == {"vm": (2, 1_024)}
        claims_add_up()
        simulated.remove_vm(Vm.objects.get(pk=vm.pk).host.endpoint.uri, vm.ref)
        claims.release(vm=vm, now=world.now)
        vm.delete()
        if not reached:
            break
    assert at > 10


def test_an_unforeseen_error_is_said_and_tried_again(world: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = world.add_sized("web", world.add_host(1))
    row = world.resize(vm, world.wanted(2, 512))
    monkeypatch.setattr(resize_run._Runner, "_change", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.work(row)
    row = world.fresh(row)
    assert "ZeroDivisionError" in str(row.operation.steps)
    monkeypatch.undo()
    world.pause(LEASE_OVER_SECONDS)
    assert world.go(row).outcome == Outcome.APPLIED
