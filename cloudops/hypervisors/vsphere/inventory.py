"""Reads hosts and VMs from vSphere."""

from __future__ import annotations

from collections.abc import Sequence

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import HostFacts, VmFacts, VmNotFound
from cloudops.hypervisors.vsphere import facts
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import find_vm
from cloudops.hypervisors.vsphere.properties import collect, read_many, read_row
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
    found = find_vm(link, vm_ref)
    try:
        row = read_row(link, found.vm, facts.VM_PATHS)
        networks, stores = row.values.get("network") or (), _datastores(row.values.get("config.hardware.device") or ())
        around = facts.surroundings(
            [
                *read_many(link, [found.host] if found.host else (), facts.HOST_OF_VM_PATHS),
                *read_many(link, networks, facts.NETWORK_PATHS),
                *read_many(link, stores, facts.DATASTORE_PATHS),
            ]
        )
    except vmodl.fault.ManagedObjectNotFound as error:
        raise VmNotFound(f"VM {vm_ref} has just gone.") from error
    read = facts.vm_facts(row, around)
    if read is None:
        raise VmNotFound(f"{found.name} is a template, or vCenter cannot read it.")
    return read


def _datastores(devices: Sequence[object]) -> list[vim.Datastore]:
    backings = [getattr(device, "backing", None) for device in devices]
    stores = [getattr(backing, "datastore", None) for backing in backings]
    return list({store._moId: store for store in stores if store is not None}.values())
