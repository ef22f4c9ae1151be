"""Starting, stopping and pausing VMs, by the platform and by the guest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.vsphere.fake import tasks
from tests.vsphere.fake.entities import Vm
from tests.vsphere.fake.service import Call, method
from tests.vsphere.fake.types import refuse, vim, vmodl


def reachable(vm: Vm) -> None:
    """Raises: HostNotConnected."""
    if vm.host.connection != "connected":
        raise refuse(vmodl.fault.HostNotConnected, f"The host {vm.host.name} is not connected.")


def wrong_power(vm: Vm, wanted: str) -> Exception:
    return refuse(
        vim.fault.InvalidPowerState,
        f"The attempted operation cannot be performed in the current state ({vm.power}).",
        existingState=vm.power,
        requestedState=wanted,
    )


def _set(call: Call, vm: Vm, power: str, reason: str) -> None:
    vm.power = power
    if power == "poweredOn":
        vm.booted_at = datetime.now(UTC)
        if vm.boot_memory_mib is None:
            vm.start()
    elif power == "poweredOff":
        vm.stop()
    call.world.changed(vm, vm.host)
    if power != "poweredOn":
        call.service.consoles.drop_all(vm, 1001, reason)


def _begin(call: Call, to: str, *, allowed: tuple[str, ...], reason: str = "") -> Any:
    vm = call.entity()
    reachable(vm)
    if vm.power not in allowed:
        raise wrong_power(vm, to)

    def finish() -> None:
        reachable(vm)
        _set(call, vm, to, reason)

    return tasks.start(call, vm, finish)


@method("PowerOnVM_Task", privilege="VirtualMachine.Interact.PowerOn")
def power_on(call: Call, host: Any = None) -> Any:
    vm = call.entity()
    if vm.host.in_maintenance or vm.host.entering:
        raise refuse(vim.fault.InvalidHostState, "The host is in maintenance mode.", host=vm.host.ref)
    return _begin(call, "poweredOn", allowed=("poweredOff", "suspended"))


@method("PowerOffVM_Task", privilege="VirtualMachine.Interact.PowerOff")
def power_off(call: Call) -> Any:
    return _begin(call, "poweredOff", allowed=("poweredOn", "suspended"), reason="powered off")


@method("SuspendVM_Task", privilege="VirtualMachine.Interact.Suspend")
def suspend(call: Call) -> Any:
    return _begin(call, "suspended", allowed=("poweredOn",), reason="suspended")


@method("ResetVM_Task", privilege="VirtualMachine.Interact.Reset")
def reset(call: Call) -> Any:
    """A reset keeps displays connected and does not start the VM with a new size."""
    return _begin(call, "poweredOn", allowed=("poweredOn",))


def _guest(call: Call, to: str) -> Vm:
    vm: Vm = call.entity()
    reachable(vm)
    if vm.power != "poweredOn":
        raise wrong_power(vm, "poweredOn")
    if vm.busy:
        raise refuse(vim.fault.TaskInProgress, "Another task is already in progress.")
    if not vm.tools_running:
        raise refuse(vim.fault.ToolsUnavailable, "VMware Tools is not running in this virtual machine.")
    return vm


@method("ShutdownGuest", privilege="VirtualMachine.Interact.PowerOff")
def shutdown_guest(call: Call) -> None:
    _set(call, _guest(call, "poweredOff"), "poweredOff", "shut down")


@method("RebootGuest", privilege="VirtualMachine.Interact.Reset")
def reboot_guest(call: Call) -> None:
    _set(call, _guest(call, "poweredOn"), "poweredOn", "")


@method("UnregisterVM", privilege="VirtualMachine.Inventory.Unregister")
def unregister(call: Call) -> None:
    """Takes it out of the inventory; its files would stay."""
    vm: Vm = call.entity()
    reachable(vm)
    if vm.power == "poweredOn":
        raise wrong_power(vm, "poweredOff")
    call.world.remove_vm(vm)
