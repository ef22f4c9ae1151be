"""ReconfigVM: sizes, shares and hot-add, as a running and a stopped VM let themselves be changed."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake import tasks
from tests.vsphere.fake.entities import Vm
from tests.vsphere.fake.methods.power import reachable
from tests.vsphere.fake.service import Call, method
from tests.vsphere.fake.types import refuse, vim, vmodl

STEP_MIB = 4
MAX_CPUS = 768
DISPLAYS = "RemoteDisplay.maxConnections"
PRIVILEGES = {
    "numCPUs": "VirtualMachine.Config.CPUCount",
    "cpuHotAddEnabled": "VirtualMachine.Config.CPUCount",
    "cpuHotRemoveEnabled": "VirtualMachine.Config.CPUCount",
    "memoryMB": "VirtualMachine.Config.Memory",
    "memoryHotAddEnabled": "VirtualMachine.Config.Memory",
    "cpuAllocation": "VirtualMachine.Config.Resource",
    "memoryAllocation": "VirtualMachine.Config.Resource",
    "extraConfig": "VirtualMachine.Config.AdvancedConfig",
    "maxMksConnections": "VirtualMachine.Config.Settings",
    "name": "VirtualMachine.Config.Rename",
    "annotation": "VirtualMachine.Config.Annotation",
}
FLAGS = {
    "cpuHotAddEnabled": "cpu_hot_add",
    "cpuHotRemoveEnabled": "cpu_hot_remove",
    "memoryHotAddEnabled": "memory_hot_add",
}


@method("ReconfigVM_Task")
def reconfigure(call: Call, spec: Any) -> Any:
    """All of the specification or nothing. What is not simulated (devices, options) is accepted and forgotten."""
    vm: Vm = call.entity()
    for name, privilege in PRIVILEGES.items():
        if getattr(spec, name) not in (None, []):
            call.demand(privilege, vm)
    reachable(vm)

    def check() -> None:
        reachable(vm)
        if spec.changeVersion and spec.changeVersion != str(vm.config_version):
            raise refuse(vim.fault.ConcurrentAccess, "The virtual machine was changed by somebody else.")
        _check_flags(vm, spec)
        if spec.memoryMB is not None:
            _check_memory(vm, spec.memoryMB, spec.memoryHotAddEnabled)
        if spec.numCPUs is not None:
            _check_cpus(vm, spec.numCPUs)
        if spec.cpuAllocation is not None:
            _check_reservation(vm, spec.cpuAllocation)

    def finish() -> None:
        check()
        _apply(call, vm, spec)

    return tasks.start(call, vm, finish, check=check)


def _running(vm: Vm) -> bool:
    return vm.power != "poweredOff"


def _needs_off(vm: Vm, why: str) -> Exception:
    return refuse(
        vim.fault.InvalidPowerState,
        f"The attempted operation cannot be performed in the current state ({vm.power}): {why}",
        existingState=vm.power,
        requestedState="poweredOff",
    )


def _check_flags(vm: Vm, spec: Any) -> None:
    for name, field in FLAGS.items():
        wanted = getattr(spec, name)
        if wanted is not None and wanted != getattr(vm, field) and _running(vm):
            raise _needs_off(vm, f"{name} can only be changed while it is powered off")


def _wrong(name: str) -> Exception:
    return refuse(vmodl.fault.InvalidArgument, f"A specified parameter was not correct: {name}", invalidProperty=name)


def _check_memory(vm: Vm, wanted_mib: int, hot_add: bool | None) -> None:
    if wanted_mib <= 0 or wanted_mib % STEP_MIB:
        raise _wrong("spec.memoryMB")
    if wanted_mib > vm.host.plan.memory_mib:
        raise refuse(
            vim.fault.InsufficientHostMemoryCapacityFault,
            "The host does not have sufficient memory resources.",
            host=vm.host.ref,
            unreserved=vm.host.plan.memory_mib << 20,
            requested=wanted_mib << 20,
        )
    if not _running(vm) or wanted_mib == vm.memory_mib:
        return
    if wanted_mib < vm.memory_mib:
        raise _needs_off(vm, "memory cannot be taken away while it runs")
    if not vm.memory_hot_add:
        raise refuse(vim.fault.MemoryHotPlugNotSupported, "Memory hot plug is not supported for this virtual machine.")
    if wanted_mib > vm.limit_mib():
        raise refuse(
            vim.fault.MemorySizeNotSupported,
            f"The memory size {wanted_mib} MB is larger than {vm.limit_mib()} MB, the most it can have while it runs.",
            memorySizeMB=wanted_mib,
            minMemorySizeMB=vm.memory_mib,
            maxMemorySizeMB=vm.limit_mib(),
        )
    if (wanted_mib - vm.memory_mib) % vm.increment_mib:
        raise _wrong("spec.memoryMB")


def _check_cpus(vm: Vm, wanted: int) -> None:
    if wanted <= 0:
        raise _wrong("spec.numCPUs")
    most = min(MAX_CPUS, vm.host.plan.cpu_threads)
    if wanted > most:
        raise refuse(
            vim.fault.NumVirtualCpusExceedsLimit,
            f"The host supports at most {most} virtual CPUs.",
            maxSupportedVcpus=most,
        )
    if not _running(vm) or wanted == vm.cpus:
        return
    if not (vm.cpu_hot_add if wanted > vm.cpus else vm.cpu_hot_remove):
        raise refuse(vim.fault.CpuHotPlugNotSupported, "CPU hot plug is not supported for this virtual machine.")


def _check_reservation(vm: Vm, allocation: Any) -> None:
    capacity = vm.host.plan.cpu_mhz * max(1, vm.host.plan.cpu_threads // 2)
    if (allocation.reservation or 0) > capacity:
        raise refuse(
            vim.fault.InsufficientCpuResourcesFault,
            "The host does not have sufficient CPU resources to satisfy the reservation.",
            unreserved=capacity,
            requested=allocation.reservation,
        )


def _apply(call: Call, vm: Vm, spec: Any) -> None:
    for name, field in FLAGS.items():
        if getattr(spec, name) is not None:
            setattr(vm, field, getattr(spec, name))
    vm.memory_mib = vm.memory_mib if spec.memoryMB is None else int(spec.memoryMB)
    vm.cpus = vm.cpus if spec.numCPUs is None else int(spec.numCPUs)
    vm.annotation = vm.annotation if spec.annotation is None else str(spec.annotation)
    vm.max_connections = vm.max_connections if spec.maxMksConnections is None else int(spec.maxMksConnections)
    for option in spec.extraConfig:
        if option.key == DISPLAYS:
            vm.max_connections = int(option.value) if int(option.value) >= 0 else 40
    if spec.name:
        del call.world.vms[vm.name]
        vm.name = str(spec.name)
        call.world.vms[vm.name] = vm
    _allocate(vm, spec)
    vm.config_version += 1
    call.world.changed(vm, vm.host)


def _allocate(vm: Vm, spec: Any) -> None:
    if (cpu := spec.cpuAllocation) is not None:
        vm.cpu_limit_mhz = vm.cpu_limit_mhz if cpu.limit is None else int(cpu.limit)
        vm.cpu_reservation_mhz = vm.cpu_reservation_mhz if cpu.reservation is None else int(cpu.reservation)
        if cpu.shares is not None:
            vm.cpu_shares, vm.cpu_shares_level = int(cpu.shares.shares or 0), str(cpu.shares.level)
    if (memory := spec.memoryAllocation) is not None:
        vm.memory_limit_mib = vm.memory_limit_mib if memory.limit is None else int(memory.limit)
        vm.memory_reservation_mib = vm.memory_reservation_mib if memory.reservation is None else int(memory.reservation)
        if memory.shares is not None:
            vm.memory_shares, vm.memory_shares_level = int(memory.shares.shares or 0), str(memory.shares.level)
