"""Simulated VMs move: the contract, and what only a stepped clock and faults on request can show."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudops.hypervisors import simulated
from cloudops.hypervisors.port import (
    CpuIncompatible,
    DestinationUnreachable,
    DiskFacts,
    DiskKind,
    EndpointSpec,
    EventKind,
    Hypervisor,
    InvalidState,
    Kind,
    MigrationInterrupted,
    MigrationOptions,
    MigrationState,
    MigrationStatus,
    MigrationTarget,
    NameTaken,
    OutOfSpace,
    PowerAction,
    PowerState,
    VmFacts,
)
from tests.hypervisors.contract import Events, opened
from tests.hypervisors.migration_contract import MigrationContract, Pair
from tests.hypervisors.rfb import RfbClient

_numbers = itertools.count()


def _spec(uri: str) -> EndpointSpec:
    return EndpointSpec(key=uri, kind=Kind.SIMULATED, uri=uri, timeout_seconds=3.0)


class TestSimulatedMigration(MigrationContract):
    """Between two endpoints; they share a file, or this process's memory."""

    @pytest.fixture(params=["memory", "file"])
    def pair(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
        state = f"&state={tmp_path / 'fleet.sqlite'}" if request.param == "file" else ""
        first, second = (
            f"simulated://{name}?hosts=1&vms=12&migrate_mib_per_second=20000{state}" for name in ("from", "to")
        )
        with opened(_spec(first)) as one, opened(_spec(second)) as other:
            vms = one.vms()
            (here,), (there,) = one.hosts(), other.hosts()
        off = replace(vms[0], ref="off", name="off", power_state=PowerState.OFF)
        simulated.put_vm(first, off)
        simulated.put_vm(first, replace(off, ref="one", name="twin"))
        simulated.put_vm(second, replace(off, ref="other", name="twin", host_ref=there.ref))
        yield Pair(
            source=_spec(first),
            destination=_spec(second),
            there=MigrationTarget(_spec(second), there.ref, second),
            back=MigrationTarget(_spec(first), here.ref, first),
            nowhere=MigrationTarget(_spec(second), "no-such-host", second),
            running=max((vm for vm in vms if vm.power_state is PowerState.RUNNING), key=lambda vm: vm.memory_mib).ref,
            stopped=off.ref,
            twin="one",
            slow=MigrationOptions(bandwidth_mib_per_second=100),
            break_destination=lambda: simulated.set_faults(second, simulated.Faults(hang=True)),
            mend_destination=lambda: simulated.set_faults(second, simulated.Faults()),
        )
        for uri in (first, second):
            simulated.reset(uri)


@pytest.fixture
def uri() -> Iterator[str]:
    uri = f"simulated://moving{next(_numbers)}?hosts=3&vms=4"
    yield uri
    simulated.reset(uri)


_OTHER_MOVES = """
import sys
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import EndpointSpec, Kind, MigrationOptions, MigrationTarget
spec = EndpointSpec(key="x", kind=Kind.SIMULATED, uri=sys.argv[1])
registry.create(spec).migrate(sys.argv[2], MigrationTarget(spec, sys.argv[3], spec.uri), MigrationOptions())
"""


def test_a_move_goes_on_without_the_process_that_began_it(tmp_path: Path) -> None:
    uri = f"simulated://moves?hosts=2&vms=4&migrate_mib_per_second=2000&state={tmp_path / 'shared.sqlite'}"
    with opened(_spec(uri)) as hypervisor:
        events = Events()
        hypervisor.subscribe(events)
        home, other = (host.ref for host in hypervisor.hosts())
        vm = VmFacts("mover", "mover", home, PowerState.RUNNING, 1, 6_000)
        simulated.put_vm(uri, vm)
        subprocess.run([sys.executable, "-c", _OTHER_MOVES, uri, vm.ref, other], check=True, timeout=30)
        assert hypervisor.migration(vm.ref).state is MigrationState.RUNNING
        with RfbClient(hypervisor.console(vm.ref)) as console:
            since = len(events.seen)
            events.wait(EventKind.VM_CHANGED, vm.ref, PowerState.RUNNING, since)  # and nobody asked meanwhile
            assert console.is_ended()
        assert hypervisor.vm(vm.ref).host_ref == other
        assert hypervisor.migration(vm.ref).state is MigrationState.COMPLETED


class Time:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Time]:
    clock = Time()
    simulated.set_clock(clock)
    yield clock
    simulated.set_clock(None)


