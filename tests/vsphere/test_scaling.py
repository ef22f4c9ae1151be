"""Sizes through the driver: the contract of all drivers, the rules of hot-add, and what is only changed while off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from cloudops.hypervisors.port import (
    CeilingExceeded,
    Hypervisor,
    HypervisorError,
    InvalidState,
    MemoryMisaligned,
    NotSupported,
    PowerAction,
    PowerState,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    Shape,
)
from tests.hypervisors.contract import eventually, opened
from tests.hypervisors.scaling_contract import Growable, SizesContract
from tests.vsphere.fake import FakeVcenter, HostPlan, VmPlan

VMS = (
    VmPlan("running", cpus=2, memory_mib=4096),
    VmPlan("stopped", cpus=2, memory_mib=2048, powered_on=False, cpu_hot_add=False, memory_hot_add=False),
    VmPlan("small", cpus=2, memory_mib=2048),
    VmPlan("windows", cpus=2, memory_mib=2048, guest_name="Microsoft Windows Server 2022", linux=False),
    VmPlan("fixed", cpus=2, memory_mib=4096, cpu_hot_add=False, memory_hot_add=False),
)


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    with FakeVcenter(hosts=[HostPlan("esx-1", cpu_threads=256)], vms=VMS, task_seconds=0.02) as vcenter:
        yield vcenter


class TestVsphereScaling(SizesContract):
    @pytest.fixture
    def growable(self, vcenter: FakeVcenter) -> Growable:
        return Growable(
            vcenter.spec(timeout_seconds=5.0), vcenter.vm("running").instance_uuid, vcenter.vm("stopped").instance_uuid
        )


@pytest.fixture
def driver(vcenter: FakeVcenter) -> Iterator[Hypervisor]:
    with opened(vcenter.spec(timeout_seconds=5.0)) as hypervisor:
        yield hypervisor


def memory(mib: int) -> ResizeStep:
    return ResizeStep(ResizeKind.MEMORY, mib)


def test_memory_comes_as_a_whole_and_stays(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    vm = vcenter.vm("running")
    before = driver.scaling(vm.instance_uuid)
    assert (before.facts.max_memory_mib, before.facts.memory_step_mib) == (vm.limit_mib(), vm.increment_mib)
    wanted = 4096 + 3 * before.facts.memory_step_mib
    for _ in range(2):  # asked again it is as it was
        driver.resize(vm.instance_uuid, memory(wanted))
        after = driver.scaling(vm.instance_uuid)
        assert (after.memory_mib, after.next_start.memory_mib, vm.memory_mib) == (wanted, wanted, wanted)
    assert vcenter.calls("ReconfigVM_Task") == 1


@pytest.mark.parametrize(
    ("name", "step", "error"),
    [
        ("running", memory(4094), ResizeFailed),
        ("running", memory(4098), MemoryMisaligned),
        ("running", memory(17 * 4096), CeilingExceeded),
        ("small", memory(3072 + 128), CeilingExceeded),
        ("windows", memory(16 * 2048 + 128), CeilingExceeded),
        ("fixed", memory(8192), ResizeFailed),
        ("fixed", ResizeStep(ResizeKind.VCPUS, 3), ResizeFailed),
        ("running", ResizeStep(ResizeKind.VIRTIO_MEM, 64, "x"), NotSupported),
        ("running", ResizeStep(ResizeKind.BALLOON, 64), NotSupported),
        ("running", ResizeStep(ResizeKind.DIMM, 128, "ua-dimm0"), NotSupported),
    ],
)
def test_what_hot_add_does_not_allow_is_refused_before_vsphere_is_asked(
    vcenter: FakeVcenter, driver: Hypervisor, name: str, step: ResizeStep, error: type[HypervisorError]
) -> None:
    vm = vcenter.vm(name)
    with pytest.raises(error) as refusal:
        driver.resize(vm.instance_uuid, step)
    assert refusal.value.detail
    assert refusal.value.remedy
    assert "libvirt" not in refusal.value.remedy
    assert vcenter.calls("ReconfigVM_Task") == 0


def test_linux_below_its_wall_and_others_beyond_it(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    for name, most in (("small", 3072), ("windows", 16 * 2048)):
        ref = vcenter.vm(name).instance_uuid
        assert driver.scaling(ref).facts.max_memory_mib == most
        driver.resize(ref, memory(most))
        assert driver.scaling(ref).memory_mib == most


def test_a_running_vm_is_not_defined_and_says_what_to_do(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    vm = vcenter.vm("fixed")
    same = driver.scaling(vm.instance_uuid).next_start
    driver.define(vm.instance_uuid, same)  # nothing is to be changed
    for shape in (replace(same, vcpus=1, max_vcpus=1), replace(same, max_vcpus=8), replace(same, max_memory_mib=8192)):
        with pytest.raises(InvalidState, match="only while it is off") as refusal:
            driver.define(vm.instance_uuid, shape)
        assert "Shut the VM down" in refusal.value.remedy
    assert vcenter.calls("ReconfigVM_Task") == 0


def test_off_it_is_given_size_speed_and_hot_add_at_once(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    vm = vcenter.vm("stopped")
    driver.define(vm.instance_uuid, Shape(1, 4, 1024, max_memory_mib=8192, cpu_shares=100, cpu_quota_percent=50))
    state = driver.scaling(vm.instance_uuid)
    assert (vm.cpus, vm.memory_mib, vm.cpu_hot_add, vm.memory_hot_add) == (1, 1024, True, True)
    assert (state.facts.cpu_shares, state.facts.cpu_quota_percent) == (100, 50)
    assert (state.next_start.vcpus, state.next_start.memory_mib) == (1, 1024)
    driver.define(vm.instance_uuid, Shape(2, 2, 512))
    assert (vm.cpus, vm.memory_mib, vm.cpu_shares_level, vm.cpu_limit_mhz) == (2, 512, "normal", -1)
    assert (vm.cpu_hot_add, vm.memory_hot_add) == (True, True)  # what is on stays on
    driver.power(vm.instance_uuid, PowerAction.START)
    eventually(lambda: driver.vm(vm.instance_uuid).power_state is PowerState.RUNNING)
    driver.resize(vm.instance_uuid, ResizeStep(ResizeKind.VCPUS, 3))
    assert driver.scaling(vm.instance_uuid).vcpus == 3


@pytest.mark.parametrize(
    ("shape", "error"),
    [(Shape(2, 1, 512), ResizeFailed), (Shape(1, 1, 514), MemoryMisaligned), (Shape(0, 1, 512), ResizeFailed)],
)
def test_what_no_vm_can_be_is_refused(
    vcenter: FakeVcenter, driver: Hypervisor, shape: Shape, error: type[HypervisorError]
) -> None:
    with pytest.raises(error):
        driver.define(vcenter.vm("stopped").instance_uuid, shape)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("vim.fault.InsufficientMemoryResourcesFault", "destination-out-of-space"),
        ("vim.fault.MemoryHotPlugNotSupported", "resize-failed"),
        ("vim.fault.CpuHotPlugNotSupported", "resize-failed"),
        ("vim.fault.ConcurrentAccess", "vm-busy"),
        ("vim.fault.InvalidVmConfig", "resize-failed"),
        ("vim.fault.MemorySizeNotSupported", "vm-ceiling-exceeded"),
    ],
)
def test_what_vsphere_refuses_is_a_typed_error(vcenter: FakeVcenter, driver: Hypervisor, fault: str, code: str) -> None:
    vcenter.faults.fail_task("ReconfigVM_Task", fault, "In vSphere's own words.")
    with pytest.raises(HypervisorError) as refusal:
        driver.resize(vcenter.vm("running").instance_uuid, memory(8192))
    assert (refusal.value.code, "In vSphere's own words." in str(refusal.value)) == (code, True)
    assert "libvirt" not in refusal.value.remedy
    assert driver.scaling(vcenter.vm("running").instance_uuid).memory_mib == 4096


def test_a_missing_privilege_is_named(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    vcenter.faults.deny("VirtualMachine.Config.Memory", "running")
    with pytest.raises(HypervisorError, match=r"VirtualMachine\.Config\.Memory") as refusal:
        driver.resize(vcenter.vm("running").instance_uuid, memory(8192))
    assert refusal.value.code == "hypervisor-permission"


def test_a_lost_session_changes_nothing_twice_and_nothing_is_lost(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    vm = vcenter.vm("running")
    driver.scaling(vm.instance_uuid)
    vcenter.faults.expire_sessions()
    driver.resize(vm.instance_uuid, memory(8192))
    assert driver.scaling(vm.instance_uuid).memory_mib == 8192
