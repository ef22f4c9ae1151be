"""Sizes of simulated VMs as drivers read and change them, and what can go wrong with that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cloudops.hypervisors.port import (
    Busy,
    GuestView,
    HypervisorError,
    InvalidState,
    PowerState,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    ScalingFacts,
    ScalingState,
    Shape,
    VmFacts,
    VmNotRunning,
)
from cloudops.hypervisors.simulated import guests, jobs, sizes
from cloudops.hypervisors.simulated.guests import Pending
from cloudops.hypervisors.simulated.state import State

ALIVE = (PowerState.RUNNING, PowerState.PAUSED)


@dataclass(frozen=True, slots=True)
class ResizeFault:
    """What happens to the next ``count`` resizes at an endpoint, of one VM or one kind if that is said: they fail with
    ``error``. ``applied``: the change is made all the same, and only its answer is lost."""

    error: type[HypervisorError] = ResizeFailed
    detail: str = "simulated"
    kind: ResizeKind | None = None
    vm_ref: str = ""
    applied: bool = False
    count: int = 1


def scaling(state: State, vm: VmFacts) -> ScalingState:
    """What :meth:`Hypervisor.scaling` tells."""
    pending = state.guest(vm.ref)
    return ScalingState(
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        power_state=vm.power_state,
        facts=vm.scaling or ScalingFacts(vm.vcpus, vm.memory_mib),
        guest=guests.view(vm, pending) if vm.power_state is PowerState.RUNNING else GuestView(),
        next_start=state.shape(vm.ref) or sizes.shape_of(vm),
    )


def resize(state: State, vm: VmFacts, step: ResizeStep) -> None:
    """What :meth:`Hypervisor.resize` does."""
    refusal = None
    with state.store.write():
        _demand_free(state, vm)
        if vm.power_state is PowerState.PAUSED:
            raise InvalidState(f"VM {vm.name} is paused; its size cannot be changed.")
        if vm.power_state is not PowerState.RUNNING:
            raise VmNotRunning(f"VM {vm.name} is {vm.power_state}.")
        fault = _take_fault(state, vm.ref, step)
        if fault is not None:
            refusal = jobs.ERRORS[fault[0]](fault[1], platform_code="simulated")
        if fault is None or fault[2]:
            shape = state.shape(vm.ref) or sizes.shape_of(vm)
            after, defined, pending = sizes.change(vm, shape, state.guest(vm.ref) or Pending(), step)
            state.change_vm(after, defined, pending)
    if refusal is not None:  # after the commit, which counts the fault as used
        raise refusal


def define(state: State, vm: VmFacts, shape: Shape) -> None:
    """What :meth:`Hypervisor.define` does."""
    sizes.check(shape)
    with state.store.write():
        _demand_free(state, vm)
        off = vm.power_state not in ALIVE
        state.change_vm(sizes.started(vm, shape) if off else vm, shape, None)


def follow_power(state: State, vm: VmFacts, result: PowerState) -> None:
    """A VM that begins or ends is as its definition says, where that was changed; in the store's transaction. What its
    guest was asked for is over; how it behaves stays."""
    if (vm.power_state in ALIVE) == (result in ALIVE):
        return
    shape, pending = state.shape(vm.ref), state.guest(vm.ref)
    if shape is not None:
        state.change_vm(sizes.started(vm, shape), shape, None)
    if pending is not None:
        state.set_guest(vm.ref, replace(pending, changes=None))


def _demand_free(state: State, vm: VmFacts) -> None:
    if jobs.running(state, vm.ref) is not None:
        raise Busy(f"VM {vm.name} is being moved.")


def add_fault(state: State, fault: ResizeFault) -> None:
    """For the next resizes."""
    values = (state.endpoint, fault.vm_ref, fault.kind or "", fault.error.__name__, fault.detail, int(fault.applied))
    with state.store.write():
        state.store.execute(
            "INSERT INTO resize_fault (endpoint, vm_ref, kind, error, detail, applied, uses)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(*values, fault.count),
        )


def clear_faults(state: State) -> None:
    """None from now on."""
    with state.store.write():
        state.store.execute("DELETE FROM resize_fault WHERE endpoint = ?", state.endpoint)


def _take_fault(state: State, vm_ref: str, step: ResizeStep) -> tuple[str, str, bool] | None:
    """Error, detail and whether the change is made, of the first fault that concerns this step."""
    rows: list[Any] = state.store.rows(
        "SELECT seq, error, detail, applied FROM resize_fault WHERE endpoint = ? AND uses > 0"
        " AND vm_ref IN ('', ?) AND kind IN ('', ?) ORDER BY seq LIMIT 1",
        *(state.endpoint, vm_ref, step.kind.value),
    )
    if not rows:
        return None
    sequence, error, detail, applied = rows[0]
    state.store.execute("UPDATE resize_fault SET uses = uses - 1 WHERE seq = ?", sequence)
    return error, detail, bool(applied)
