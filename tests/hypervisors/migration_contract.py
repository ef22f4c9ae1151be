"""What every driver promises about moving VMs (cloudops/hypervisors/port.py), as one suite that each inherits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import pytest

from cloudops.hypervisors.port import (
    Busy,
    EndpointSpec,
    EventKind,
    Hypervisor,
    HypervisorError,
    InvalidState,
    MigrationAborted,
    MigrationFailed,
    MigrationOptions,
    MigrationState,
    MigrationStatus,
    MigrationTarget,
    PowerAction,
    PowerState,
    VmNotFound,
    VmNotRunning,
)
from tests.hypervisors.contract import Events, eventually, opened

MOVE_SECONDS = 40.0
LIVE = MigrationOptions()
OFFLINE = MigrationOptions(live=False)


@dataclass(frozen=True)
class Pair:
    """Two hosts, of one endpoint or two: VMs ``running`` and ``stopped`` are on the first, ``twin`` on both (the
    second's has another UUID), empty where a platform has no two VMs of one name."""

    source: EndpointSpec
    destination: EndpointSpec
    there: MigrationTarget
    back: MigrationTarget
    nowhere: MigrationTarget
    running: str
    stopped: str
    twin: str
    slow: MigrationOptions
    """A migration with these takes many seconds."""
    break_destination: Callable[[], None]
    mend_destination: Callable[[], None]
    slowly: Callable[[], AbstractContextManager[None]] = nullcontext
    """Within it a migration with ``slow`` takes many seconds."""
    tells_downtime: bool = True


def ended(hypervisor: Hypervisor, vm_ref: str) -> MigrationStatus:
    """The job's status once it has ended."""
    deadline = time.monotonic() + MOVE_SECONDS
    while (status := hypervisor.migration(vm_ref)).state is MigrationState.RUNNING:
        assert time.monotonic() < deadline, f"it still runs: {status}"
        time.sleep(0.05)
    return status


def failure(
    hypervisor: Hypervisor, vm_ref: str, target: MigrationTarget, options: MigrationOptions = LIVE
) -> HypervisorError:
    """What a migration that cannot work ends with, at once or later."""
    try:
        hypervisor.migrate(vm_ref, target, options)
    except HypervisorError as error:
        return error
    status = ended(hypervisor, vm_ref)
    assert status.state is MigrationState.FAILED
    assert status.error is not None
    return status.error


def is_on(hypervisor: Hypervisor, vm_ref: str, target: MigrationTarget) -> bool:
    """Whether the VM is on the target's host, as its endpoint says."""
    try:
        return hypervisor.vm(vm_ref).host_ref == target.host_ref
    except VmNotFound:
        return False


class MigrationContract:
    """Inherit it and provide a ``pair`` fixture."""

    @pytest.fixture
    def pair(self) -> Pair:
        pytest.fail("a driver's suite provides its own pair of hosts")

    @pytest.fixture
    def source(self, pair: Pair) -> Iterator[Hypervisor]:
        with opened(pair.source) as hypervisor:
            yield hypervisor

    @pytest.fixture
    def destination(self, pair: Pair) -> Iterator[Hypervisor]:
        with opened(pair.destination) as hypervisor:
            yield hypervisor

    def test_a_running_vm_moves_there_and_back(self, pair: Pair, source: Hypervisor, destination: Hypervisor) -> None:
        before = source.vm(pair.running)
        seen = Events()
        destination.subscribe(seen)
        seen.wait(EventKind.CONNECTED)
        assert list(source.check_migration(pair.running, pair.there, LIVE)) == []
        source.migrate(pair.running, pair.there, LIVE)
        status = ended(source, pair.running)
        assert status.state is MigrationState.COMPLETED, status
        assert status.memory_total_mib > 0
        assert status.elapsed_seconds > 0
        if pair.tells_downtime:
            assert status.downtime_milliseconds is not None
            assert status.downtime_milliseconds < 5_000
        arrived = destination.vm(pair.running)
        assert (arrived.power_state, arrived.host_ref) == (PowerState.RUNNING, pair.there.host_ref)
        assert replace(arrived, host_ref=before.host_ref) == before
        assert not is_on(source, pair.running, pair.back)
        seen.wait(EventKind.VM_CHANGED, pair.running, PowerState.RUNNING)
        destination.migrate(pair.running, pair.back, LIVE)
        assert ended(destination, pair.running).state is MigrationState.COMPLETED
        assert source.vm(pair.running) == before
        assert not is_on(destination, pair.running, pair.there)

    def test_anybody_sees_the_progress_and_both_ends_tell_the_truth(
        self, pair: Pair, source: Hypervisor, destination: Hypervisor
    ) -> None:
        with pair.slowly(), opened(pair.source) as elsewhere:
            source.migrate(pair.running, pair.there, pair.slow)
            eventually(lambda: elsewhere.migration(pair.running).memory_sent_mib > 0)
            status = elsewhere.migration(pair.running)
            assert status.state is MigrationState.RUNNING
            assert 0 < status.memory_remaining_mib <= status.memory_total_mib
            assert status.elapsed_seconds > 0
            assert source.vm(pair.running).power_state is PowerState.RUNNING
            if is_on(destination, pair.running, pair.there):
                assert destination.vm(pair.running).power_state is PowerState.PAUSED
            elsewhere.abort_migration(pair.running)
            assert ended(source, pair.running).state is MigrationState.FAILED

    def test_an_aborted_migration_leaves_the_vm_running_where_it_was(
        self, pair: Pair, source: Hypervisor, destination: Hypervisor
    ) -> None:
        with pair.slowly():
            source.migrate(pair.running, pair.there, pair.slow)
            source.abort_migration(pair.running)
            status = ended(source, pair.running)
        assert isinstance(status.error, MigrationAborted), status
        assert source.vm(pair.running).power_state is PowerState.RUNNING
        eventually(lambda: not is_on(destination, pair.running, pair.there))
        with pytest.raises(InvalidState):
            source.abort_migration(pair.running)

    def test_a_vm_that_moves_is_busy(self, pair: Pair, source: Hypervisor) -> None:
        with pair.slowly():
            source.migrate(pair.running, pair.there, pair.slow)
            try:
                with pytest.raises(Busy):
                    source.migrate(pair.running, pair.there, LIVE)
                for action in (PowerAction.RESET, PowerAction.SHUTDOWN, PowerAction.REBOOT, PowerAction.PAUSE):
                    began = time.monotonic()
                    with pytest.raises(Busy):
                        source.power(pair.running, action)
                    assert time.monotonic() - began < 2.0
            finally:
                source.abort_migration(pair.running)
                ended(source, pair.running)

    def test_a_vm_that_is_off_moves_as_a_definition(
        self, pair: Pair, source: Hypervisor, destination: Hypervisor
    ) -> None:
        source.migrate(pair.stopped, pair.there, OFFLINE)
        assert ended(source, pair.stopped).state is MigrationState.COMPLETED
        assert destination.vm(pair.stopped).power_state is PowerState.OFF
        assert not is_on(source, pair.stopped, pair.back)
        destination.migrate(pair.stopped, pair.back, OFFLINE)
        ended(destination, pair.stopped)
        assert source.vm(pair.stopped).power_state is PowerState.OFF

    def test_live_and_offline_are_for_what_they_are_for(self, pair: Pair, source: Hypervisor) -> None:
        with pytest.raises(VmNotRunning):
            source.migrate(pair.stopped, pair.there, LIVE)
        with pytest.raises(InvalidState):
            source.migrate(pair.running, pair.there, OFFLINE)
        assert source.vm(pair.running).power_state is PowerState.RUNNING

    def test_a_destination_that_is_not_there(self, pair: Pair, source: Hypervisor) -> None:
        (objection,) = source.check_migration(pair.running, pair.nowhere, LIVE)
        assert objection.code == "destination-unreachable"
        error = failure(source, pair.running, pair.nowhere)
        assert (error.code, source.vm(pair.running).power_state) == ("destination-unreachable", PowerState.RUNNING)
        assert error.remedy

    def test_its_own_host_is_no_destination(self, pair: Pair, source: Hypervisor) -> None:
        assert "same-host" in [one.code for one in source.check_migration(pair.running, pair.back, LIVE)]
        assert failure(source, pair.running, pair.back).code == "same-host"

    def test_a_name_that_is_taken_there(self, pair: Pair, source: Hypervisor) -> None:
        assert "vm-name-taken" in [one.code for one in source.check_migration(pair.twin, pair.there, OFFLINE)]
        assert failure(source, pair.twin, pair.there, OFFLINE).code == "vm-name-taken"
        assert is_on(source, pair.twin, pair.back)

    @pytest.mark.fault
    def test_a_destination_that_dies_leaves_the_vm_running_at_its_source(self, pair: Pair, source: Hypervisor) -> None:
        with pair.slowly():
            source.migrate(pair.running, pair.there, pair.slow)
            eventually(lambda: source.migration(pair.running).memory_sent_mib > 0)
            pair.break_destination()
        try:
            error = ended(source, pair.running).error
        finally:
            pair.mend_destination()
        assert isinstance(error, MigrationFailed), error
        assert error.code == "migration-interrupted"
        assert source.vm(pair.running).power_state is PowerState.RUNNING

    def test_nothing_moves_and_nobody_is_there(self, pair: Pair, source: Hypervisor) -> None:
        assert source.migration("0b0e6d3c-0000-4000-8000-000000000000").state is MigrationState.NONE
        for call in (source.abort_migration, source.discard):
            with pytest.raises((VmNotFound, InvalidState)):
                call("0b0e6d3c-0000-4000-8000-000000000000")
        with pytest.raises(VmNotFound):
            source.migrate("0b0e6d3c-0000-4000-8000-000000000000", pair.there, LIVE)
        with pytest.raises(VmNotFound):
            source.check_migration("0b0e6d3c-0000-4000-8000-000000000000", pair.there, LIVE)

    def test_only_what_is_off_can_be_discarded(self, pair: Pair, source: Hypervisor) -> None:
        with pytest.raises(InvalidState):
            source.discard(pair.running)
        leftover = pair.twin or pair.stopped
        source.discard(leftover)
        assert not is_on(source, leftover, pair.back)
