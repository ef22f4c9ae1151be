"""What every driver promises about sizes (cloudops/hypervisors/port.py), as one suite that each inherits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from cloudops.hypervisors.port import (
    CeilingExceeded,
    EndpointSpec,
    Hypervisor,
    HypervisorError,
    InvalidState,
    MemoryDevice,
    MemoryMisaligned,
    MemoryModel,
    NotSupported,
    PowerAction,
    PowerState,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    Shape,
    VcpusNotRemovable,
    VmNotFound,
    VmNotRunning,
)
from tests.hypervisors.contract import eventually, opened

FOLLOW_SECONDS = 60.0
NOBODY = "0b0e6d3c-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Growable:
    """Two VMs of at least 2 vCPUs of at most 4 or more, with a virtio-mem device of 1,536 MiB, a balloon, and room for
    a DIMM: ``running``, whose guest follows, and ``stopped``."""

    spec: EndpointSpec
    running: str
    stopped: str


def virtio_mem(hypervisor: Hypervisor, vm_ref: str) -> MemoryDevice:
    """The VM's one device."""
    (device,) = (one for one in hypervisor.scaling(vm_ref).facts.memory_devices if one.model is MemoryModel.VIRTIO_MEM)
    return device


def request(hypervisor: Hypervisor, vm_ref: str, mib: int) -> None:
    """Asks for so much of the virtio-mem device, and waits until the guest has it."""
    alias = virtio_mem(hypervisor, vm_ref).alias
    hypervisor.resize(vm_ref, ResizeStep(ResizeKind.VIRTIO_MEM, mib, alias))
    assert virtio_mem(hypervisor, vm_ref).requested_mib == mib
    eventually(lambda: virtio_mem(hypervisor, vm_ref).current_mib == mib, FOLLOW_SECONDS)


@contextmanager
def defined_as_before(hypervisor: Hypervisor, vm_ref: str) -> Iterator[Shape]:
    """Puts back what the VM is started as."""
    before = hypervisor.scaling(vm_ref).next_start
    yield before
    hypervisor.define(vm_ref, before)


class SizesContract:
    """What holds whatever means a platform has. Inherit it and provide a ``growable`` fixture."""

    @pytest.fixture
    def growable(self) -> Growable:
        pytest.fail("a driver's suite provides its own VMs")

    @pytest.fixture
    def hypervisor(self, growable: Growable) -> Iterator[Hypervisor]:
        with opened(growable.spec) as hypervisor:
            yield hypervisor

    def test_vcpus_and_speed_asked_for_again_are_as_they_were(self, hypervisor: Hypervisor, growable: Growable) -> None:
        vm = growable.running
        state = hypervisor.scaling(vm)
        for step in (
            ResizeStep(ResizeKind.VCPUS, state.vcpus),
            ResizeStep(ResizeKind.CPU, state.facts.cpu_shares, quota_percent=state.facts.cpu_quota_percent),
        ):
            hypervisor.resize(vm, step)
            again = hypervisor.scaling(vm)
            assert (again.vcpus, again.memory_mib, again.facts) == (state.vcpus, state.memory_mib, state.facts)
            assert again.next_start == state.next_start

    def test_vcpus_do_not_go_beyond_the_ceiling(self, hypervisor: Hypervisor, growable: Growable) -> None:
        state = hypervisor.scaling(growable.running)
        with pytest.raises(CeilingExceeded) as refusal:
            hypervisor.resize(growable.running, ResizeStep(ResizeKind.VCPUS, state.facts.max_vcpus + 1))
        assert refusal.value.detail
        assert "restart" in refusal.value.remedy.lower()
        assert hypervisor.scaling(growable.running).facts == state.facts

    def test_vcpus_grow_and_stay(self, hypervisor: Hypervisor, growable: Growable) -> None:
        before = hypervisor.scaling(growable.running)
        wanted = min(before.facts.max_vcpus, before.vcpus + 1)
        hypervisor.resize(growable.running, ResizeStep(ResizeKind.VCPUS, wanted))
        after = hypervisor.scaling(growable.running)
        assert (after.vcpus, after.next_start.vcpus) == (wanted, wanted)
        assert after.facts.max_vcpus == before.facts.max_vcpus

    def test_cpus_are_weighed_and_limited_where_the_host_can(self, hypervisor: Hypervisor, growable: Growable) -> None:
        vm = growable.running
        can = hypervisor.scaling(vm).cpu_control
        for shares, percent in ((150, 60), (300, 0), (0, 0)):
            hypervisor.resize(vm, ResizeStep(ResizeKind.CPU, shares, quota_percent=percent))
            state = hypervisor.scaling(vm)
            if can:
                assert (state.facts.cpu_shares, state.facts.cpu_quota_percent) == (shares, percent)
                assert (state.next_start.cpu_shares, state.next_start.cpu_quota_percent) == (shares, percent)

    @staticmethod
    def _start(hypervisor: Hypervisor, vm: str) -> None:
        hypervisor.power(vm, PowerAction.START)
        eventually(lambda: hypervisor.vm(vm).power_state is PowerState.RUNNING)

    def test_only_a_running_vm_is_resized(self, hypervisor: Hypervisor, growable: Growable) -> None:
        step = ResizeStep(ResizeKind.VCPUS, 3)
        assert hypervisor.scaling(growable.stopped).power_state is PowerState.OFF
        with pytest.raises(VmNotRunning):
            hypervisor.resize(growable.stopped, step)
        hypervisor.power(growable.running, PowerAction.PAUSE)
        try:
            with pytest.raises(InvalidState):
                hypervisor.resize(growable.running, step)
        finally:
            hypervisor.power(growable.running, PowerAction.RESUME)
        eventually(lambda: hypervisor.vm(growable.running).power_state is PowerState.RUNNING)

    @pytest.mark.parametrize("reference", [NOBODY, "not-a-reference"])
    def test_an_unknown_vm_is_not_found(self, hypervisor: Hypervisor, reference: str) -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: hypervisor.scaling(reference),
            lambda: hypervisor.resize(reference, ResizeStep(ResizeKind.VCPUS, 2)),
            lambda: hypervisor.define(reference, Shape(1, 1, 128)),
        )
        for call in calls:
            with pytest.raises(VmNotFound):
                call()


