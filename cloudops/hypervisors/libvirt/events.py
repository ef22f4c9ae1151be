"""libvirt's events (virConnectDomainEventRegisterAny) as the port's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import libvirt

from cloudops.hypervisors.port import EventKind, HypervisorEvent, PowerState

Publish = Callable[[HypervisorEvent], None]

# virDomainEventType: our name and the power state it leads to, where it says.
_LIFECYCLE: dict[int, tuple[str, PowerState | None]] = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: ("defined", None),
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: ("undefined", None),
    libvirt.VIR_DOMAIN_EVENT_STARTED: ("started", PowerState.RUNNING),
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: ("suspended", PowerState.PAUSED),
    libvirt.VIR_DOMAIN_EVENT_RESUMED: ("resumed", PowerState.RUNNING),
    libvirt.VIR_DOMAIN_EVENT_STOPPED: ("stopped", PowerState.OFF),
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: ("shutdown", None),
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: ("pmsuspended", PowerState.PAUSED),
    libvirt.VIR_DOMAIN_EVENT_CRASHED: ("crashed", PowerState.CRASHED),
}
_CRASHES = {libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED}
_MIGRATED = {
    (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED),
    (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED),
}
_GRAPHICS_PHASES = {
    libvirt.VIR_DOMAIN_EVENT_GRAPHICS_CONNECT: "connect",
    libvirt.VIR_DOMAIN_EVENT_GRAPHICS_INITIALIZE: "initialize",
    libvirt.VIR_DOMAIN_EVENT_GRAPHICS_DISCONNECT: "disconnect",
}
# Events that only say "look again".
_CHANGES = {
    libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: "rebooted",
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: "device-added",
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: "device-removed",
    libvirt.VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE: "memory-size",
}


def register_events(handle: Any, publish: Publish) -> list[int]:
    """Has ``publish`` called from libvirt's event loop, which it must not keep waiting; returns the registrations."""

    def lifecycle(_handle: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        publish(lifecycle_event(domain.UUIDString(), event, detail))

    def graphics(_handle: Any, domain: Any, phase: int, *_rest: object) -> None:
        name = _GRAPHICS_PHASES.get(phase, "changed")
        publish(HypervisorEvent(EventKind.CONSOLE_CHANGED, domain.UUIDString(), at=datetime.now(UTC), detail=name))

    def changed(_handle: Any, domain: Any, *rest: object) -> None:
        publish(HypervisorEvent(EventKind.VM_CHANGED, domain.UUIDString(), at=datetime.now(UTC), detail=str(rest[-1])))

    wanted: list[tuple[int, Any, str]] = [
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, ""),
        (libvirt.VIR_DOMAIN_EVENT_ID_GRAPHICS, graphics, ""),
        *((event_id, changed, name) for event_id, name in _CHANGES.items()),
    ]
    return [handle.domainEventRegisterAny(None, event_id, callback, name) for event_id, callback, name in wanted]


def lifecycle_event(vm_ref: str, event: int, detail: int) -> HypervisorEvent:
    """``detail`` of the result is libvirt's event name, with ``:migrated`` behind it when a migration caused it."""
    name, state = _LIFECYCLE.get(event, ("changed", None))
    if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and detail in _CRASHES:
        name, state = "crashed", PowerState.CRASHED
    if (event, detail) in _MIGRATED:
        name += ":migrated"
        if event != libvirt.VIR_DOMAIN_EVENT_RESUMED:  # it is arriving, paused, or leaving to go on elsewhere
            state = None
    kind = EventKind.VM_REMOVED if event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED else EventKind.VM_CHANGED
    return HypervisorEvent(kind, vm_ref, at=datetime.now(UTC), power_state=state, detail=name)
