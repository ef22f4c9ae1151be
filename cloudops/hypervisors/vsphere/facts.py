"""What vSphere's properties say, as the port's facts. Pure: nothing here asks vSphere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim

from cloudops.hypervisors.port import DiskFacts, DiskKind, HostFacts, ScalingFacts, VmFacts
from cloudops.hypervisors.vsphere.lookup import host_problem, power_state
from cloudops.hypervisors.vsphere.properties import Row

MIB = 1 << 20
KIB_PER_MIB = 1024
MEMORY_STEP_MIB = 4
"""ESXi takes memory in multiples of this where it tells no ``hotPlugMemoryIncrementSize``."""
HOT_ADD_TIMES = 16
"""Memory grows to at most so many times the size at power-on; a running VM tells it as ``hotPlugMemoryLimit``."""
MOST_VCPUS = ((18, 768), (17, 256), (0, 128))
"""By the version of the virtual hardware (``vmx-20``): the most vCPUs it may have. VMware's configuration maximums."""

HOST_PATHS = (
    "name",
    "parent",
    "network",
    "datastore",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "summary.hardware",
    "summary.config.product",
    "summary.quickStats",
    "summary.currentEVCModeKey",
    "summary.maxEVCModeKey",
)
VM_PATHS = (
    "name",
    "network",
    "config.instanceUuid",
    "config.template",
    "config.version",
    "config.guestFullName",
    "config.maxMksConnections",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "config.cpuAllocation",
    "config.cpuHotAddEnabled",
    "config.memoryHotAddEnabled",
    "config.hotPlugMemoryLimit",
    "config.hotPlugMemoryIncrementSize",
    "runtime.host",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.numMksConnections",
    "runtime.minRequiredEVCModeKey",
)
HOST_OF_VM_PATHS = ("name", "runtime.connectionState", "summary.hardware.cpuMhz")
CLUSTER_PATHS = ("name",)
DATASTORE_PATHS = ("name", "summary.multipleHostAccess")
NETWORK_PATHS = ("name", "tag")
UPLINK_TAG = "SYSTEM/DVS.UPLINKPG"
"""Marks the port groups that distributed switches have for their uplinks, to which no VM is connected."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What hosts and VMs refer to, by vSphere's own references; made by :func:`surroundings`."""

    clusters: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    datastores: Mapping[str, str] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    local: frozenset[str] = frozenset()
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def surroundings(rows: Sequence[Row]) -> Surroundings:
    """Sorts what was read of clusters, networks, datastores and hosts."""
    datastores = _of_kind(rows, vim.Datastore)
    reach = {row.ref: row.values.get("summary.multipleHostAccess") for row in datastores}
    return Surroundings(
        clusters=_names(_of_kind(rows, vim.ClusterComputeResource)),
        networks=_names([row for row in _of_kind(rows, vim.Network) if not _is_uplink(row)]),
        datastores=_names(datastores),
        shared=frozenset(ref for ref, told in reach.items() if told),
        local=frozenset(ref for ref, told in reach.items() if told is False),
        hosts={row.ref: row.values for row in _of_kind(rows, vim.HostSystem)},
    )


def host_facts(
    row: Row, around: Surroundings, tags: tuple[str, ...] | None = None, *, simulator: bool = False
) -> HostFacts:
    """One ESXi host. ``ref`` is vCenter's reference (``host-21``). What vCenter cannot ask it now is what it knew."""
    values = row.values
    hardware, product = values.get("summary.hardware"), values.get("summary.config.product")
    memory_mib = int(hardware.memorySize) // MIB if hardware else 0
    return HostFacts(
        ref=row.ref,
        name=_name(values),
        cpu_threads=int(hardware.numCpuThreads) if hardware else 0,
        cpu_mhz=int(hardware.cpuMhz) if hardware else 0,
        memory_mib=memory_mib,
        memory_free_mib=_free_mib(memory_mib, values),
        hypervisor_version=(product.fullName if product else "") or "VMware ESXi",
        cpu_model=str(values.get("summary.currentEVCModeKey") or values.get("summary.maxEVCModeKey") or ""),
        cpu_percent=_cpu_percent(values),
        networks=_named(values.get("network"), around.networks),
        datastores=_named(values.get("datastore"), {ref: around.datastores[ref] for ref in around.shared}),
        cluster=around.clusters.get(_ref(values.get("parent")), ""),
        tags=tags,
        in_maintenance=bool(values.get("runtime.inMaintenanceMode")),
        problem=host_problem(values),
        simulator=simulator,
    )


def vm_facts(row: Row, around: Surroundings) -> VmFacts | None:
    """One VM; None for what is none of ours: a template, or what vCenter cannot read (it has no UUID then)."""
    values = row.values
    reference = values.get("config.instanceUuid")
    if not reference or values.get("config.template"):
        return None
    host_ref = _ref(values.get("runtime.host"))
    of_host = around.hosts.get(host_ref, {})
    most = values.get("config.maxMksConnections")
    connections = values.get("runtime.numMksConnections")
    return VmFacts(
        ref=str(reference),
        name=_name(values),
        host_ref=host_ref,
        power_state=power_state(values, host_problem(of_host)),
        vcpus=int(values.get("config.hardware.numCPU") or 0),
        memory_mib=int(values.get("config.hardware.memoryMB") or 0),
        scaling=scaling_facts(values, int(of_host.get("summary.hardware.cpuMhz") or 0)),
        guest_os=str(values.get("config.guestFullName") or ""),
        max_consoles=int(most) if most is not None and most > 0 else None,
        disks=_disks(values.get("config.hardware.device") or (), around),
        networks=_named(values.get("network"), around.networks),
        cpu_model=str(values.get("runtime.minRequiredEVCModeKey") or ""),
        console_connections=int(connections) if connections is not None else None,
    )


