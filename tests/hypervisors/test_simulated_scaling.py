"""The simulated driver keeps the contract about sizes; its guests follow late, in part or never; its steps fail."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudops.hypervisors import simulated
from cloudops.hypervisors.port import (
    Busy,
    CeilingExceeded,
    EndpointSpec,
    EventKind,
    GuestDidNotFollow,
    Hypervisor,
    Kind,
    MemoryDevice,
    MemoryInUse,
    MemoryModel,
    MigrationOptions,
    MigrationTarget,
    NotSupported,
    PowerAction,
    PowerState,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    ScalingFacts,
    Shape,
    SlotsExhausted,
    TimedOut,
    VcpusNotRemovable,
    VmFacts,
)
from cloudops.hypervisors.simulated import ResizeFault, SimulatedGuest
from tests.hypervisors.contract import Events, opened
from tests.hypervisors.scaling_contract import Growable, ScalingContract

DEVICE = "ua-virtiomem0"
_numbers = itertools.count()


def _spec(uri: str) -> EndpointSpec:
    return EndpointSpec(key=uri, kind=Kind.SIMULATED, uri=uri, timeout_seconds=3.0)


def growable(host_ref: str, ref: str, power: PowerState = PowerState.RUNNING) -> VmFacts:
    """2 vCPUs of 6, 512 MiB, a virtio-mem device of 1,536 MiB, a balloon, and room for DIMMs."""
    device = MemoryDevice(DEVICE, MemoryModel.VIRTIO_MEM, 1_536, 0, 0, 2)
    told = ScalingFacts(
        max_vcpus=6,
        max_memory_mib=4_096,
        memory_slots=8,
        memory_slots_used=1,
        boot_memory_mib=512,
        balloon_mib=512,
        has_balloon=True,
        dimm_limit_mib=4_096,
        memory_devices=(device,),
    )
    return VmFacts(ref, f"vm-{ref}", host_ref, power, 2, 512, scaling=told)


class TestSimulatedScaling(ScalingContract):
    @pytest.fixture(params=["memory", "file"])
    def growable(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Growable]:
        uri = f"simulated://scaling{next(_numbers)}?hosts=1&vms=0"
        if request.param == "file":
            uri += f"&state={tmp_path / 'fleet.sqlite'}"
        with opened(_spec(uri)) as hypervisor:
            host = hypervisor.hosts()[0].ref
        simulated.put_vm(uri, growable(host, "running"))
        simulated.put_vm(uri, growable(host, "stopped", PowerState.OFF))
        yield Growable(_spec(uri), "running", "stopped")
        simulated.reset(uri)


@pytest.fixture
def uri() -> Iterator[str]:
    uri = f"simulated://sizes{next(_numbers)}?hosts=2&vms=0"
    yield uri
    simulated.reset(uri)


@pytest.fixture
def driver(uri: str) -> Iterator[Hypervisor]:
    with opened(_spec(uri)) as hypervisor:
        simulated.put_vm(uri, growable(hypervisor.hosts()[0].ref, "a"))
        yield hypervisor


@pytest.fixture
def at() -> Iterator[list[float]]:
    """The time, in seconds; whoever changes the number lets time go by."""
    moment = [time.time()]
    simulated.set_clock(lambda: moment[0])
    yield moment
    simulated.set_clock(time.time)


def grow(driver: Hypervisor, mib: int) -> None:
    driver.resize("a", ResizeStep(ResizeKind.VIRTIO_MEM, mib, DEVICE))


def taken(driver: Hypervisor) -> tuple[int, int]:
    """Of the device: what is requested and what the guest has of it."""
    (device,) = driver.scaling("a").facts.memory_devices
    return device.requested_mib, device.current_mib


def test_a_guest_that_follows_late(driver: Hypervisor, uri: str, at: list[float]) -> None:
    simulated.set_guest(uri, "a", SimulatedGuest(after_seconds=10))
    grow(driver, 256)
    driver.resize("a", ResizeStep(ResizeKind.VCPUS, 4))
    before = driver.scaling("a")
    assert (taken(driver), before.memory_mib, before.guest.vcpus, before.vcpus) == ((256, 0), 512, 2, 4)
    assert (driver.vm("a").memory_mib, driver.vms()[0].memory_mib) == (512, 512)
    at[0] += 11
    after = driver.scaling("a")
    assert (taken(driver), after.memory_mib, after.guest.memory_mib, after.guest.vcpus) == ((256, 256), 768, 768, 4)
    assert driver.vms()[0].memory_mib == 768


def test_a_guest_that_never_follows_and_one_that_takes_a_part(driver: Hypervisor, uri: str) -> None:
    simulated.set_guest(uri, "a", SimulatedGuest(follows=False))
    grow(driver, 256)
    assert taken(driver) == (256, 0)
    simulated.set_guest(uri, "a", SimulatedGuest(share=0.5))
    assert taken(driver) == (256, 128)
    grow(driver, 256)  # asked again it takes half of the rest
    assert taken(driver) == (256, 192)
    with pytest.raises(ResizeFailed, match="plugged"):
        driver.resize("a", ResizeStep(ResizeKind.BALLOON, 400))
    simulated.set_guest(uri, "a", SimulatedGuest())
    assert taken(driver) == (256, 256)


def test_a_balloon_that_is_slow(driver: Hypervisor, uri: str, at: list[float]) -> None:
    simulated.set_guest(uri, "a", SimulatedGuest(used_mib=100, after_seconds=5))
    driver.resize("a", ResizeStep(ResizeKind.BALLOON, 300))
    assert (driver.scaling("a").facts.balloon_mib, driver.scaling("a").memory_mib) == (512, 512)
    at[0] += 6
    assert (driver.scaling("a").facts.balloon_mib, driver.scaling("a").memory_mib) == (300, 300)


def test_a_guest_that_tells_nothing(driver: Hypervisor, uri: str) -> None:
    assert driver.scaling("a").guest.memory_used_mib == 512 // 3
    simulated.set_guest(uri, "a", SimulatedGuest(tells=False, used_mib=300))
    assert driver.scaling("a").guest.memory_used_mib is None
    with pytest.raises(MemoryInUse) as refused:  # it uses it all the same
        driver.resize("a", ResizeStep(ResizeKind.BALLOON, 299))
    assert refused.value.numbers == {"used": 300, "left": 299}


@pytest.mark.parametrize("applied", [False, True])
def test_a_step_fails_as_it_was_told_to(driver: Hypervisor, uri: str, applied: bool) -> None:
    fault = ResizeFault(TimedOut, "no answer", kind=ResizeKind.VIRTIO_MEM, vm_ref="a", applied=applied)
    simulated.add_resize_fault(uri, fault)
    driver.resize("a", ResizeStep(ResizeKind.VCPUS, 3))  # another kind
    with pytest.raises(TimedOut, match="no answer"):
        grow(driver, 256)
    assert taken(driver)[0] == (256 if applied else 0)
    grow(driver, 256)
    simulated.add_resize_fault(uri, ResizeFault(GuestDidNotFollow, count=5))
    with pytest.raises(GuestDidNotFollow):
        grow(driver, 0)
    simulated.clear_resize_faults(uri)
    grow(driver, 0)
    assert taken(driver) == (0, 0)


def test_slots_run_out_before_room_does(driver: Hypervisor) -> None:
    for number in range(7):
        driver.resize("a", ResizeStep(ResizeKind.DIMM, 128, f"ua-dimm{number}"))
    with pytest.raises(SlotsExhausted) as refused:
        driver.resize("a", ResizeStep(ResizeKind.DIMM, 128, "ua-dimm7"))
    assert refused.value.numbers == {"slots": 8, "used": 8}
    assert driver.scaling("a").memory_mib == 512 + 7 * 128


def test_vcpus_that_came_while_it_ran_may_leave(driver: Hypervisor) -> None:
    driver.resize("a", ResizeStep(ResizeKind.VCPUS, 4))
    assert driver.scaling("a").facts.removable_vcpus == 2
    driver.resize("a", ResizeStep(ResizeKind.VCPUS, 2))
    with pytest.raises(VcpusNotRemovable):
        driver.resize("a", ResizeStep(ResizeKind.VCPUS, 1))
    with pytest.raises(ResizeFailed):
        driver.resize("a", ResizeStep(ResizeKind.VCPUS, 0))


def test_a_vm_without_headroom_grows_only_back_to_what_it_was_started_with(driver: Hypervisor, uri: str) -> None:
    host = driver.hosts()[0].ref
    told = ScalingFacts(2, 512, boot_memory_mib=512, balloon_mib=256, has_balloon=True)
    simulated.put_vm(uri, VmFacts("b", "b", host, PowerState.RUNNING, 1, 256, scaling=told))
    driver.resize("b", ResizeStep(ResizeKind.BALLOON, 512))
    assert driver.vm("b").memory_mib == 512
    for step in (ResizeStep(ResizeKind.BALLOON, 514), ResizeStep(ResizeKind.DIMM, 128, "ua-dimm0")):
        with pytest.raises(CeilingExceeded):
            driver.resize("b", step)
    simulated.put_vm(uri, VmFacts("c", "c", host, PowerState.RUNNING, 1, 256))
    with pytest.raises(NotSupported):
        driver.resize("c", ResizeStep(ResizeKind.VCPUS, 2))


def test_a_restart_gives_what_was_defined_and_a_reboot_does_not(driver: Hypervisor) -> None:
    shape = Shape(3, 4, 1_025, 4_096, 8, 2_048, 0, 150, 60)
    driver.define("a", shape)
    for action in (PowerAction.REBOOT, PowerAction.RESET):
        driver.power("a", action)
        assert driver.vm("a").memory_mib == 512
    driver.power("a", PowerAction.SHUTDOWN)
    driver.power("a", PowerAction.START)
    state = driver.scaling("a")
    assert (state.vcpus, state.memory_mib, state.facts.cpu_shares, state.facts.cpu_quota_percent) == (3, 1_025, 150, 60)
    assert (state.facts.dimm_limit_mib, state.facts.memory_slots_used, state.next_start) == (4_096, 1, shape)


def test_what_was_changed_live_stays_after_a_restart(driver: Hypervisor) -> None:
    driver.resize("a", ResizeStep(ResizeKind.VCPUS, 3))
    grow(driver, 256)
    driver.resize("a", ResizeStep(ResizeKind.DIMM, 128, "ua-dimm0"))
    driver.power("a", PowerAction.STOP)
    driver.power("a", PowerAction.START)
    state = driver.scaling("a")
    assert (state.vcpus, state.memory_mib, state.facts.boot_memory_mib) == (3, 512 + 128 + 256, 640)


def test_sizes_and_guests_move_with_the_vm(driver: Hypervisor, uri: str, at: list[float]) -> None:
    simulated.set_guest(uri, "a", SimulatedGuest(share=0.5, used_mib=77))
    driver.define("a", Shape(2, 6, 2_000))
    grow(driver, 256)
    target = MigrationTarget(_spec(uri), driver.hosts()[1].ref, uri)
    driver.migrate("a", target, MigrationOptions())
    with pytest.raises(Busy):
        grow(driver, 512)
    with pytest.raises(Busy):
        driver.define("a", Shape(1, 1, 100))
    at[0] += 60
    state = driver.scaling("a")
    assert driver.vm("a").host_ref == driver.hosts()[1].ref
    assert (taken(driver), state.guest.memory_used_mib) == ((256, 128), 77)
    assert state.next_start == Shape(2, 6, 2_000, virtio_mem_requested_mib=256)


def test_a_change_is_told_as_an_event(driver: Hypervisor) -> None:
    events = Events()
    cancel = driver.subscribe(events)
    grow(driver, 64)
    events.wait(EventKind.VM_CHANGED, "a")
    cancel()


def test_memory_as_a_whole(driver: Hypervisor, uri: str) -> None:
    """As on vSphere: it only grows, in steps, to 16 times what it was started with, and Linux no further than 3 GiB."""
    host = driver.hosts()[0].ref
    told = ScalingFacts(4, 65_536, boot_memory_mib=256, memory_step_mib=4, cpu_hot_add=False)
    vm = VmFacts("v", "v", host, PowerState.RUNNING, 1, 256, scaling=told, guest_os="Debian 12")
    simulated.put_vm(uri, vm)
    driver.resize("v", ResizeStep(ResizeKind.MEMORY, 1_024))
    assert (driver.vm("v").memory_mib, driver.scaling("v").next_start.memory_mib) == (1_024, 1_024)
    for value, error in ((512, ResizeFailed), (1_026, ResizeFailed), (3_076, CeilingExceeded)):
        with pytest.raises(error):
            driver.resize("v", ResizeStep(ResizeKind.MEMORY, value))
    with pytest.raises(ResizeFailed, match="hot plug"):
        driver.resize("v", ResizeStep(ResizeKind.VCPUS, 2))
    simulated.put_vm(uri, replace(vm, guest_os="Windows"))
    with pytest.raises(CeilingExceeded, match="4096"):
        driver.resize("v", ResizeStep(ResizeKind.MEMORY, 4_100))
    simulated.put_vm(uri, replace(vm, scaling=replace(told, memory_hot_add=False)))
    with pytest.raises(ResizeFailed, match="Memory hot plug"):
        driver.resize("v", ResizeStep(ResizeKind.MEMORY, 512))


def test_a_fleet_has_vms_with_headroom_of_every_kind() -> None:
    with opened(_spec("simulated://kinds?hosts=2&vms=10")) as hypervisor:
        told = [vm.scaling for vm in hypervisor.vms() if vm.scaling is not None]
    assert len(told) == 20
    kinds = [(bool(one.memory_devices), bool(one.memory_slots)) for one in told]
    assert (kinds.count((True, True)), kinds.count((False, True)), kinds.count((False, False))) == (12, 4, 4)
    assert all(one.memory_slots_used == len(one.memory_devices) for one in told)
