"""Platforms that change what a VM is started as only while it is off (vSphere): what is wanted of a VM that runs waits
until it is seen to be off, or until CloudOps starts it.
"""

from __future__ import annotations

from typing import Final

from cloudops.hypervisors.port import Kind, PowerState, Shape
from cloudops.inventory import endpoints
from cloudops.inventory.models import Vm
from scaling.models import VmSize

KINDS: Final = frozenset({Kind.VSPHERE})
OFF: Final = (PowerState.OFF, PowerState.CRASHED)


def needed(vm: Vm) -> bool:
    """Whether the VM is on such a platform. ``vm`` with ``host__endpoint`` joined."""
    return vm.host.endpoint.kind in KINDS


def waits(vm: Vm) -> bool:
    """Whether a change of its definition has to wait now."""
    return needed(vm) and vm.power_state not in OFF


def define_waiting(vm: Vm) -> bool:
    """Gives a VM that is off the size that waits for its next start; whether one did. Raises ``HypervisorError``."""
    row: VmSize | None = getattr(vm, "size", None)
    if row is None or row.next_size is None:
        return False
    shape = Shape(**row.next_size["shape"])
    endpoints.call(vm.host.endpoint, "define", lambda hypervisor: hypervisor.define(vm.ref, shape))
    return True
