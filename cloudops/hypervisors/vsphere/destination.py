"""Where a VM is to move within one vCenter: finding the place, asking vCenter what speaks against it, beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import (
    DestinationIncompatible,
    DestinationUnreachable,
    EndpointSpec,
    HypervisorError,
    InvalidState,
    Kind,
    MigrationTarget,
    OutOfSpace,
    SameHost,
    StorageMissing,
    TimedOut,
)
from cloudops.hypervisors.vsphere import properties, tasks
from cloudops.hypervisors.vsphere.errors import typed
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import Found, host_problem

ANOTHER_VCENTER = (
    "Move it in the vSphere Client (“cross vCenter vMotion”), or choose a host behind the same vCenter; "
    "CloudOps follows."
)
DEFAULT = vim.VirtualMachine.MovePriority.defaultPriority


@dataclass(frozen=True, slots=True)
class Place:
    """A host with the resource pool that VMs which come to it are put into; ``pool`` None: the one they are in."""

    host: vim.HostSystem
    name: str
    pool: vim.ResourcePool | None


def find(link: Link, found: Found, target: MigrationTarget, spec: EndpointSpec) -> Place:
    """The place that ``target`` names. Raises DestinationIncompatible, DestinationUnreachable and SameHost."""
    if target.spec.kind is not Kind.VSPHERE:
        raise DestinationIncompatible(
            f"A VM of vSphere cannot run on a host of kind {target.spec.kind}.", remedy="Choose a vSphere host."
        )
    if (target.spec.key, target.spec.uri) != (spec.key, spec.uri) and target.spec.uri != spec.uri:
        raise DestinationUnreachable(
            f"{found.name} is behind {spec.uri}, the destination behind {target.spec.uri}.", remedy=ANOTHER_VCENTER
        )
    if target.host_ref == found.host_ref:
        raise SameHost(f"VM {found.name} is on {found.host_name}.", remedy="Choose another host.")
    host = vim.HostSystem(target.host_ref, link.stub)
    try:
        values = properties.read(link, host, ("name", "parent", "runtime.connectionState", "runtime.inMaintenanceMode"))
    except vmodl.fault.ManagedObjectNotFound as error:
        remedy = "It may have been removed there; synchronise, then choose another host."
        raise DestinationUnreachable(f"{link.address} knows no host {target.host_ref}.", remedy=remedy) from error
    name = str(values.get("name", target.host_ref))
    if problem := host_problem(values):
        remedy = "Reconnect it in vCenter, or choose another host."
        raise DestinationUnreachable(f"{name} {problem}.", remedy=remedy)
    if values.get("runtime.inMaintenanceMode"):
        remedy = "Take it out of maintenance mode in vSphere, or choose another host."
        raise DestinationIncompatible(f"{name} is in maintenance mode.", remedy=remedy)
    return Place(host, name, _pool(link, found, values.get("parent")))


def _pool(link: Link, found: Found, parent: Any) -> vim.ResourcePool | None:
    """The destination's root pool, unless the VM stays within its cluster and so in its pool."""
    here = properties.read(link, found.host, ("parent",)).get("parent") if found.host is not None else None
    if parent is None or (here is not None and here._moId == parent._moId):
        return None
    pool: vim.ResourcePool | None = properties.read(link, parent, ("resourcePool",)).get("resourcePool")
    return pool


def objections(link: Link, found: Found, place: Place, *, copy_storage: bool) -> Sequence[HypervisorError]:
    """What vCenter says against it (``CheckMigrate_Task``, ``CheckRelocate_Task``), each typed; what stands in our time
    limit is no objection. Raises NoPermission."""
    checker = link.content.vmProvisioningChecker
    if checker is None:
        remedy = "Add the vCenter that manages the hosts, in place of the single host."
        return [DestinationUnreachable("A standalone ESXi host moves no VMs to others.", remedy=remedy)]
    try:
        if copy_storage:
            task = checker.CheckRelocate_Task(found.vm, _relocation(link, found, place), None)
        else:
            task = checker.CheckMigrate_Task(found.vm, place.host, place.pool, None, None)
        results = tasks.wait(link, task)
    except vmodl.fault.MethodNotFound:
        return []  # this vSphere cannot be asked; the migration itself tells
    except StorageMissing as error:
        return [error]
    except TimedOut:
        return []
    found_errors: dict[tuple[str, str], HypervisorError] = {}
    for result in results or ():
        for fault in result.error or ():
            objection = _typed(fault)
            found_errors.setdefault((objection.code, objection.detail), objection)
    return list(found_errors.values())


def _typed(fault: vmodl.MethodFault) -> HypervisorError:
    """A fault that comes as data. A state that does not allow it is the destination's: the VM's own was looked at."""
    error = typed(fault)
    if type(error) is InvalidState:
        return DestinationIncompatible(error.detail, platform_code=error.platform_code, remedy=error.remedy)
    return error


def start(link: Link, found: Found, place: Place, *, copy_storage: bool) -> vim.Task:
    """Begins it. The last request of a function, as ``Session.call`` demands. Raises pyvmomi's faults."""
    task: vim.Task
    if copy_storage:
        task = found.vm.RelocateVM_Task(_relocation(link, found, place), DEFAULT)
        return task
    try:
        task = found.vm.MigrateVM_Task(place.pool, place.host, DEFAULT, None)
    except vmodl.fault.MethodNotFound:  # vcsim has the other only
        task = found.vm.RelocateVM_Task(vim.vm.RelocateSpec(host=place.host, pool=place.pool), DEFAULT)
    return task


def _relocation(link: Link, found: Found, place: Place) -> vim.vm.RelocateSpec:
    """To a datastore of the destination that has most room, unless it reaches all of the VM's. Raises StorageMissing
    and OutOfSpace."""
    paths = {vim.Datastore: ("name", "summary")}
    stores = properties.read_around(link, place.host, ("datastore",), paths)
    stores = [row for row in stores if isinstance(row.obj, vim.Datastore)]
    used = {one._moId for one in properties.read(link, found.vm, ("datastore",)).get("datastore") or ()}
    if used and used <= {row.ref for row in stores}:
        return vim.vm.RelocateSpec(host=place.host, pool=place.pool)
    usable = [row for row in stores if (summary := row.values.get("summary")) is not None and summary.accessible]
    if not usable:
        raise StorageMissing(f"{place.name} has no datastore that can be used.")
    best = max(usable, key=lambda row: int(row.values["summary"].freeSpace or 0))
    needed = _bytes_used(link, found)
    if (free := int(best.values["summary"].freeSpace or 0)) < needed:
        raise OutOfSpace(
            f"{best.values.get('name')} of {place.name} has {free >> 20} MiB left; {needed >> 20} are needed.",
            numbers={"free_mib": free >> 20, "needed_mib": needed >> 20},
        )
    return vim.vm.RelocateSpec(host=place.host, pool=place.pool, datastore=best.obj)


def _bytes_used(link: Link, found: Found) -> int:
    storage = properties.read(link, found.vm, ("summary.storage",)).get("summary.storage")
    return 0 if storage is None else int(storage.committed or 0)