def scaling_facts(values: Mapping[str, Any], host_cpu_mhz: int) -> ScalingFacts:
    """How far a VM can grow while it runs, by the rules of hot-add. ``host_cpu_mhz`` 0: its CPU limit is not told."""
    vcpus = int(values.get("config.hardware.numCPU") or 0)
    memory_mib = int(values.get("config.hardware.memoryMB") or 0)
    cpu_hot_add = bool(values.get("config.cpuHotAddEnabled"))
    memory_hot_add = bool(values.get("config.memoryHotAddEnabled"))
    limit = int(values.get("config.hotPlugMemoryLimit") or memory_mib * HOT_ADD_TIMES)
    shares, quota_percent = _cpu_tuning(values.get("config.cpuAllocation"), host_cpu_mhz)
    return ScalingFacts(
        max_vcpus=max(vcpus, most_vcpus(str(values.get("config.version") or ""))) if cpu_hot_add else vcpus,
        max_memory_mib=max(memory_mib, limit) if memory_hot_add else memory_mib,
        memory_step_mib=int(values.get("config.hotPlugMemoryIncrementSize") or MEMORY_STEP_MIB),
        cpu_shares=shares,
        cpu_quota_percent=quota_percent,
        cpu_hot_add=cpu_hot_add,
        memory_hot_add=memory_hot_add,
    )


def most_vcpus(hardware: str) -> int:
    """Of virtual hardware such as ``vmx-20``; the least for what is not understood."""
    digits = hardware.removeprefix("vmx-")
    version = int(digits) if digits.isdigit() else 0
    return next(most for since, most in MOST_VCPUS if version >= since)


def _cpu_tuning(allocation: Any, host_cpu_mhz: int) -> tuple[int, int]:
    """Shares (0: the platform's normal ones) and the limit in percent of one thread (0: none)."""
    if allocation is None:
        return 0, 0
    shares = allocation.shares
    weight = 0 if shares is None or shares.level == vim.SharesInfo.Level.normal else int(shares.shares)
    limit_mhz = allocation.limit
    if limit_mhz is None or limit_mhz < 0 or not host_cpu_mhz:
        return weight, 0
    return weight, max(1, round(100 * limit_mhz / host_cpu_mhz))


def _disks(devices: Sequence[Any], around: Surroundings) -> tuple[DiskFacts, ...]:
    found = []
    for device in devices:
        if isinstance(device, vim.vm.device.VirtualDisk):
            found.append(_disk(device, around, size_mib=int(device.capacityInKB) // KIB_PER_MIB))
        elif isinstance(device, vim.vm.device.VirtualCdrom) and getattr(device.backing, "fileName", None):
            found.append(_disk(device, around, removable=True))
    return tuple(found)


def _disk(device: Any, around: Surroundings, *, size_mib: int = 0, removable: bool = False) -> DiskFacts:
    store = _ref(getattr(device.backing, "datastore", None))
    kind = DiskKind.SHARED if store in around.shared else DiskKind.LOCAL if store in around.local else DiskKind.UNKNOWN
    backing: Any = device.backing
    label = device.deviceInfo.label if device.deviceInfo else f"device {device.key}"
    return DiskFacts(
        target=str(label),
        source=str(getattr(backing, "fileName", None) or getattr(backing, "deviceName", None) or ""),
        kind=kind,
        datastore=around.datastores.get(store, "") if kind is DiskKind.SHARED else "",
        size_mib=size_mib,
        removable=removable,
    )


def _free_mib(memory_mib: int, values: Mapping[str, Any]) -> int:
    usage = getattr(values.get("summary.quickStats"), "overallMemoryUsage", None)
    return 0 if usage is None else min(memory_mib, max(0, memory_mib - int(usage)))


def _cpu_percent(values: Mapping[str, Any]) -> float | None:
    hardware = values.get("summary.hardware")
    usage = getattr(values.get("summary.quickStats"), "overallCpuUsage", None)
    total = int(hardware.cpuMhz) * int(hardware.numCpuCores) if hardware else 0
    return None if usage is None or not total else round(100 * int(usage) / total, 1)


def _of_kind(rows: Sequence[Row], kind: type[Any]) -> list[Row]:
    return [row for row in rows if isinstance(row.obj, kind)]


def _is_uplink(row: Row) -> bool:
    return any(tag.key == UPLINK_TAG for tag in row.values.get("tag") or ())


def _name(values: Mapping[str, Any]) -> str:
    """vSphere writes ``%``, ``/`` and ``\\`` of names as in URLs."""
    return unquote(str(values.get("name") or ""))


def _names(rows: Sequence[Row]) -> dict[str, str]:
    """Names by reference; what two share (in different datacenters) is told apart by its reference."""
    plain = {row.ref: _name(row.values) for row in rows}
    counts = Counter(plain.values())
    return {ref: name if counts[name] == 1 else f"{name} ({ref})" for ref, name in plain.items()}


def _ref(obj: Any) -> str:
    return "" if obj is None else str(obj._moId)


def _pairs(objects: Any, names: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(((ref, names[ref]) for ref in map(_ref, objects or ()) if ref in names), key=lambda pair: pair[1])


def _named(objects: Any, names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for _, name in _pairs(objects, names))