class ScalingContract(SizesContract):
    """The same on platforms with virtio-mem, DIMMs and a balloon."""

    def test_memory_comes_and_goes_in_blocks_and_the_guest_follows(
        self, hypervisor: Hypervisor, growable: Growable
    ) -> None:
        vm = growable.running
        request(hypervisor, vm, 0)
        before = hypervisor.scaling(vm)
        for mib in (514, 100):
            request(hypervisor, vm, mib)
            after = hypervisor.scaling(vm)
            assert after.memory_mib == before.memory_mib + mib
            eventually(lambda most=after.memory_mib: hypervisor.vm(vm).memory_mib == most)  # type: ignore[misc]
            assert after.facts.balloon_mib == before.facts.balloon_mib
            assert after.next_start == replace(before.next_start, virtio_mem_requested_mib=mib)
            eventually(lambda: hypervisor.scaling(vm).guest.memory_mib is not None, FOLLOW_SECONDS)
            guest = hypervisor.scaling(vm).guest
            assert 0 < (guest.memory_used_mib or 0) < (guest.memory_mib or 0)

    def test_a_dimm_comes_to_stay(self, hypervisor: Hypervisor, growable: Growable) -> None:
        vm, step = growable.running, ResizeStep(ResizeKind.DIMM, 128, "ua-dimm0")
        request(hypervisor, vm, 0)  # libvirt's own figure is wrong if it still moves then
        hypervisor.resize(vm, step)
        state = hypervisor.scaling(vm)
        (dimm,) = (one for one in state.facts.memory_devices if one.model is MemoryModel.DIMM)
        assert (dimm.alias, dimm.size_mib, dimm.current_mib) == ("ua-dimm0", 128, 128)
        assert state.memory_mib == state.facts.balloon_mib + 128
        hypervisor.resize(vm, step)
        assert hypervisor.scaling(vm).facts == state.facts
        with pytest.raises(ResizeFailed, match="ua-dimm0"):
            hypervisor.resize(vm, replace(step, value=256))

    def test_the_balloon_takes_and_gives_back(self, hypervisor: Hypervisor, growable: Growable) -> None:
        vm = growable.running
        request(hypervisor, vm, 0)
        before = hypervisor.scaling(vm)
        boot = before.facts.boot_memory_mib
        for mib in (boot - 16, boot):
            hypervisor.resize(vm, ResizeStep(ResizeKind.BALLOON, mib))
            eventually(lambda most=mib: hypervisor.scaling(vm).facts.balloon_mib == most, FOLLOW_SECONDS)  # type: ignore[misc]
            state = hypervisor.scaling(vm)
            assert state.memory_mib == before.memory_mib - before.facts.balloon_mib + mib
            assert state.next_start.memory_mib == before.next_start.memory_mib - before.facts.balloon_mib + mib

    def test_a_change_made_again_is_harmless(self, hypervisor: Hypervisor, growable: Growable) -> None:
        vm = growable.running
        request(hypervisor, vm, 64)
        state = hypervisor.scaling(vm)
        alias = virtio_mem(hypervisor, vm).alias
        for step in (
            ResizeStep(ResizeKind.VIRTIO_MEM, 64, alias),
            ResizeStep(ResizeKind.VCPUS, state.vcpus),
            ResizeStep(ResizeKind.CPU, state.facts.cpu_shares, quota_percent=state.facts.cpu_quota_percent),
        ):
            hypervisor.resize(vm, step)
            again = hypervisor.scaling(vm)
            assert (again.vcpus, again.memory_mib, again.next_start) == (
                state.vcpus,
                state.memory_mib,
                state.next_start,
            )
            assert again.facts == state.facts

    def test_nothing_goes_beyond_the_ceiling(self, hypervisor: Hypervisor, growable: Growable) -> None:
        vm = growable.running
        request(hypervisor, vm, 0)
        state = hypervisor.scaling(vm)
        device = virtio_mem(hypervisor, vm)
        for step in (
            ResizeStep(ResizeKind.VIRTIO_MEM, device.size_mib + device.block_mib, device.alias),
            ResizeStep(ResizeKind.VCPUS, state.facts.max_vcpus + 1),
            ResizeStep(ResizeKind.DIMM, 128 * 1024, "ua-dimm9"),
            ResizeStep(ResizeKind.BALLOON, state.facts.boot_memory_mib + 1),
        ):
            with pytest.raises(CeilingExceeded) as refusal:
                hypervisor.resize(vm, step)
            assert refusal.value.detail
            assert "restart" in refusal.value.remedy
        after = hypervisor.scaling(vm)
        assert (after.facts, after.next_start) == (state.facts, state.next_start)

    def test_what_does_not_fit_is_refused(self, hypervisor: Hypervisor, growable: Growable) -> None:
        vm = growable.running
        state = hypervisor.scaling(vm)
        alias = virtio_mem(hypervisor, vm).alias
        refused: dict[ResizeStep, type[HypervisorError]] = {
            ResizeStep(ResizeKind.VIRTIO_MEM, 33, alias): MemoryMisaligned,
            ResizeStep(ResizeKind.VIRTIO_MEM, 32, "virtiomem7"): ResizeFailed,
            ResizeStep(ResizeKind.DIMM, 100, "ua-dimm9"): MemoryMisaligned,
            ResizeStep(ResizeKind.MEMORY, 1024): NotSupported,
            ResizeStep(ResizeKind.VCPUS, state.vcpus - state.facts.removable_vcpus - 1): VcpusNotRemovable,
        }
        for step, error in refused.items():
            with pytest.raises(error):
                hypervisor.resize(vm, step)
        assert hypervisor.scaling(vm).facts == state.facts

    def test_a_running_vm_is_defined_anew_and_goes_on_as_it_is(
        self, hypervisor: Hypervisor, growable: Growable
    ) -> None:
        vm = growable.running
        with defined_as_before(hypervisor, vm):
            state = hypervisor.scaling(vm)
            shape = Shape(3, 6, 320, 4096, 8, 2048, 128)
            hypervisor.define(vm, shape)
            after = hypervisor.scaling(vm)
            assert after.next_start == shape
            assert (after.vcpus, after.memory_mib, after.facts) == (state.vcpus, state.memory_mib, state.facts)
            for wrong, error in (
                (replace(shape, max_memory_mib=2048), CeilingExceeded),
                (replace(shape, max_vcpus=2), ResizeFailed),
                (replace(shape, virtio_mem_requested_mib=129), MemoryMisaligned),
                (replace(shape, virtio_mem_requested_mib=4096), ResizeFailed),
            ):
                with pytest.raises(error):
                    hypervisor.define(vm, wrong)
            assert hypervisor.scaling(vm).next_start == shape

    def test_a_vm_that_is_off_starts_as_it_was_defined(self, hypervisor: Hypervisor, growable: Growable) -> None:
        vm = growable.stopped
        with defined_as_before(hypervisor, vm):
            for shape in (Shape(3, 6, 64, 4096, 8, 2048, 128), Shape(2, 2, 48)):
                hypervisor.define(vm, shape)
                assert hypervisor.scaling(vm).next_start == shape
                self._start(hypervisor, vm)
                try:
                    facts = hypervisor.scaling(vm).facts
                    assert (hypervisor.scaling(vm).vcpus, facts.max_vcpus) == (shape.vcpus, shape.max_vcpus)
                    assert (facts.boot_memory_mib, facts.dimm_limit_mib) == (shape.memory_mib, shape.max_memory_mib)
                    found = [(one.size_mib, one.requested_mib) for one in facts.memory_devices]
                    expected = (shape.virtio_mem_mib, shape.virtio_mem_requested_mib)
                    assert found == ([expected] if shape.virtio_mem_mib else [])
                    assert hypervisor.scaling(vm).next_start == shape
                finally:
                    hypervisor.power(vm, PowerAction.STOP)
                    eventually(lambda: hypervisor.vm(vm).power_state is PowerState.OFF)
