"""The libvirt driver moves real guests between two real hosts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from cloudops.hypervisors.libvirt import compatibility, migration, reach
from cloudops.hypervisors.port import (
    DestinationUnreachable,
    DiskFacts,
    DiskKind,
    EndpointSpec,
    Kind,
    MigrationInterrupted,
    MigrationOptions,
    MigrationState,
    MigrationTarget,
    PowerState,
    Unreachable,
)
from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab
from cloudops.lab.libvirtd import LibvirtHost
from cloudops.lab.process import ServiceError
from tests.hypervisors.contract import eventually, opened
from tests.hypervisors.migration_contract import LIVE, OFFLINE, MigrationContract, Pair, ended, failure
from tests.lab.fixtures import guest_image

pytestmark = pytest.mark.real
SLOW = MigrationOptions(bandwidth_mib_per_second=1)
OTHER = "5c1e0f8e-0000-4000-8000-00000000000b"


def _spec(lab: Lab, name: str) -> EndpointSpec:
    return EndpointSpec(key=lab.uri(name), kind=Kind.LIBVIRT, uri=lab.uri(name), timeout_seconds=10.0)


def _target(lab: Lab, name: str) -> MigrationTarget:
    return MigrationTarget(_spec(lab, name), lab.host(name).uuid, lab.uri(name))


def _mover(lab: Lab) -> str:
    """A guest that runs on the first host, with enough in its memory that moving it slowly takes a minute."""
    try:
        if lab.where("mover") != "kvm-01":
            lab.reset()
    except ServiceError:
        lab.reset()
    # It need not have booted: its memory is copied all the same.
    return lab.boot(GuestSpec("mover", guest_image()), on="kvm-01")


class TestLibvirtMigration(MigrationContract):
    @pytest.fixture
    def pair(self, lab_of_two: Lab) -> Pair:
        lab = lab_of_two
        running = _mover(lab)
        first, second = lab.host("kvm-01"), lab.host("kvm-02")
        stopped = first.ensure_guest(GuestSpec("still", memory_mib=32), start=False)
        twin = first.ensure_guest(GuestSpec("twin", memory_mib=32), start=False)
        second.ensure_guest(GuestSpec("twin", memory_mib=32, uuid=OTHER), start=False)
        nowhere = EndpointSpec(key="nowhere", kind=Kind.LIBVIRT, uri="qemu+tcp://127.0.0.1:9/system")
        return Pair(
            source=_spec(lab, "kvm-01"),
            destination=_spec(lab, "kvm-02"),
            there=_target(lab, "kvm-02"),
            back=_target(lab, "kvm-01"),
            nowhere=MigrationTarget(nowhere, "", nowhere.uri),
            running=running,
            stopped=stopped,
            twin=twin,
            slow=SLOW,
            break_destination=lambda: lab.kill_libvirtd("kvm-02"),
            mend_destination=lambda: None,  # it comes back by itself
        )


_STARTS_ONE = """
import os, sys
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import EndpointSpec, Kind, MigrationOptions, MigrationTarget
source, destination, ref = sys.argv[1:]
hypervisor = registry.create(EndpointSpec(key="x", kind=Kind.LIBVIRT, uri=source))
target = MigrationTarget(EndpointSpec(key="y", kind=Kind.LIBVIRT, uri=destination), "", destination)
hypervisor.migrate(ref, target, MigrationOptions(bandwidth_mib_per_second=10))
os.kill(os.getpid(), 9)
"""


class TestFaults:
    """What the contract cannot say of every driver."""

    def test_it_goes_on_when_the_process_that_began_it_is_killed(self, lab_of_two: Lab) -> None:
        lab, vm = lab_of_two, _mover(lab_of_two)
        command = [sys.executable, "-c", _STARTS_ONE, lab.uri("kvm-01"), lab.uri("kvm-02"), vm]
        assert subprocess.run(command, check=False, timeout=30).returncode == -9
        with opened(_spec(lab, "kvm-01")) as source, opened(_spec(lab, "kvm-02")) as destination:
            assert source.migration(vm).state is MigrationState.RUNNING
            eventually(lambda: vm not in {one.ref for one in source.vms()}, seconds=40)
            assert source.migration(vm).state is MigrationState.NONE
            assert destination.vm(vm).power_state is PowerState.RUNNING

    @pytest.mark.fault
    def test_a_frozen_destination_is_refused_before_libvirt_waits_for_it(self, lab_of_two: Lab) -> None:
        lab, vm = lab_of_two, _mover(lab_of_two)
        spec = replace(_spec(lab, "kvm-02"), timeout_seconds=3.0)
        with opened(_spec(lab, "kvm-01")) as source:
            lab.freeze("kvm-02")
            try:
                with pytest.raises(DestinationUnreachable):
                    source.migrate(vm, replace(_target(lab, "kvm-02"), spec=spec), LIVE)
            finally:
                lab.thaw("kvm-02")
            assert source.migration(vm).state is MigrationState.NONE

    @pytest.mark.fault
    @pytest.mark.parametrize("fault", ["freeze", "unplug", "crash"])
    def test_a_destination_that_is_lost_on_the_way(self, lab_of_two: Lab, fault: str) -> None:
        lab, vm = lab_of_two, _mover(lab_of_two)
        with opened(_spec(lab, "kvm-01")) as source:
            source.migrate(vm, _target(lab, "kvm-02"), SLOW)
            getattr(lab, fault)("kvm-02")
            try:
                status = ended(source, vm)
                assert isinstance(status.error, MigrationInterrupted), status
                assert source.vm(vm).power_state is PowerState.RUNNING
            finally:
                lab.reset()

    @pytest.mark.fault
    def test_a_source_whose_libvirt_dies_keeps_its_vm(self, lab_of_two: Lab) -> None:
        lab, vm = lab_of_two, _mover(lab_of_two)
        with opened(_spec(lab, "kvm-01")) as source:
            source.migrate(vm, _target(lab, "kvm-02"), SLOW)
            lab.kill_libvirtd("kvm-01")
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    if source.migration(vm).state is not MigrationState.RUNNING:
                        break
                except Unreachable:
                    pass
                time.sleep(0.1)
            status = source.migration(vm)
            assert isinstance(status.error, MigrationInterrupted), status
            assert source.vm(vm).power_state is PowerState.RUNNING
        lab.reset()

    def test_post_copy_ends_for_sure(self, lab_of_two: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(migration, "POST_COPY_ITERATION", 1)
        lab, vm = lab_of_two, _mover(lab_of_two)
        with opened(_spec(lab, "kvm-01")) as source, opened(_spec(lab, "kvm-02")) as destination:
            options = MigrationOptions(bandwidth_mib_per_second=8, post_copy=True)
            source.migrate(vm, _target(lab, "kvm-02"), options)
            seen = []
            while (status := source.migration(vm)).state is MigrationState.RUNNING:
                seen.append(status.post_copy)
                time.sleep(0.05)
            assert status.state is MigrationState.COMPLETED, status
            assert True in seen
            assert destination.vm(vm).power_state is PowerState.RUNNING


def test_a_migration_address_that_leads_elsewhere_is_said_before(lab_of_two: Lab) -> None:
    """Its own management address is right, the address that the source is told is another host's."""
    lab, vm = lab_of_two, _mover(lab_of_two)
    there = _target(lab, "kvm-02")
    with opened(_spec(lab, "kvm-01")) as source:
        (objection,) = source.check_migration(vm, replace(there, uri=lab.uri("kvm-01")), LIVE)
        assert objection.code == DestinationUnreachable.code
        assert "leads to another host" in objection.detail
        assert lab.host("kvm-01").uuid in objection.detail
        (objection,) = source.check_migration(vm, replace(there, uri="qemu+pigeon://kvm-02/system"), LIVE)
        assert "not valid" in objection.detail
        began = time.monotonic()  # an address between the hosts only: from here nobody answers
        assert not source.check_migration(vm, replace(there, uri="qemu+tcp://192.0.2.1/system"), LIVE)
        assert time.monotonic() - began < 8


