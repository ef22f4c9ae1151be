"""Why a display went away: asked of the hypervisor, within a moment, while the browser still waits."""

from __future__ import annotations

import asyncio
from typing import Final

from cloudops.core.errors import Unavailable
from cloudops.hypervisors.port import HypervisorError, PowerState, Unreachable, VmNotFound
from cloudops.inventory import endpoints
from cloudops.inventory.models import Vm
from consoles.attach import Attached
from consoles.lease import DATABASE_TROUBLE, keeper
from consoles.reasons import ClosedReason

ASK_SECONDS: Final = 2.0
SETTLE_SECONDS: Final = 0.3
LOOK_SECONDS: Final = 1.0


async def why(attached: Attached) -> ClosedReason:
    """VM moved, VM stopped, host lost, or else the display itself closed."""
    reason = ClosedReason.GUEST_CLOSED
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reason = await _ask(attached)
    except TimeoutError:
        reason = ClosedReason.HOST_LOST
    if reason is ClosedReason.VM_STOPPED and await _has_moved(attached):
        return ClosedReason.VM_MOVED
    return reason


async def _ask(attached: Attached) -> ClosedReason:
    """A display goes a moment before its VM is reported as stopped: "running" is asked again."""
    vm = attached.vm
    for _ in range(4):
        try:
            facts = await endpoints.acall(
                attached.host.endpoint, "vm", lambda driver: driver.vm(vm.ref), timeout=ASK_SECONDS
            )
        except VmNotFound:
            return ClosedReason.VM_STOPPED
        except (Unreachable, Unavailable):
            return ClosedReason.HOST_LOST
        except HypervisorError:
            return ClosedReason.GUEST_CLOSED
        if facts.host_ref != attached.host.ref:
            return ClosedReason.VM_MOVED
        if facts.power_state in {PowerState.OFF, PowerState.CRASHED}:
            return ClosedReason.VM_STOPPED
        await asyncio.sleep(SETTLE_SECONDS)
    return ClosedReason.GUEST_CLOSED


async def _has_moved(attached: Attached) -> bool:
    """Whether the inventory knows the VM on another host already."""
    vm_id, host_id = attached.vm.pk, attached.host.pk

    def look() -> bool:
        return Vm.objects.filter(pk=vm_id).exclude(host_id=host_id).exists()

    try:
        return await keeper().threads.run(look, timeout_seconds=LOOK_SECONDS)
    except DATABASE_TROUBLE:
        return False
