"""The search index."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake.entities import Entity
from tests.vsphere.fake.service import Call, method


def _by_uuid(call: Call, uuid: str, *, is_vm: bool, is_instance: bool) -> list[Entity]:
    wanted = uuid.lower()
    if not is_vm:
        return [host for host in call.world.hosts.values() if host.uuid == wanted]
    if is_instance:
        found = call.world.vms_by_uuid.get(wanted)
        return [found] if found else []
    return [vm for vm in call.world.vms.values() if vm.bios_uuid == wanted]


@method("FindByUuid")
def find_by_uuid(
    call: Call,
    uuid: str,
    vmSearch: bool,
    datacenter: Any = None,
    instanceUuid: bool = False,
) -> Any:
    found = _by_uuid(call, uuid, is_vm=vmSearch, is_instance=instanceUuid)
    return found[0].ref if found else None


@method("FindAllByUuid")
def find_all_by_uuid(
    call: Call,
    uuid: str,
    vmSearch: bool,
    datacenter: Any = None,
    instanceUuid: bool = False,
) -> Any:
    return [one.ref for one in _by_uuid(call, uuid, is_vm=vmSearch, is_instance=instanceUuid)]


@method("FindByDnsName")
def find_by_dns_name(call: Call, dnsName: str, vmSearch: bool, datacenter: Any = None) -> Any:
    found = (call.world.vms if vmSearch else call.world.hosts).get(dnsName)
    return found.ref if found else None


@method("FindByInventoryPath")
def find_by_inventory_path(call: Call, inventoryPath: str) -> Any:
    last = inventoryPath.rstrip("/").rpartition("/")[2]
    for named in (call.world.vms, call.world.clusters, call.world.datastores, call.world.networks):
        if last in named:
            return named[last].ref
    return None
