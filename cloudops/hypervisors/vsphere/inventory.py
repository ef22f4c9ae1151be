"""Reads hosts and VMs from vSphere."""

from __future__ import annotations

from collections.abc import Sequence

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import HostFacts, VmFacts, VmNotFound
from cloudops.hypervisors.vsphere import facts
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import by_uuid
from cloudops.hypervisors.vsphere.properties import collect, read_around
from cloudops.hypervisors.vsphere.tags import TagReader

_SHARED = {vim.Datastore: facts.DATASTORE_PATHS, vim.Network: facts.NETWORK_PATHS}


def hosts(link: Link, tags: TagReader) -> Sequence[HostFacts]:
    """Every host, by its reference."""
    rows = collect(link, {vim.HostSystem: facts.HOST_PATHS, vim.ClusterComputeResource: facts.CLUSTER_PATHS, **_SHARED})
    around = facts.surroundings(rows)
    found = sorted((row for row in rows if isinstance(row.obj, vim.HostSystem)), key=lambda row: row.ref)
    told = tags.read(link, [row.ref for row in found])
    simulator = "simulator" in link.content.about.name.lower()
    return [
        facts.host_facts(row, around, None if told is None else told.get(row.ref, ()), simulator=simulator)
        for row in found
    ]


def vms(link: Link) -> Sequence[VmFacts]:
    """Every VM that is no template."""
    wanted = {vim.VirtualMachine: facts.VM_PATHS, vim.HostSystem: facts.HOST_OF_VM_PATHS, **_SHARED}
    rows = collect(link, wanted)
    around = facts.surroundings(rows)
    read = (facts.vm_facts(row, around) for row in rows if isinstance(row.obj, vim.VirtualMachine))
    return [one for one in read if one is not None]


def vm(link: Link, vm_ref: str) -> VmFacts:
    """One VM. Raises VmNotFound."""
    found = by_uuid(link, vm_ref)
    wanted = {vim.VirtualMachine: facts.VM_PATHS, vim.HostSystem: facts.HOST_OF_VM_PATHS, **_SHARED}
    try:
        rows = read_around(link, found, ("runtime.host", "datastore", "network"), wanted)
    except vmodl.fault.ManagedObjectNotFound as error:
        raise VmNotFound(f"VM {vm_ref} has just gone.") from error
    around = facts.surroundings(rows)
    for row in rows:
        if row.ref == found._moId and (read := facts.vm_facts(row, around)) is not None:
            return read
    raise VmNotFound(f"VM {vm_ref} is a template, or vCenter cannot read it.")
