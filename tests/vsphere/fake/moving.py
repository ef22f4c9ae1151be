"""May a VM run on a host? What vCenter checks before a vMotion, as the faults that it answers with."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake.entities import Datastore, Host, Vm
from tests.vsphere.fake.types import fault, vim, vmodl

INTEL = (
    "intel-merom",
    "intel-penryn",
    "intel-nehalem",
    "intel-westmere",
    "intel-sandybridge",
    "intel-ivybridge",
    "intel-haswell",
    "intel-broadwell",
    "intel-skylake",
    "intel-cascadelake",
    "intel-icelake",
    "intel-sapphirerapids",
)
AMD = ("amd-rev-e", "amd-rev-f", "amd-greyhound", "amd-bulldozer", "amd-piledriver", "amd-zen", "amd-zen2", "amd-zen3")


def _has_features(host: Host, required: str) -> bool:
    have = host.effective_evc()
    return any(
        required in family and have in family and family.index(have) >= family.index(required)
        for family in (INTEL, AMD)
    )


def _cpu(vm: Vm, host: Host) -> list[Any]:
    required = vm.required_evc
    if not required or not host.effective_evc() or _has_features(host, required):
        return []
    if required.split("-")[0] != host.effective_evc().split("-")[0]:
        return [
            fault(
                vim.fault.CpuIncompatible,
                f"The host's CPU hardware does not support the requirements of VM {vm.name}: another vendor.",
                level=1,
                registerName="eax",
                host=host.ref,
            )
        ]
    return [
        fault(
            vim.fault.FeatureRequirementsNotMet,
            f"The target host does not support the virtual machine's current hardware requirements ({required}).",
            vm=vm.ref,
            host=host.ref,
        )
    ]


def _storage(vm: Vm, host: Host, datastore: Datastore | None) -> list[Any]:
    wanted = datastore or vm.datastore
    if wanted in host.datastores:
        return []
    return [
        fault(
            vim.fault.CannotAccessVmDisk,
            f"Unable to access the virtual machine configuration: Unable to access file [{wanted.name}].",
            device="Hard disk 1",
            backing=f"[{wanted.name}] {vm.name}/{vm.name}-0.vmdk",
            connected=False,
            fault=fault(vim.fault.InvalidDatastorePath, f"[{wanted.name}]", datastorePath=f"[{wanted.name}]"),
        )
    ]


def _network(vm: Vm, host: Host) -> list[Any]:
    if vm.network in host.networks:
        return []
    return [
        fault(
            vim.fault.CannotAccessNetwork,
            f"Currently connected network interface 'Network adapter 1' uses network '{vm.network.name}',"
            " which is not accessible.",
            device="Network adapter 1",
            backing=vm.network.name,
            connected=True,
            network=vm.network.ref,
        )
    ]


def _vmotion(vm: Vm, host: Host) -> list[Any]:
    if vm.power != "poweredOn":
        return []
    return [
        fault(
            vim.fault.VMotionNotConfigured,
            f"The vMotion interface is not configured on the {'source' if one is vm.host else 'destination'} host"
            f" {one.name}.",
            atSourceHost=one is vm.host,
            failedHost=one.name,
            failedHostEntity=one.ref,
        )
        for one in (vm.host, host)
        if not one.plan.vmotion
    ]


def _memory(vm: Vm, host: Host) -> list[Any]:
    """Only reservations must fit, and no VM may be larger than the host: vSphere overcommits."""
    reserved = sum(
        one.memory_reservation_mib for one in host.vms.values() if one.power == "poweredOn" and one is not vm
    )
    free = host.plan.memory_mib - reserved
    if vm.memory_reservation_mib <= free and vm.memory_mib <= host.plan.memory_mib:
        return []
    needed = max(vm.memory_reservation_mib, vm.memory_mib)
    return [
        fault(
            vim.fault.InsufficientHostMemoryCapacityFault,
            "The host does not have sufficient memory resources to satisfy the reservation.",
            host=host.ref,
            unreserved=free << 20,
            requested=needed << 20,
        )
    ]


def usable(host: Host) -> list[Any]:
    """Nothing when VMs may come to the host."""
    if host.connection != "connected":
        return [fault(vmodl.fault.HostNotConnected, f"The host {host.name} is not connected.")]
    if host.in_maintenance or host.entering:
        return [
            fault(
                vim.fault.InvalidHostState,
                f"The operation is not allowed in the current state of the host {host.name}: maintenance mode.",
                host=host.ref,
            )
        ]
    return []


def objections(vm: Vm, host: Host, datastore: Datastore | None = None) -> list[Any]:
    """Faults, empty when the VM may run there with its disks on ``datastore`` (None: where they are)."""
    if vm.host.connection != "connected":
        return [fault(vmodl.fault.HostNotConnected, f"The host {vm.host.name} is not connected.")]
    return usable(host) or [
        *_cpu(vm, host),
        *_storage(vm, host, datastore),
        *_network(vm, host),
        *_vmotion(vm, host),
        *_memory(vm, host),
    ]


def best(vm: Vm, hosts: list[Host]) -> Host | None:
    """DRS's choice: of those that may, the one with the fewest VMs."""
    fit = [host for host in hosts if host is not vm.host and not objections(vm, host)]
    return min(fit, key=lambda host: len(host.vms), default=None)
