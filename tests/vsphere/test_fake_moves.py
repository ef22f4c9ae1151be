"""The fake vCenter's vMotion, its checker, maintenance mode and reconfiguring, with the ways they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.vsphere.client import done, ended, eventually, failed, find_host, find_vm, logged_in, raises
from tests.vsphere.fake import ClusterPlan, FakeVcenter, HostPlan, VmPlan
from tests.vsphere.fake.types import vim, vmodl

HOSTS = [
    HostPlan("esx-1", datastores=["shared-1", "shared-2"]),
    HostPlan("esx-2", datastores=["shared-1", "shared-2"]),
    HostPlan("esx-lonely", datastores=["local-9"], networks=["Elsewhere"], vmotion=False),
    HostPlan("esx-amd", evc_mode="amd-zen3"),
    HostPlan("esx-old", evc_mode="intel-haswell"),
]
VMS = [VmPlan("web", "esx-1"), VmPlan("db", "esx-1", powered_on=False)]
PRIORITY = "defaultPriority"


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    with FakeVcenter(HOSTS, VMS, task_seconds=0.02) as running:
        yield running


@pytest.fixture
def instance(vcenter: FakeVcenter) -> Iterator[Any]:
    with logged_in(vcenter) as found:
        yield found


def test_a_vm_moves_with_progress(vcenter: FakeVcenter, instance: Any) -> None:
    vm, host = find_vm(instance, vcenter, "web"), find_host(instance, "esx-2")
    with vcenter.faults.holding("MigrateVM_Task"):
        task = vm.MigrateVM_Task(host=host, priority=PRIORITY)
        eventually(lambda: task.info.progress == 40)
        assert task.info.descriptionId == "VirtualMachine.migrate"
        assert vm.runtime.host.name == "esx-1"
        task.CancelTask()
    assert isinstance(ended(task).error, vmodl.fault.RequestCanceled)
    done(vm.MigrateVM_Task(host=host, priority=PRIORITY))
    assert vm.runtime.host == host
    assert list(host.vm) == [vm]
    target = host.datastore[1]
    done(vm.RelocateVM_Task(vim.vm.RelocateSpec(host=find_host(instance, "esx-1"), datastore=target), PRIORITY))
    assert (vm.runtime.host.name, vm.datastore[0]) == ("esx-1", target)


def test_where_a_vm_cannot_run_it_is_not_moved(vcenter: FakeVcenter, instance: Any) -> None:
    vm = find_vm(instance, vcenter, "web")
    checker = instance.content.vmProvisioningChecker

    def errors(name: str) -> set[Any]:
        (result,) = done(checker.CheckMigrate_Task(vm, find_host(instance, name)))
        return {type(one) for one in result.error}

    lonely = {vim.fault.CannotAccessVmDisk, vim.fault.CannotAccessNetwork, vim.fault.VMotionNotConfigured}
    assert errors("esx-2") == set()
    assert errors("esx-lonely") == lonely
    assert errors("esx-amd") == {vim.fault.CpuIncompatible}
    assert errors("esx-old") == {vim.fault.FeatureRequirementsNotMet}
    task = vm.MigrateVM_Task(host=find_host(instance, "esx-old"), priority=PRIORITY)
    assert isinstance(failed(task), vim.fault.FeatureRequirementsNotMet)
    vcenter.world.connect(vcenter.host("esx-2"), "notResponding")
    assert errors("esx-2") == {vmodl.fault.HostNotConnected}
    spec = vim.vm.RelocateSpec(host=find_host(instance, "esx-amd"))
    (result,) = done(checker.CheckRelocate_Task(find_vm(instance, vcenter, "db"), spec))
    assert not result.error, "a VM that is off needs no particular CPU"


def test_faults_of_the_vendor_and_permissions_on_moving(vcenter: FakeVcenter, instance: Any) -> None:
    vm, host = find_vm(instance, vcenter, "web"), find_host(instance, "esx-2")
    for name in ("vim.fault.NoCompatibleHost", "vim.fault.InsufficientMemoryResourcesFault"):
        vcenter.faults.fail_task("MigrateVM_Task", name)
        assert type(failed(vm.MigrateVM_Task(host=host, priority=PRIORITY))).__name__ == name
    vcenter.faults.fail_task("MigrateVM_Task", "")
    vcenter.faults.deny("Resource.HotMigrate")
    with raises(vim.fault.NoPermission):
        vm.MigrateVM_Task(host=host, priority=PRIORITY)
    done(find_vm(instance, vcenter, "db").MigrateVM_Task(host=host, priority=PRIORITY))


def test_maintenance_waits_for_who_moves_the_vms(vcenter: FakeVcenter, instance: Any) -> None:
    vm, host, other = find_vm(instance, vcenter, "web"), find_host(instance, "esx-1"), find_host(instance, "esx-2")
    task = host.EnterMaintenanceMode_Task(timeout=0, evacuatePoweredOffVms=False)
    eventually(lambda: task.info.progress == 99)
    assert not host.runtime.inMaintenanceMode
    with raises(vim.fault.InvalidHostState):
        find_vm(instance, vcenter, "db").PowerOnVM_Task()
    done(vm.MigrateVM_Task(host=other, priority=PRIORITY))
    done(task)
    assert host.runtime.inMaintenanceMode
    assert isinstance(failed(vm.MigrateVM_Task(host=host, priority=PRIORITY)), vim.fault.InvalidHostState)
    with raises(vim.fault.InvalidState):
        host.EnterMaintenanceMode_Task(timeout=0)
    done(host.ExitMaintenanceMode_Task(timeout=0))
    assert not host.runtime.inMaintenanceMode
    with raises(vim.fault.InvalidState):
        host.ExitMaintenanceMode_Task(timeout=0)


def test_maintenance_is_cancelled_and_times_out(vcenter: FakeVcenter, instance: Any) -> None:
    host = find_host(instance, "esx-1")
    task = host.EnterMaintenanceMode_Task(timeout=0)
    task.CancelTask()
    assert isinstance(failed(task), vmodl.fault.RequestCanceled)
    assert isinstance(failed(host.EnterMaintenanceMode_Task(timeout=1)), vim.fault.Timedout)
    assert not host.runtime.inMaintenanceMode
    assert vcenter.host("esx-1").entering == 0
    vcenter.faults.deny("Host.Config.Maintenance", "esx-1")
    with raises(vim.fault.NoPermission):
        host.EnterMaintenanceMode_Task(timeout=0)


def test_with_drs_the_platform_moves_them_itself() -> None:
    hosts = [HostPlan("esx-1", "Auto"), HostPlan("esx-2", "Auto")]
    vms = [VmPlan("a", "esx-1"), VmPlan("b", "esx-1"), VmPlan("off", "esx-1", powered_on=False)]
    plan = [ClusterPlan("Auto", drs=True)]
    with FakeVcenter(hosts, vms, clusters=plan, task_seconds=0.02) as vcenter, logged_in(vcenter) as instance:
        host = find_host(instance, "esx-1")
        done(host.EnterMaintenanceMode_Task(timeout=0, evacuatePoweredOffVms=False))
        assert [vm.name for vm in host.vm] == ["off"]
        assert len(find_host(instance, "esx-2").vm) == 2


def config(**values: Any) -> Any:
    return vim.vm.ConfigSpec(**values)


def test_hot_add_only_grows_within_the_rules(vcenter: FakeVcenter, instance: Any) -> None:
    vm = find_vm(instance, vcenter, "web")
    done(vm.ReconfigVM_Task(config(memoryMB=8192, numCPUs=4)))
    assert (vm.config.hardware.memoryMB, vm.config.hardware.numCPU) == (8192, 4)
    power, sizes = vim.fault.InvalidPowerState, vim.fault.MemorySizeNotSupported
    assert isinstance(failed(vm.ReconfigVM_Task(config(memoryMB=4096))), power)
    assert isinstance(failed(vm.ReconfigVM_Task(config(memoryHotAddEnabled=False))), power)
    assert isinstance(failed(vm.ReconfigVM_Task(config(numCPUs=2))), vim.fault.CpuHotPlugNotSupported)
    assert isinstance(failed(vm.ReconfigVM_Task(config(memoryMB=8192 + 4))), vmodl.fault.InvalidArgument)
    assert isinstance(failed(vm.ReconfigVM_Task(config(memoryMB=4096 * 16 + 128))), sizes), "16 times at most"
    assert isinstance(failed(vm.ReconfigVM_Task(config(numCPUs=64))), vim.fault.NumVirtualCpusExceedsLimit)
    assert vm.config.hardware.memoryMB == 8192


def test_a_small_linux_guest_stays_below_three_gigabytes(vcenter: FakeVcenter, instance: Any) -> None:
    vcenter.world.add_vm(VmPlan("small", "esx-1", memory_mib=1024))
    vm = find_vm(instance, vcenter, "small")
    done(vm.ReconfigVM_Task(config(memoryMB=3072)))
    assert isinstance(failed(vm.ReconfigVM_Task(config(memoryMB=3200))), vim.fault.MemorySizeNotSupported)
    done(vm.PowerOffVM_Task())
    assert vm.config.hotPlugMemoryLimit is None
    done(vm.ReconfigVM_Task(config(memoryMB=4096)))
    done(vm.PowerOnVM_Task())
    assert vm.config.hotPlugMemoryLimit == 65536


def test_flags_change_while_it_is_off(vcenter: FakeVcenter, instance: Any) -> None:
    vm = find_vm(instance, vcenter, "db")
    done(vm.ReconfigVM_Task(config(memoryHotAddEnabled=False, cpuHotAddEnabled=False, memoryMB=2048, numCPUs=1)))
    done(vm.PowerOnVM_Task())
    task = vm.ReconfigVM_Task(config(memoryMB=2176))
    assert isinstance(failed(task), vim.fault.MemoryHotPlugNotSupported)
    assert isinstance(failed(vm.ReconfigVM_Task(config(numCPUs=2))), vim.fault.CpuHotPlugNotSupported)


def test_shares_limits_and_concurrent_changes(vcenter: FakeVcenter, instance: Any) -> None:
    vm = find_vm(instance, vcenter, "web")
    before = vm.config.changeVersion
    shares = vim.SharesInfo(level="custom", shares=512)
    done(vm.ReconfigVM_Task(config(cpuAllocation=vim.ResourceAllocationInfo(shares=shares, limit=1500))))
    assert vm.config.cpuAllocation.limit == 1500
    assert vm.config.cpuAllocation.shares.shares == 512
    task = vm.ReconfigVM_Task(config(changeVersion=before, numCPUs=4))
    assert isinstance(failed(task), vim.fault.ConcurrentAccess)
    vcenter.faults.deny("VirtualMachine.Config.Resource")
    with raises(vim.fault.NoPermission):
        vm.ReconfigVM_Task(config(cpuAllocation=vim.ResourceAllocationInfo(limit=-1)))


def test_a_host_leaves_and_returns(vcenter: FakeVcenter, instance: Any) -> None:
    host = find_host(instance, "esx-1")
    done(host.DisconnectHost_Task())
    assert host.runtime.connectionState == "disconnected"
    assert not host.config
    vm = find_vm(instance, vcenter, "web")
    with raises(vmodl.fault.HostNotConnected):
        vm.AcquireTicket("webmks")
    done(host.ReconnectHost_Task())
    assert host.config.product.version == "8.0.2"
