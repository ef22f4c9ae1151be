"""Sizes of VMs (``ReconfigVM_Task``). vSphere has one configuration of a VM: what is changed while it runs holds for
every later start, and what cannot be changed while it runs is changed when it is off, or not at all.

``cpuHotAddEnabled`` and ``memoryHotAddEnabled`` (VirtualMachineConfigSpec) are settable only while the VM is off, and
decide whether it grows while it runs; nothing is ever taken from a running VM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import (
    CeilingExceeded,
    GuestView,
    InvalidState,
    MemoryMisaligned,
    NotSupported,
    PowerState,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    ScalingFacts,
    ScalingState,
    Shape,
    VcpusNotRemovable,
    VmNotFound,
    VmNotRunning,
)
from cloudops.hypervisors.vsphere import facts, tasks
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import Found, find_vm
from cloudops.hypervisors.vsphere.properties import read_around

ALIVE = (PowerState.RUNNING, PowerState.PAUSED)
PATHS = (
    "config.version",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.cpuAllocation",
    "config.cpuHotAddEnabled",
    "config.memoryHotAddEnabled",
    "config.hotPlugMemoryLimit",
    "config.hotPlugMemoryIncrementSize",
)
HOST_PATHS = ("summary.hardware.cpuMhz",)
NO_LIMIT = -1
OFF_REMEDY = "Shut the VM down; CloudOps then changes it before it is started again."
HOT_ADD_REMEDY = "Let CloudOps prepare the VM for live scaling: that is done when it is off the next time."


@dataclass(frozen=True, slots=True)
class _Vm:
    """A VM with what its size is made of. ``host_mhz`` 0: not told, so no limit of CPU time can be set."""

    found: Found
    values: Mapping[str, Any]
    host_mhz: int

    @property
    def vcpus(self) -> int:
        return int(self.values.get("config.hardware.numCPU") or 0)

    @property
    def memory_mib(self) -> int:
        return int(self.values.get("config.hardware.memoryMB") or 0)

    @property
    def facts(self) -> ScalingFacts:
        return facts.scaling_facts(self.values, self.host_mhz)


def read(link: Link, vm_ref: str) -> ScalingState:
    """See :meth:`cloudops.hypervisors.port.Hypervisor.scaling`. What its guest sees of it vSphere does not tell."""
    vm = _vm(link, vm_ref)
    told = vm.facts
    return ScalingState(
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        power_state=vm.found.power_state,
        facts=told,
        guest=GuestView(),
        next_start=Shape(
            vcpus=vm.vcpus,
            max_vcpus=told.max_vcpus,
            memory_mib=vm.memory_mib,
            max_memory_mib=told.max_memory_mib if told.memory_hot_add else 0,
            cpu_shares=told.cpu_shares,
            cpu_quota_percent=told.cpu_quota_percent,
        ),
    )


def _vm(link: Link, vm_ref: str) -> _Vm:
    found = find_vm(link, vm_ref)
    wanted = {vim.VirtualMachine: PATHS, vim.HostSystem: HOST_PATHS}
    try:
        rows = read_around(link, found.vm, ("runtime.host",), wanted)
    except vmodl.fault.ManagedObjectNotFound as error:
        raise VmNotFound(f"VM {vm_ref} has just gone.") from error
    values = next((row.values for row in rows if row.ref == found.vm._moId), {})
    mhz = next((row.values.get("summary.hardware.cpuMhz") for row in rows if row.ref == found.host_ref), 0)
    return _Vm(found, values, int(mhz or 0))


def resize(link: Link, vm_ref: str, step: ResizeStep) -> None:
    """See :meth:`cloudops.hypervisors.port.Hypervisor.resize`. What vSphere would refuse is refused here, in words."""
    vm = _vm(link, vm_ref)
    vm.found.demand_host()
    name, state = vm.found.name, vm.found.power_state
    if state is PowerState.PAUSED:
        raise InvalidState(f"VM {name} is suspended; its size cannot be changed.")
    if state is not PowerState.RUNNING:
        raise VmNotRunning(f"VM {name} is {state}.")
    change = _CHANGES.get(step.kind)
    if change is None:
        raise NotSupported(f"vSphere has no change of kind {step.kind}: it adds memory as a whole.")
    spec = change(vm, step)
    if spec is not None:
        _reconfigure(link, vm, spec)


def _vcpus(vm: _Vm, step: ResizeStep) -> vim.vm.ConfigSpec | None:
    name, told = vm.found.name, vm.facts
    if step.value == vm.vcpus:
        return None
    if step.value < vm.vcpus:
        raise VcpusNotRemovable(f"vSphere takes no vCPU from {name} while it runs; it has {vm.vcpus}.")
    if not told.cpu_hot_add:
        raise ResizeFailed(f"CPU hot add is switched off for {name}.", remedy=HOT_ADD_REMEDY)
    if step.value > told.max_vcpus:
        raise _beyond(f"{name} can have {told.max_vcpus} vCPUs at most", told.max_vcpus, step)
    return vim.vm.ConfigSpec(numCPUs=step.value)


def _memory(vm: _Vm, step: ResizeStep) -> vim.vm.ConfigSpec | None:
    name, told, more = vm.found.name, vm.facts, step.value - vm.memory_mib
    if not more:
        return None
    if more < 0:
        raise ResizeFailed(f"vSphere takes no memory from {name} while it runs.", remedy=OFF_REMEDY)
    if not told.memory_hot_add:
        raise ResizeFailed(f"Memory hot add is switched off for {name}.", remedy=HOT_ADD_REMEDY)
    if more % told.memory_step_mib:
        words = f"{more} MiB are not a whole number of steps of {told.memory_step_mib} MiB."
        raise MemoryMisaligned(words, numbers={"step": told.memory_step_mib})
    if step.value > told.max_memory_mib:
        raise _beyond(f"{name} can have {told.max_memory_mib} MiB at most while it runs", told.max_memory_mib, step)
    return vim.vm.ConfigSpec(memoryMB=step.value)


def _cpu(vm: _Vm, step: ResizeStep) -> vim.vm.ConfigSpec | None:
    if (step.value, step.quota_percent) == (vm.facts.cpu_shares, vm.facts.cpu_quota_percent):
        return None
    if step.value < 0 or step.quota_percent < 0:
        raise ResizeFailed("Shares and limit of CPU time cannot be below zero.")
    return vim.vm.ConfigSpec(cpuAllocation=_allocation(vm, step.value, step.quota_percent))


_CHANGES: Mapping[ResizeKind, Callable[[_Vm, ResizeStep], vim.vm.ConfigSpec | None]] = {
    ResizeKind.VCPUS: _vcpus,
    ResizeKind.MEMORY: _memory,
    ResizeKind.CPU: _cpu,
}


def _beyond(words: str, ceiling: int, step: ResizeStep) -> CeilingExceeded:
    return CeilingExceeded(f"{words}; {step.value} are wanted.", numbers={"ceiling": ceiling, "wanted": step.value})


def _allocation(vm: _Vm, shares: int, quota_percent: int) -> vim.ResourceAllocationInfo:
    """Shares as a number of their own, or the normal ones; the limit in MHz, as vSphere counts it."""
    level = vim.SharesInfo.Level.custom if shares else vim.SharesInfo.Level.normal
    limit_mhz = round(quota_percent * vm.host_mhz / 100) if quota_percent and vm.host_mhz else NO_LIMIT
    return vim.ResourceAllocationInfo(shares=vim.SharesInfo(shares=shares, level=level), limit=limit_mhz)


def define(link: Link, vm_ref: str, shape: Shape) -> None:
    """See :meth:`cloudops.hypervisors.port.Hypervisor.define`. Raises InvalidState for a VM that is on, unless nothing
    is to be changed: what it is started as is what it has. Hot-add is switched on where ``shape`` leaves room to grow,
    and never off."""
    vm = _vm(link, vm_ref)
    vm.found.demand_host()
    _check(shape)
    spec = _differing(vm, shape)
    if spec is None:
        return
    if vm.found.power_state in ALIVE:
        raise InvalidState(
            f"{vm.found.name} is {vm.found.power_state}; vSphere changes what it is started as only while it is off.",
            remedy=OFF_REMEDY,
        )
    _reconfigure(link, vm, spec)


def _check(shape: Shape) -> None:
    if shape.vcpus < 1 or shape.memory_mib < 1 or shape.max_vcpus < shape.vcpus:
        raise ResizeFailed("Such a VM cannot be defined: it has no vCPU or no memory, or more vCPUs than it may have.")
    if _memory_of(shape) % facts.MEMORY_STEP_MIB:
        numbers = {"step": facts.MEMORY_STEP_MIB}
        raise MemoryMisaligned(f"vSphere takes memory in multiples of {facts.MEMORY_STEP_MIB} MiB.", numbers=numbers)


def _memory_of(shape: Shape) -> int:
    return shape.memory_mib + shape.virtio_mem_requested_mib


def _differing(vm: _Vm, shape: Shape) -> vim.vm.ConfigSpec | None:
    """What has to be changed; None: nothing."""
    told, memory_mib, changes = vm.facts, _memory_of(shape), dict[str, Any]()
    if shape.vcpus != vm.vcpus:
        changes["numCPUs"] = shape.vcpus
    if memory_mib != vm.memory_mib:
        changes["memoryMB"] = memory_mib
    if shape.max_vcpus > shape.vcpus and not told.cpu_hot_add:
        changes["cpuHotAddEnabled"] = True
    if max(shape.max_memory_mib, shape.memory_mib + shape.virtio_mem_mib) > memory_mib and not told.memory_hot_add:
        changes["memoryHotAddEnabled"] = True
    if (shape.cpu_shares, shape.cpu_quota_percent) != (told.cpu_shares, told.cpu_quota_percent):
        changes["cpuAllocation"] = _allocation(vm, shape.cpu_shares, shape.cpu_quota_percent)
    return vim.vm.ConfigSpec(**changes) if changes else None


def _reconfigure(link: Link, vm: _Vm, spec: vim.vm.ConfigSpec) -> None:
    """Every value is absolute, so that it may be asked for again."""
    tasks.wait(link, vm.found.vm.ReconfigVM_Task(spec))
