"""The libvirt driver changes the size of real guests, which tell over their serial line what they see of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest

from cloudops.hypervisors.libvirt.scaling_errors import typed
from cloudops.hypervisors.port import (
    Busy,
    CeilingExceeded,
    EndpointSpec,
    Hypervisor,
    HypervisorError,
    Kind,
    MigrationOptions,
    MigrationState,
    MigrationTarget,
    PowerAction,
    PowerState,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    Shape,
    SlotsExhausted,
    VcpusNotRemovable,
)
from cloudops.lab import libvirtd, serial_line
from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab
from cloudops.lab.libvirtd import LibvirtHost
from tests.hypervisors.conftest import LibvirtLab
from tests.hypervisors.contract import eventually, opened
from tests.hypervisors.migration_contract import ended
from tests.hypervisors.scaling_contract import FOLLOW_SECONDS, Growable, ScalingContract, request, virtio_mem
from tests.lab.fixtures import BOOT_SECONDS, guest_image, start_host

pytestmark = pytest.mark.real


def _spec(uri: str) -> EndpointSpec:
    return EndpointSpec(key=uri, kind=Kind.LIBVIRT, uri=uri, timeout_seconds=10.0)


def _memory_kib(host: LibvirtHost, name: str) -> int:
    """What the guest's kernel has at this moment, in its own words."""
    terminal = Path(host.virsh("ttyconsole", name))
    return int(serial_line.ask(terminal, host.serial_log(name), "grep MemTotal /proc/meminfo").split()[1])


def _seen(host: LibvirtHost, name: str) -> tuple[int, int]:
    """What the guest last told of itself: memory in KiB, and CPUs."""
    said = re.findall(r"GUEST memory_kib=(\d+) cpus=([\d-]+)", host.serial_log(name).read_text(errors="replace"))
    memory_kib, cpus = said[-1]
    return int(memory_kib), int(cpus.rpartition("-")[2]) + 1


@pytest.fixture(scope="module")
def growing(libvirt_lab: LibvirtLab) -> Iterator[Growable]:
    host = libvirt_lab.host
    linux = GuestSpec("grower", guest_image(), memory_mib=256, vcpus=2, max_vcpus=6)
    running = host.ensure_guest(linux)
    stopped = host.ensure_guest(GuestSpec("resting", memory_mib=32, vcpus=2), start=False)
    host.wait_booted("grower", timeout_seconds=BOOT_SECONDS)
    yield Growable(_spec(libvirt_lab.uris["unix"]), running, stopped)
    for name in ("grower", "resting"):
        host.remove_guest(name)


class TestLibvirtScaling(ScalingContract):
    @pytest.fixture
    def growable(self, growing: Growable) -> Growable:
        return growing

    def test_the_guest_sees_what_we_say(
        self, hypervisor: Hypervisor, growable: Growable, libvirt_lab: LibvirtLab
    ) -> None:
        """MemTotal moves by exactly what is plugged, and vCPUs come beside it."""
        host, vm = libvirt_lab.host, growable.running
        request(hypervisor, vm, 0)
        start_kib = _memory_kib(host, "grower")
        vcpus = min(6, hypervisor.scaling(vm).vcpus + 1)
        hypervisor.resize(vm, ResizeStep(ResizeKind.VCPUS, vcpus))
        request(hypervisor, vm, 770)
        eventually(lambda: _seen(host, "grower") == (start_kib + 770 * 1024, vcpus), FOLLOW_SECONDS)

    def test_a_restarted_guest_has_from_the_start_what_is_requested(
        self, hypervisor: Hypervisor, growable: Growable, libvirt_lab: LibvirtLab
    ) -> None:
        host, vm = libvirt_lab.host, growable.running
        hypervisor.define(vm, Shape(2, 6, 256, 2048, 8, 1536, 256))
        hypervisor.power(vm, PowerAction.SHUTDOWN)
        eventually(lambda: hypervisor.vm(vm).power_state is PowerState.OFF, FOLLOW_SECONDS)
        hypervisor.power(vm, PowerAction.START)
        eventually(lambda: virtio_mem(hypervisor, vm).current_mib == 256, FOLLOW_SECONDS)
        assert hypervisor.scaling(vm).memory_mib == 512
        grown_kib = _memory_kib(host, "grower")
        request(hypervisor, vm, 0)
        assert _memory_kib(host, "grower") == grown_kib - 256 * 1024