class TestStepped:
    """One endpoint of three hosts, by a clock that stands still; a VM of 1,000 MiB takes 100 s."""

    @pytest.fixture
    def uri(self, uri: str) -> str:
        return f"{uri}&migrate_mib_per_second=10"

    @pytest.fixture
    def land(self, uri: str, clock: Time) -> Iterator[Hypervisor]:
        with opened(_spec(uri)) as hypervisor:
            yield hypervisor

    @pytest.fixture
    def vm(self, uri: str, land: Hypervisor) -> VmFacts:
        vm = VmFacts("mover", "mover", land.hosts()[0].ref, PowerState.RUNNING, 1, 1_000)
        simulated.put_vm(uri, vm)
        return vm

    def to(self, land: Hypervisor, host: int) -> MigrationTarget:
        return MigrationTarget(land.spec, land.hosts()[host].ref, land.spec.uri)

    def test_it_goes_by_the_clock(self, land: Hypervisor, vm: VmFacts, clock: Time) -> None:
        land.migrate(vm.ref, self.to(land, 1), MigrationOptions())
        clock.now += 25
        assert land.migration(vm.ref) == MigrationStatus(
            MigrationState.RUNNING, 1_000, 750, 250, rate_mib_per_second=10.0, elapsed_seconds=25.0
        )
        assert land.vm(vm.ref) == vm
        clock.now += 74.9
        assert land.vm(vm.ref) == vm
        clock.now += 10
        assert land.vm(vm.ref) == replace(vm, host_ref=land.hosts()[1].ref)
        assert [one.ref for one in land.vms()].count(vm.ref) == 1
        status = land.migration(vm.ref)
        assert (status.state, status.elapsed_seconds) == (MigrationState.COMPLETED, 100.0)

    def test_what_was_asked_for_is_not_exceeded(self, land: Hypervisor, vm: VmFacts, clock: Time) -> None:
        land.migrate(vm.ref, self.to(land, 1), MigrationOptions(bandwidth_mib_per_second=5, post_copy=True))
        clock.now += 50
        assert land.migration(vm.ref).memory_sent_mib == 250
        clock.now += 60
        assert land.migration(vm.ref).post_copy
        with pytest.raises(InvalidState):
            land.abort_migration(vm.ref)

    def test_a_vm_that_is_paused_meanwhile_or_stopped(self, land: Hypervisor, vm: VmFacts, clock: Time) -> None:
        simulated.put_vm(land.spec.uri, replace(vm, power_state=PowerState.PAUSED))
        land.migrate(vm.ref, self.to(land, 1), MigrationOptions())
        clock.now += 100
        assert land.vm(vm.ref).power_state is PowerState.PAUSED
        land.migrate(vm.ref, self.to(land, 2), MigrationOptions())
        land.power(vm.ref, PowerAction.STOP)
        assert land.migration(vm.ref).state is MigrationState.FAILED
        assert (land.vm(vm.ref).host_ref, land.vm(vm.ref).power_state) == (land.hosts()[1].ref, PowerState.OFF)

    def test_faults_are_used_up(self, land: Hypervisor, vm: VmFacts, clock: Time) -> None:
        uri, host = land.spec.uri, land.hosts()[1].ref
        add = simulated.add_migration_fault
        add(uri, simulated.MigrationFault(CpuIncompatible, "no avx", host_ref=host, direction="to"))
        add(uri, simulated.MigrationFault(OutOfSpace, at_percent=40, host_ref=host))
        land.migrate(vm.ref, self.to(land, 2), MigrationOptions())  # another host
        land.abort_migration(vm.ref)
        with pytest.raises(CpuIncompatible, match="no avx"):
            land.migrate(vm.ref, self.to(land, 1), MigrationOptions())
        assert land.migration(vm.ref).state is MigrationState.FAILED  # the aborted one; the refused never began
        land.migrate(vm.ref, self.to(land, 1), MigrationOptions())
        clock.now += 39
        assert land.migration(vm.ref).state is MigrationState.RUNNING
        clock.now += 2
        status = land.migration(vm.ref)
        assert isinstance(status.error, OutOfSpace)
        assert status.memory_sent_mib == 400
        assert land.vm(vm.ref) == vm
        land.migrate(vm.ref, self.to(land, 1), MigrationOptions())
        clock.now += 100
        assert land.migration(vm.ref).state is MigrationState.COMPLETED

    def test_one_that_is_held_up_goes_on_when_the_fault_is_cleared(
        self, land: Hypervisor, vm: VmFacts, clock: Time
    ) -> None:
        simulated.add_migration_fault(land.spec.uri, simulated.MigrationFault(error=None, at_percent=30))
        land.migrate(vm.ref, self.to(land, 1), MigrationOptions())
        clock.now += 5_000
        held = land.migration(vm.ref)
        assert (held.state, held.memory_sent_mib, held.rate_mib_per_second) == (MigrationState.RUNNING, 300, 0.0)
        simulated.clear_migration_faults(land.spec.uri)
        clock.now += 69
        assert land.migration(vm.ref).memory_sent_mib == 990
        clock.now += 1
        assert land.migration(vm.ref).state is MigrationState.COMPLETED

    def test_hosts_that_are_down_are_not_there_and_end_what_moves(
        self, land: Hypervisor, vm: VmFacts, clock: Time
    ) -> None:
        down = land.hosts()[1].ref
        target = self.to(land, 1)
        land.migrate(vm.ref, target, MigrationOptions())
        simulated.set_faults(land.spec.uri, simulated.Faults(down_hosts=(down,)))
        assert isinstance(land.migration(vm.ref).error, MigrationInterrupted)
        assert down not in [host.ref for host in land.hosts()]
        assert down not in {one.host_ref for one in land.vms()}
        with pytest.raises(DestinationUnreachable):
            land.migrate(vm.ref, target, MigrationOptions())

    def test_what_speaks_against_a_host_is_said(self, land: Hypervisor, vm: VmFacts) -> None:
        uri, host = land.spec.uri, simulated.SimulatedHost("bare", "bare", 8, 2_000, "i486", 9_000, ("wan",), ())
        simulated.put_host(uri, host)
        disks = (
            DiskFacts("vda", "a", DiskKind.SHARED, "san"),
            DiskFacts("vdb", "b", DiskKind.LOCAL),
            DiskFacts("sda", "c", DiskKind.LOCAL, removable=True),
        )
        simulated.put_vm(uri, replace(vm, disks=disks, networks=("lan",), cpu_model="EPYC"))
        simulated.put_vm(uri, replace(vm, ref="twin", host_ref="bare"))
        target = MigrationTarget(land.spec, "bare", uri)
        objections = land.check_migration(vm.ref, target, MigrationOptions())
        assert [one.code for one in objections] == [
            "vm-name-taken",
            "cpu-incompatible",
            "destination-storage-missing",
            "migration-unsafe",
            "destination-network-missing",
        ]
        assert all(one.detail and one.remedy for one in objections)
        with pytest.raises(NameTaken):
            land.migrate(vm.ref, target, MigrationOptions())
        codes = [one.code for one in land.check_migration(vm.ref, target, MigrationOptions(copy_storage=True))]
        assert "migration-unsafe" not in codes

    def test_a_console_ends_where_the_vm_leaves(self, land: Hypervisor, vm: VmFacts, clock: Time) -> None:
        with RfbClient(land.console(vm.ref)) as console:
            land.migrate(vm.ref, self.to(land, 1), MigrationOptions())
            assert console.picture()
            clock.now += 100
            assert console.is_ended()
        with RfbClient(land.console(vm.ref)) as console:
            assert console.name == vm.name

    def test_vms_come_and_go_and_a_reset_forgets_it(self, land: Hypervisor, vm: VmFacts) -> None:
        resident = land.vms()[0]
        simulated.remove_vm(land.spec.uri, resident.ref)
        assert resident.ref not in {one.ref for one in land.vms()}
        land.migrate(vm.ref, self.to(land, 1), MigrationOptions())
        simulated.reset(land.spec.uri)
        assert resident in land.vms()
        assert vm.ref not in {one.ref for one in land.vms()}

    def test_watchers_hear_of_it_and_a_thousand_moves_take_a_moment(self, uri: str, clock: Time) -> None:
        with opened(_spec(uri)) as land:
            events = Events()
            land.subscribe(events)
            events.wait(EventKind.CONNECTED)
            hosts = [host.ref for host in land.hosts()]
            vms = land.vms()
            began = time.process_time()
            for number in range(1_000):
                ref = vms[number % len(vms)].ref
                at = land.vm(ref).host_ref
                there = hosts[(hosts.index(at) + 1) % 3]
                simulated.put_vm(uri, replace(land.vm(ref), power_state=PowerState.RUNNING))
                land.migrate(ref, MigrationTarget(land.spec, there, uri), MigrationOptions())
                clock.now += 3_600
                assert land.migration(ref).state is MigrationState.COMPLETED
                assert land.vm(ref).host_ref == there
            assert time.process_time() - began < 5.0
            events.wait(EventKind.VM_CHANGED, vms[0].ref, PowerState.RUNNING)
