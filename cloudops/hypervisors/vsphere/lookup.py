"""Finds VMs and hosts by our references."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import HostNotConnected, HypervisorError, PowerState, VmNotFound, VmNotRunning
from cloudops.hypervisors.vsphere import properties
from cloudops.hypervisors.vsphere.link import Link

_POWER_STATES = {
    vim.VirtualMachine.PowerState.poweredOn: PowerState.RUNNING,
    vim.VirtualMachine.PowerState.poweredOff: PowerState.OFF,
    vim.VirtualMachine.PowerState.suspended: PowerState.PAUSED,
}
_PROBLEMS = {
    vim.HostSystem.ConnectionState.notResponding: "does not respond to its management service",
    vim.HostSystem.ConnectionState.disconnected: "is disconnected from its management service",
}
_VM_PATHS = ("name", "runtime.host", "runtime.powerState", "runtime.connectionState")
_HOST_PATHS = ("name", "runtime.connectionState")


@dataclass(frozen=True, slots=True)
class Found:
    """A VM and where it is. ``host_problem`` says in words why vCenter does not reach its host, empty when it does."""

    vm: vim.VirtualMachine
    ref: str
    name: str
    power_state: PowerState
    host: vim.HostSystem | None
    host_ref: str
    host_name: str
    host_problem: str

    @property
    def is_on(self) -> bool:
        """Not while it is suspended: it has neither a display nor a place in memory then."""
        return self.power_state is PowerState.RUNNING

    def demand_host(self) -> None:
        """Raises HostNotConnected when vCenter does not reach the host: it would only make us wait."""
        if self.host_problem:
            raise HostNotConnected(f"{self.host_name}, the host of {self.name}, {self.host_problem}.")

    def demand_running(self) -> None:
        """Raises VmNotRunning for a VM that is off, and HostNotConnected where that cannot be known."""
        self.demand_host()
        if not self.is_on:
            raise VmNotRunning(f"VM {self.name} is {self.power_state}.")


def find_vm(link: Link, vm_ref: str) -> Found:
    """The VM with this instance UUID (``SearchIndex.FindByUuid``). Raises VmNotFound."""
    found = by_uuid(link, vm_ref)
    try:
        rows = properties.read_around(
            link, found, ("runtime.host",), {vim.VirtualMachine: _VM_PATHS, vim.HostSystem: _HOST_PATHS}
        )
    except vmodl.fault.ManagedObjectNotFound as error:
        raise VmNotFound(f"VM {vm_ref} has just gone.") from error
    values = next((row.values for row in rows if row.ref == found._moId), {})
    of_host = next((row.values for row in rows if isinstance(row.obj, vim.HostSystem)), {})
    host = values.get("runtime.host")
    return Found(
        vm=found,
        ref=vm_ref,
        name=str(values.get("name", "")),
        power_state=power_state(values, host_problem(of_host)),
        host=host,
        host_ref=host._moId if host is not None else "",
        host_name=str(of_host.get("name", "")),
        host_problem=host_problem(of_host),
    )


def find_host(link: Link, host_ref: str) -> vim.HostSystem:
    """The host of this reference (``host-21``). Raises HypervisorError when there is none."""
    host = vim.HostSystem(host_ref, link.stub)
    try:
        properties.read(link, host, ("name",))
    except vmodl.fault.ManagedObjectNotFound as error:
        raise HypervisorError(
            f"{link.address} knows no host {host_ref}.", remedy="It may have been removed there; synchronise."
        ) from error
    return host


def power_state(values: Mapping[str, Any], problem: str = "") -> PowerState:
    """Of a VM's ``runtime.powerState`` and ``runtime.connectionState``; UNKNOWN while its host is not reached."""
    connection = values.get("runtime.connectionState")
    states = vim.VirtualMachine.ConnectionState
    if problem or connection in (states.disconnected, states.inaccessible):
        return PowerState.UNKNOWN
    return _POWER_STATES.get(values.get("runtime.powerState", ""), PowerState.UNKNOWN)


def host_problem(values: Mapping[str, Any]) -> str:
    """Of a host's ``runtime.connectionState``: why vCenter does not reach it, empty when it does."""
    return _PROBLEMS.get(values.get("runtime.connectionState", ""), "")


def by_uuid(link: Link, vm_ref: str) -> vim.VirtualMachine:
    """Raises VmNotFound."""
    try:
        reference = str(uuid.UUID(vm_ref))
    except ValueError as error:
        raise VmNotFound(f"{vm_ref!r} is not a UUID.") from error
    if link.content.searchIndex is None:
        raise HypervisorError("This vSphere offers no search index.")
    found = link.content.searchIndex.FindByUuid(None, reference, True, True)
    if not isinstance(found, vim.VirtualMachine):
        raise VmNotFound(f"{link.address} knows no VM with the instance UUID {reference}.")
    return found