def _handle(host: LibvirtHost) -> Any:
    """libvirt itself, past the driver."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    return libvirt.open(host.uri)


_DIMM = "<memory model='dimm'><target><size unit='MiB'>{}</size><node>0</node></target></memory>"


def _refusal(call: Callable[[], object]) -> HypervisorError:
    with pytest.raises(HypervisorError) as caught, typed():
        call()
    return caught.value


def test_libvirts_own_refusals_are_typed(libvirt_lab: LibvirtLab) -> None:
    """Forced on a running guest, past whatever we check before."""
    host = libvirt_lab.host
    host.ensure_guest(GuestSpec("forced", memory_mib=32, vcpus=2))
    handle = _handle(host)
    live, config = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
    try:
        domain = handle.lookupByName("forced")
        xml = ET.fromstring(domain.XMLDesc(0)).find("devices/memory")  # noqa: S314
        assert xml is not None
        beyond = ET.tostring(xml, encoding="unicode").replace('<requested unit="KiB">0<', '<requested unit="GiB">9<')
        forced: list[tuple[Callable[[], object], type[HypervisorError], int]] = [
            (lambda: domain.attachDeviceFlags(_DIMM.format(4096), live), CeilingExceeded, 67),
            (lambda: domain.attachDeviceFlags(_DIMM.format(4096), config), CeilingExceeded, 67),
            (lambda: domain.setVcpusFlags(9, live), CeilingExceeded, 8),
            (lambda: domain.setVcpusFlags(9, config), CeilingExceeded, 8),
            (lambda: domain.setMemoryFlags(4 << 20, live), CeilingExceeded, 8),
            (lambda: domain.setMemoryFlags(4 << 20, live | libvirt.VIR_DOMAIN_MEM_MAXIMUM), CeilingExceeded, 55),
            (lambda: domain.updateDeviceFlags(beyond, live), CeilingExceeded, 35),
            (lambda: domain.attachDeviceFlags("<memory model='dimm'/>", live), ResizeFailed, 27),
            (lambda: domain.setVcpusFlags(1, live), VcpusNotRemovable, 67),
        ]
        for call, expected, code in forced:
            error = _refusal(call)
            assert (type(error), error.platform_code) == (expected, f"libvirt-{code}"), error
            assert error.detail
            assert error.remedy
        domain.setVcpusFlags(3, live)
        error = _refusal(lambda: domain.setVcpusFlags(2, live))  # nobody in the guest who could let go of it
        assert (type(error), error.platform_code) == (ResizeFailed, "libvirt-1"), error
    finally:
        handle.close()
        host.remove_guest("forced")


def test_a_vm_without_headroom_says_so_and_gets_it_at_its_next_start(libvirt_lab: LibvirtLab) -> None:
    host = libvirt_lab.host
    vm = host.ensure_guest(GuestSpec("tight", memory_mib=32, headroom=False, vnc_password="s3cret-1"))
    try:
        with opened(_spec(libvirt_lab.uris["unix"])) as hypervisor:
            has_controller = '["cpu"]' in (host.state_dir / "etc/qemu.conf").read_text()
            assert hypervisor.scaling(vm).cpu_control == has_controller
            facts = hypervisor.scaling(vm).facts
            assert (facts.max_vcpus, facts.max_memory_mib, facts.dimm_limit_mib, facts.memory_devices) == (1, 32, 0, ())
            for step in (ResizeStep(ResizeKind.DIMM, 128, "ua-dimm0"), ResizeStep(ResizeKind.VCPUS, 2)):
                with pytest.raises(CeilingExceeded):
                    hypervisor.resize(vm, step)
            # A slot for the device alone: none is left for a DIMM.
            hypervisor.define(vm, Shape(2, 4, 64, 2048, 1, 512, 256))
            assert hypervisor.scaling(vm).facts == facts
            hypervisor.power(vm, PowerAction.STOP)
            hypervisor.power(vm, PowerAction.START)
            state = hypervisor.scaling(vm)
            assert (state.vcpus, state.facts.max_vcpus, state.facts.boot_memory_mib) == (2, 4, 64)
            assert virtio_mem(hypervisor, vm).requested_mib == 256
            with pytest.raises(SlotsExhausted):
                hypervisor.resize(vm, ResizeStep(ResizeKind.DIMM, 128, "ua-dimm0"))
            xml = host.virsh("dumpxml", "tight", "--inactive", "--security-info")
            assert "passwd='s3cret-1'" in xml
            host.virsh("managedsave", "tight")
            with pytest.raises(ResizeFailed, match="saved") as refusal:
                hypervisor.define(vm, Shape(1, 1, 64))
            assert "managedsave-remove" in refusal.value.remedy
    finally:
        host.remove_guest("tight")


def test_a_guest_that_moves_keeps_its_size_and_is_busy_meanwhile(lab_of_two: Lab) -> None:
    lab = lab_of_two
    lab.reset()
    vm = lab.boot(GuestSpec("nomad", guest_image(), memory_mib=256), on="kvm-01", wait=True)
    there = MigrationTarget(_spec(lab.uri("kvm-02")), lab.host("kvm-02").uuid, lab.uri("kvm-02"))
    with opened(_spec(lab.uri("kvm-01"))) as source, opened(_spec(lab.uri("kvm-02"))) as destination:
        source.resize(vm, ResizeStep(ResizeKind.VCPUS, 2))
        request(source, vm, 258)
        grown_kib = _memory_kib(lab.host("kvm-01"), "nomad")
        before = source.scaling(vm)
        alias = virtio_mem(source, vm).alias
        source.migrate(vm, there, MigrationOptions(bandwidth_mib_per_second=1))
        with pytest.raises(Busy):
            source.resize(vm, ResizeStep(ResizeKind.VIRTIO_MEM, 300, alias))
        with pytest.raises(Busy):
            source.define(vm, before.next_start)
        source.abort_migration(vm)
        ended(source, vm)
        source.migrate(vm, there, MigrationOptions())
        assert ended(source, vm).state is MigrationState.COMPLETED
        after = destination.scaling(vm)
        assert (after.vcpus, after.memory_mib, after.facts) == (before.vcpus, before.memory_mib, before.facts)
        assert after.next_start == before.next_start
        assert _memory_kib(lab.host("kvm-02"), "nomad") == grown_kib
        request(destination, vm, 320)
        eventually(lambda: _memory_kib(lab.host("kvm-02"), "nomad") == grown_kib + (320 - 258) * 1024, FOLLOW_SECONDS)
    lab.reset()


def test_without_a_cpu_controller_everything_else_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(libvirtd, "make_cpu_cgroup", lambda _name: None)
    host = start_host("plain")
    try:
        vm = host.ensure_guest(GuestSpec("light", memory_mib=32))
        with opened(_spec(host.uri)) as hypervisor:
            assert not hypervisor.scaling(vm).cpu_control
            hypervisor.resize(vm, ResizeStep(ResizeKind.CPU, 500, quota_percent=50))
            hypervisor.resize(vm, ResizeStep(ResizeKind.VCPUS, 2))
            shape = replace(hypervisor.scaling(vm).next_start, cpu_shares=500, cpu_quota_percent=50)
            assert (shape.vcpus, hypervisor.scaling(vm).next_start.cpu_shares) == (2, 0)
            hypervisor.power(vm, PowerAction.STOP)
            hypervisor.define(vm, shape)  # nobody can tell while no VM runs
            assert hypervisor.scaling(vm).next_start == shape
            hypervisor.power(vm, PowerAction.START)
            state = hypervisor.scaling(vm)
            assert (state.power_state, state.cpu_control) == (PowerState.RUNNING, False)
            assert state.next_start == replace(shape, cpu_shares=0, cpu_quota_percent=0)
            hypervisor.define(vm, shape)
            assert hypervisor.scaling(vm).next_start.cpu_shares == 0
    finally:
        host.stop()