def test_a_cpu_that_the_destination_lacks_is_said_before(lab_of_two: Lab) -> None:
    lab = lab_of_two
    host = lab.host("kvm-01")
    name = host.ensure_guest(GuestSpec("picky", memory_mib=32), start=False)
    xml = host.virsh("dumpxml", "picky").replace(">qemu64<", ">EPYC-Milan<")
    definition = host.state_dir / "picky.xml"
    try:
        with opened(_spec(lab, "kvm-01")) as source:
            assert list(source.check_migration(name, _target(lab, "kvm-02"), OFFLINE)) == []
            definition.write_text(xml)
            host.virsh("define", str(definition))
            (objection,) = source.check_migration(name, _target(lab, "kvm-02"), OFFLINE)
            assert objection.code == "cpu-incompatible"
            assert "perfctr_core" in objection.detail
            assert objection.remedy
            assert source.vm(name).cpu_model == "EPYC-Milan"
    finally:
        host.virsh("undefine", "picky")


def test_a_cpu_speed_that_the_destination_cannot_apply_is_said_before(
    lab_of_two: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of_two
    monkeypatch.setattr(compatibility, "host_weighs_cpus", lambda _handle: False)
    host = lab.host("kvm-01")
    vm = host.ensure_guest(GuestSpec("weighed", memory_mib=32), start=False)
    try:
        with opened(_spec(lab, "kvm-01")) as source:
            assert list(source.check_migration(vm, _target(lab, "kvm-02"), OFFLINE)) == []
            source.define(vm, replace(source.scaling(vm).next_start, cpu_shares=500))
            (objection,) = source.check_migration(vm, _target(lab, "kvm-02"), OFFLINE)
            assert objection.code == "destination-incompatible"
            assert "weighed has a CPU speed" in objection.detail
            assert "cgroup_controllers" in objection.remedy
    finally:
        host.remove_guest("weighed")


_POOL = "<pool type='dir'><name>images</name><target><path>/var/lib/libvirt/images</path></target></pool>"
_VOLUME = "<volume><name>disk.raw</name><capacity unit='MiB'>8</capacity><target><format type='raw'/></target></volume>"
_DEVICES = """<disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='/var/lib/libvirt/images/disk.raw'/><target dev='vda' bus='virtio'/></disk>
<interface type='bridge'><source bridge='labbr'/><model type='virtio'/></interface></devices>"""


def _virsh(host: LibvirtHost, command: str, xml: str, *arguments: str) -> None:
    file = host.state_dir / "given.xml"
    file.write_text(xml)
    host.virsh(command, *arguments, str(file))


def _own_devices(host: LibvirtHost, command: str) -> None:
    """A lab host has the machine's /sys, where its own bridges are not to be seen."""
    inside = ["nsenter", f"--target={host.daemon_pids()[0]}", "--mount", "--net"]
    subprocess.run([*inside, *command.split()], check=True)


def _bridge(host: LibvirtHost, *, present: bool) -> None:
    command = ["nsenter", f"--net={host.network_namespace}", "ip", "link"]
    subprocess.run([*command, *(["add", "labbr", "up", "type", "bridge"] if present else ["del", "labbr"])], check=True)


def test_disks_and_bridges_are_looked_at_and_local_disks_copied_if_asked(
    lab_of_two: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "KEEP_SECONDS", 0.0)
    lab = lab_of_two
    first, second = lab.host("kvm-01"), lab.host("kvm-02")
    for host in (first, second):  # each has a directory of its own there
        _virsh(host, "pool-define", _POOL)
        host.virsh("pool-build", "images")
        host.virsh("pool-start", "images")
        _own_devices(host, "mount -t sysfs sysfs /sys")
    try:
        _bridge(first, present=True)
        _virsh(first, "vol-create", _VOLUME, "images")
        vm = first.ensure_guest(GuestSpec("disked", memory_mib=32), start=False)
        _virsh(first, "define", first.virsh("dumpxml", "disked").replace("</devices>", _DEVICES))
        first.virsh("start", "disked")
        with opened(_spec(lab, "kvm-01")) as source, opened(_spec(lab, "kvm-02")) as destination:
            assert source.hosts()[0].networks == ("labbr",)
            assert source.vm(vm).networks == ("labbr",)
            assert source.vm(vm).disks == (DiskFacts("vda", "/var/lib/libvirt/images/disk.raw", DiskKind.LOCAL),)
            there = _target(lab, "kvm-02")
            codes = [one.code for one in source.check_migration(vm, there, LIVE)]
            assert codes == ["migration-unsafe", "destination-network-missing"]
            copying = MigrationOptions(copy_storage=True)
            assert failure(source, vm, there, copying).code == "destination-network-missing"
            assert source.vm(vm).power_state is PowerState.RUNNING
            _bridge(second, present=True)
            assert list(source.check_migration(vm, there, copying)) == []
            source.migrate(vm, there, copying)
            assert ended(source, vm).state is MigrationState.COMPLETED
            assert destination.vm(vm).power_state is PowerState.RUNNING
        assert "disk.raw" in second.virsh("vol-list", "images")
    finally:
        lab.reset()
        for host in (first, second):
            host.virsh_quietly("vol-delete", "disk.raw", "--pool", "images")
            for act in ("pool-destroy", "pool-undefine"):
                host.virsh_quietly(act, "images")
            _own_devices(host, "umount /sys")
            with contextlib.suppress(subprocess.CalledProcessError):
                _bridge(host, present=False)
