"""vSphere's update sets as the port's events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import EventKind, HypervisorEvent
from cloudops.hypervisors.vsphere.lookup import power_state
from cloudops.hypervisors.vsphere.properties import Wanted

WATCHED: Wanted = {
    vim.VirtualMachine: (
        "name",
        "config.instanceUuid",
        "config.template",
        "config.hardware.numCPU",
        "config.hardware.memoryMB",
        "config.maxMksConnections",
        "runtime.host",
        "runtime.powerState",
        "runtime.connectionState",
        "runtime.numMksConnections",
    ),
    vim.HostSystem: ("name", "parent", "runtime.connectionState", "runtime.inMaintenanceMode"),
    vim.ClusterComputeResource: ("name",),
}
"""What is followed; what changes all the time (usage) and what is large (devices) is left to the next reading."""

_CONNECTIONS = "runtime.numMksConnections"
_UUID = "config.instanceUuid"
_POWER = "runtime.powerState"
_HOST = "runtime.host"
_Kind = vmodl.query.PropertyCollector.ObjectUpdate.Kind


class Changes:
    """What is known of the VMs since the collector began, so that a change can be named and told once."""

    def __init__(self) -> None:
        self.is_complete = False
        """Whether everything there was at the beginning has been seen."""
        self._vms: dict[str, dict[str, Any]] = {}

    def take(self, answer: vmodl.query.PropertyCollector.UpdateSet | None) -> list[HypervisorEvent]:
        """The events of one update set; none while what was there at the beginning still comes in. None: nothing new,
        which at the beginning means that there is nothing at all."""
        if answer is None:
            self.is_complete = True
            return []
        now = datetime.now(UTC)
        events = [
            event
            for update in answer.filterSet or ()
            for one in update.objectSet or ()
            for event in self._of_object(one, now)
        ]
        if self.is_complete:
            return list(dict.fromkeys(events))
        self.is_complete = not answer.truncated
        return []

    def _of_object(
        self, update: vmodl.query.PropertyCollector.ObjectUpdate, now: datetime
    ) -> Iterator[HypervisorEvent]:
        if not isinstance(update.obj, vim.VirtualMachine):
            yield HypervisorEvent(EventKind.HOSTS_CHANGED, at=now)
            return
        if update.kind == _Kind.leave:
            known = self._vms.pop(update.obj._moId, {})
            if known.get(_UUID):
                yield HypervisorEvent(EventKind.VM_REMOVED, str(known[_UUID]), at=now)
            return
        known = self._vms.setdefault(update.obj._moId, {})
        changed = {change.name for change in update.changeSet or () if known.get(change.name) != change.val}
        known.update({change.name: change.val for change in update.changeSet or ()})
        yield from _of_vm(known, changed, now)


def _of_vm(known: dict[str, Any], changed: set[str], now: datetime) -> Iterator[HypervisorEvent]:
    reference = str(known.get(_UUID) or "")
    if not reference or not changed:
        return
    if known.get("config.template"):
        if "config.template" in changed:  # it has just been made one
            yield HypervisorEvent(EventKind.VM_REMOVED, reference, at=now)
        return
    if _CONNECTIONS in changed:
        yield HypervisorEvent(EventKind.CONSOLE_CHANGED, reference, at=now)
    if changed - {_CONNECTIONS}:
        state = power_state(known) if changed & {_POWER, _HOST} else None  # one that moved is told as it arrived
        yield HypervisorEvent(EventKind.VM_CHANGED, reference, at=now, power_state=state)
