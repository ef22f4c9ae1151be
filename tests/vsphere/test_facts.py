"""What vSphere's properties come out as; plain values, nobody is asked."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim

from cloudops.hypervisors.port import DiskKind, PowerState
from cloudops.hypervisors.vsphere import facts, tags
from cloudops.hypervisors.vsphere.facts import Surroundings, host_facts, scaling_facts, surroundings, vm_facts
from cloudops.hypervisors.vsphere.properties import Row

HOST = vim.HostSystem("host-7")
SHARED, LOCAL, UNTOLD = vim.Datastore("datastore-1"), vim.Datastore("datastore-2"), vim.Datastore("datastore-3")
NETWORK, UPLINK = vim.Network("network-1"), vim.dvs.DistributedVirtualPortgroup("dvportgroup-2")
CLUSTER = vim.ClusterComputeResource("domain-c1")
AROUND = surroundings(
    [
        Row(CLUSTER, {"name": "Berlin%2fTest"}),
        Row(SHARED, {"name": "san", "summary.multipleHostAccess": True}),
        Row(LOCAL, {"name": "disk of esx", "summary.multipleHostAccess": False}),
        Row(UNTOLD, {"name": "odd"}),
        Row(NETWORK, {"name": "VM Network"}),
        Row(UPLINK, {"name": "uplinks", "tag": [vim.Tag(key=facts.UPLINK_TAG)]}),
        Row(HOST, {"name": "esx", "runtime.connectionState": "connected", "summary.hardware.cpuMhz": 2000}),
    ]
)


def _host(**changed: Any) -> Row:
    values = {
        "name": "esx-1.example.org",
        "parent": CLUSTER,
        "network": [NETWORK, UPLINK],
        "datastore": [LOCAL, SHARED],
        "runtime.connectionState": "connected",
        "runtime.inMaintenanceMode": False,
        "summary.hardware": vim.host.Summary.HardwareSummary(
            numCpuThreads=32, numCpuCores=16, cpuMhz=2000, memorySize=64 << 30
        ),
        "summary.config.product": vim.AboutInfo(fullName="VMware ESXi 8.0.2 build-1"),
        "summary.quickStats": vim.host.Summary.QuickStats(overallCpuUsage=8000, overallMemoryUsage=16384),
        "summary.maxEVCModeKey": "intel-icelake",
    }
    return Row(HOST, {key: value for key, value in (values | changed).items() if value is not None})


def _vm(**changed: Any) -> Row:
    values = {
        "name": "web%25",
        "network": [NETWORK],
        "config.instanceUuid": "5019f8a6-0000-4000-8000-000000000001",
        "config.version": "vmx-20",
        "config.guestFullName": "Debian GNU/Linux 12 (64-bit)",
        "config.maxMksConnections": 40,
        "config.hardware.numCPU": 2,
        "config.hardware.memoryMB": 4096,
        "runtime.host": HOST,
        "runtime.powerState": "poweredOn",
        "runtime.connectionState": "connected",
        "runtime.numMksConnections": 3,
    }
    return Row(
        vim.VirtualMachine("vm-1"), {key: value for key, value in (values | changed).items() if value is not None}
    )


def test_a_host() -> None:
    host = host_facts(_host(), AROUND, ("gpu",))
    assert (host.ref, host.name, host.cluster) == ("host-7", "esx-1.example.org", "Berlin/Test")
    assert (host.cpu_threads, host.cpu_mhz, host.memory_mib, host.memory_free_mib) == (32, 2000, 65536, 49152)
    assert host.cpu_percent == 25.0
    assert host.cpu_model == "intel-icelake"
    assert host.hypervisor_version == "VMware ESXi 8.0.2 build-1"
    assert (host.networks, host.datastores) == (("VM Network",), ("san",))  # neither uplinks nor what only it has
    assert (host.tags, host.in_maintenance, host.problem, host.simulator) == (("gpu",), False, "", False)
    assert host_facts(_host(**{"summary.currentEVCModeKey": "intel-skylake"}), AROUND).cpu_model == "intel-skylake"


@pytest.mark.parametrize("state", ["notResponding", "disconnected"])
def test_a_host_that_vcenter_does_not_reach(state: str) -> None:
    row = _host(**{"runtime.connectionState": state, "summary.quickStats": None, "runtime.inMaintenanceMode": True})
    host = host_facts(row, AROUND)
    assert "respond" in host.problem or "disconnected" in host.problem
    assert (host.memory_mib, host.memory_free_mib, host.cpu_percent) == (65536, 0, None)
    assert host.in_maintenance
    around = Surroundings(hosts={"host-7": {"runtime.connectionState": state}})
    vm = vm_facts(_vm(), around)
    assert vm is not None
    assert vm.power_state is PowerState.UNKNOWN


def test_a_host_that_was_just_added_and_told_nothing() -> None:
    host = host_facts(Row(HOST, {"name": "esx"}), Surroundings())
    assert (host.cpu_threads, host.memory_mib, host.memory_free_mib, host.cluster) == (0, 0, 0, "")
    assert host.hypervisor_version


def test_a_vm() -> None:
    vm = vm_facts(_vm(), AROUND)
    assert vm is not None
    assert (vm.ref, vm.name, vm.host_ref) == ("5019f8a6-0000-4000-8000-000000000001", "web%", "host-7")
    assert (vm.power_state, vm.vcpus, vm.memory_mib) == (PowerState.RUNNING, 2, 4096)
    assert (vm.max_consoles, vm.console_connections, vm.has_console) == (40, 3, True)
    assert vm.guest_os == "Debian GNU/Linux 12 (64-bit)"
    assert vm.networks == ("VM Network",)


def test_no_limit_is_assumed() -> None:
    for told in (None, -1, 0):
        vm = vm_facts(_vm(**{"config.maxMksConnections": told, "runtime.numMksConnections": None}), AROUND)
        assert vm is not None
        assert (vm.max_consoles, vm.console_connections) == (None, None)


@pytest.mark.parametrize(
    ("power", "connection", "state"),
    [
        ("poweredOn", "connected", PowerState.RUNNING),
        ("poweredOff", "connected", PowerState.OFF),
        ("suspended", "connected", PowerState.PAUSED),
        ("poweredOn", "disconnected", PowerState.UNKNOWN),
        ("poweredOff", "inaccessible", PowerState.UNKNOWN),
        ("poweredOff", "orphaned", PowerState.OFF),
        ("strange", "connected", PowerState.UNKNOWN),
    ],
)
def test_power(power: str, connection: str, state: PowerState) -> None:
    vm = vm_facts(_vm(**{"runtime.powerState": power, "runtime.connectionState": connection}), AROUND)
    assert vm is not None
    assert vm.power_state is state


def test_templates_and_what_vcenter_cannot_read_are_left_out() -> None:
    assert vm_facts(_vm(**{"config.template": True}), AROUND) is None
    assert vm_facts(_vm(**{"config.instanceUuid": None}), AROUND) is None


def _disk(store: Any, key: int = 2000) -> Any:
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=f"[x] {key}.vmdk", datastore=store)
    label = vim.Description(label=f"Hard disk {key - 1999}", summary="")
    return vim.vm.device.VirtualDisk(key=key, deviceInfo=label, backing=backing, capacityInKB=20 << 20)


def test_disks_tell_who_else_reaches_them() -> None:
    iso = vim.vm.device.VirtualCdrom.IsoBackingInfo(fileName="[san] debian.iso", datastore=SHARED)
    devices = [
        vim.vm.device.VirtualE1000(key=4000),
        _disk(SHARED),
        _disk(LOCAL, 2001),
        _disk(UNTOLD, 2002),
        vim.vm.device.VirtualCdrom(key=3000, backing=iso),
        vim.vm.device.VirtualCdrom(key=3001, backing=vim.vm.device.VirtualCdrom.RemotePassthroughBackingInfo()),
    ]
    vm = vm_facts(_vm(**{"config.hardware.device": devices}), AROUND)
    assert vm is not None
    assert [(one.target, one.kind, one.datastore, one.size_mib, one.removable) for one in vm.disks] == [
        ("Hard disk 1", DiskKind.SHARED, "san", 20480, False),
        ("Hard disk 2", DiskKind.LOCAL, "", 20480, False),
        ("Hard disk 3", DiskKind.UNKNOWN, "", 20480, False),
        ("device 3000", DiskKind.SHARED, "san", 0, True),
    ]
    assert vm.disks[0].source == "[x] 2000.vmdk"


def test_names_that_two_share_are_told_apart() -> None:
    around = surroundings(
        [Row(vim.Network("network-1"), {"name": "lan"}), Row(vim.Network("network-2"), {"name": "lan"})]
    )
    assert around.networks == {"network-1": "lan (network-1)", "network-2": "lan (network-2)"}


def _scaling(**changed: Any) -> Any:
    return scaling_facts({**_vm().values, **changed}, 2000)


def test_hot_add() -> None:
    none = _scaling()
    assert (none.max_vcpus, none.max_memory_mib, none.cpu_hot_add, none.memory_hot_add) == (2, 4096, False, False)
    on = _scaling(
        **{
            "config.cpuHotAddEnabled": True,
            "config.memoryHotAddEnabled": True,
            "config.hotPlugMemoryLimit": 32768,
            "config.hotPlugMemoryIncrementSize": 128,
        }
    )
    assert (on.max_vcpus, on.max_memory_mib, on.memory_step_mib, on.removable_vcpus) == (768, 32768, 128, 0)
    off = _scaling(**{"config.memoryHotAddEnabled": True})  # a VM that is off tells no limit
    assert (off.max_memory_mib, off.memory_step_mib) == (65536, 4)


@pytest.mark.parametrize(("hardware", "most"), [("vmx-20", 768), ("vmx-17", 256), ("vmx-13", 128), ("", 128)])
def test_the_most_vcpus_follow_from_the_hardware(hardware: str, most: int) -> None:
    assert facts.most_vcpus(hardware) == most


def test_cpu_weights() -> None:
    def allocation(level: str, shares: int, limit: int) -> Any:
        return vim.ResourceAllocationInfo(shares=vim.SharesInfo(level=level, shares=shares), limit=limit)

    tuned = _scaling(**{"config.cpuAllocation": allocation("custom", 4000, 3000)})
    assert (tuned.cpu_shares, tuned.cpu_quota_percent) == (4000, 150)
    plain = _scaling(**{"config.cpuAllocation": allocation("normal", 2000, -1)})
    assert (plain.cpu_shares, plain.cpu_quota_percent) == (0, 0)
    assert scaling_facts({"config.cpuAllocation": allocation("high", 8000, 3000)}, 0).cpu_quota_percent == 0


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("gpu", "gpu"),
        ("GPU: A100 (80 GB)", "gpu-a100-80-gb"),
        ("Größe L", "groe-l"),
        ("  -- ", ""),
        ("x" * 80, "x" * 63),
        ("日本", ""),
    ],
)
def test_tags_are_made_words(name: str, tag: str) -> None:
    assert tags.slug(name) == tag


def test_tags_come_each_once() -> None:
    assert tags.words(["SSD", "ssd", "!!", "GPU"]) == ("gpu", "ssd")
