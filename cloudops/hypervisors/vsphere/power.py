"""Power, pictures and removal of VMs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyVmomi import vim

from cloudops.hypervisors.port import (
    HypervisorError,
    InvalidState,
    MigrationFailed,
    NotSupported,
    PowerAction,
    PowerState,
    ResizeFailed,
    Screenshot,
)
from cloudops.hypervisors.vsphere import tasks
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import Found, find_vm

SETTLE_SECONDS = 3.0
"""How long a refusal of what was begun is waited for; what takes longer goes on, and its end is an event."""

_ACTIONS: dict[PowerAction, Callable[[Any], Any]] = {
    PowerAction.START: lambda vm: vm.PowerOnVM_Task(None),
    PowerAction.RESUME: lambda vm: vm.PowerOnVM_Task(None),
    PowerAction.SHUTDOWN: lambda vm: vm.ShutdownGuest(),
    PowerAction.REBOOT: lambda vm: vm.RebootGuest(),
    PowerAction.STOP: lambda vm: vm.PowerOffVM_Task(),
    PowerAction.RESET: lambda vm: vm.ResetVM_Task(),
    PowerAction.PAUSE: lambda vm: vm.SuspendVM_Task(),
}


def act(link: Link, found: Found, action: PowerAction) -> None:
    """Asks for it. Raises what vSphere refuses at once. ``SHUTDOWN`` and ``REBOOT`` need VMware Tools in the guest."""
    if action is PowerAction.RESUME and found.power_state is not PowerState.PAUSED:
        raise InvalidState(f"VM {found.name} is {found.power_state}, not suspended.")
    task = _ACTIONS[action](found.vm)
    if not isinstance(task, vim.Task):
        return
    try:
        tasks.settle(link, task, SETTLE_SECONDS)
    except (MigrationFailed, ResizeFailed) as error:  # the same faults; but nothing was to be moved or resized here
        raise HypervisorError(
            str(error), platform_code=error.platform_code, numbers=error.numbers, remedy=error.remedy
        ) from error


def screenshot(link: Link, vm_ref: str) -> Screenshot:
    """Raises VmNotRunning, and NotSupported always: vSphere writes its pictures into the VM's folder on the datastore
    (``CreateScreenshot_Task``), where each would stay, and where only an account that may read all files sees them."""
    found = find_vm(link, vm_ref)
    found.demand_running()
    raise NotSupported(
        "vSphere leaves every picture of a display as a file in the VM's folder; CloudOps takes none.",
        remedy="Open a console, view-only if need be.",
    )


def discard(link: Link, vm_ref: str) -> None:
    """Takes a VM that is off out of the inventory (``UnregisterVM``); its files stay. Raises InvalidState.

    No move within one vCenter leaves anything behind, so that CloudOps' own role does not include it."""
    found = find_vm(link, vm_ref)
    found.demand_host()
    if found.power_state is not PowerState.OFF:
        raise InvalidState(f"VM {found.name} is {found.power_state}.")
    found.vm.UnregisterVM()
