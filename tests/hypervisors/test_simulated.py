"""The simulated driver keeps the contract, and is the same fleet in every process."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import (
    EndpointSpec,
    EventKind,
    HypervisorError,
    Kind,
    PowerAction,
    PowerState,
    Unreachable,
)
from cloudops.hypervisors.simulated.fleet import InvalidUri, parse_uri
from tests.hypervisors.contract import Events, HypervisorContract, Subject, eventually, opened
from tests.hypervisors.rfb import RfbClient

_numbers = itertools.count()


def _spec(uri: str) -> EndpointSpec:
    return EndpointSpec(key=uri, kind=Kind.SIMULATED, uri=uri, timeout_seconds=3.0)


class TestSimulated(HypervisorContract):
    @pytest.fixture(params=["memory", "file"])
    def subject(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
        uri = "simulated://contract?hosts=2&vms=12"
        if request.param == "file":
            uri += f"&state={tmp_path / 'state' / 'fleet.sqlite'}"
        with opened(_spec(uri)) as hypervisor:
            vms = hypervisor.vms()
        yield Subject(
            spec=_spec(uri),
            running=next(vm.ref for vm in vms if vm.power_state is PowerState.RUNNING),
            stopped=next(vm.ref for vm in vms if vm.power_state is PowerState.OFF),
            hang=lambda: simulated.set_faults(uri, simulated.Faults(hang=True)),
            unhang=lambda: simulated.set_faults(uri, simulated.Faults()),
            disconnect=lambda: simulated.set_faults(uri, simulated.Faults(unreachable=True)),
            reconnect=lambda: simulated.set_faults(uri, simulated.Faults()),
        )
        simulated.reset(uri)


@pytest.fixture
def uri() -> Iterator[str]:
    uri = f"simulated://plain{next(_numbers)}?hosts=3&vms=4"
    yield uri
    simulated.reset(uri)


def test_a_larger_fleet_begins_with_the_smaller_one() -> None:
    with (
        opened(_spec("simulated://grow?hosts=2&vms=3")) as small,
        opened(_spec("simulated://grow?hosts=5&vms=3")) as large,
    ):
        references = [vm.ref for vm in large.vms()]
        assert references[:6] == [vm.ref for vm in small.vms()]
        assert len(set(references)) == 15
        assert all(host.memory_free_mib > 0 for host in large.hosts())


def test_seeds_make_different_fleets() -> None:
    with opened(_spec("simulated://seed?seed=1")) as one, opened(_spec("simulated://seed?seed=2")) as two:
        assert {vm.ref for vm in one.vms()}.isdisjoint(vm.ref for vm in two.vms())


@pytest.mark.parametrize(
    "bad",
    ["simulated://", "simulated://x?hosts=0", "simulated://x?hosts=many", "simulated://x?hots=3", "qemu:///system"],
)
def test_a_bad_uri_is_refused_with_a_remedy(bad: str) -> None:
    with pytest.raises(InvalidUri) as refusal:
        parse_uri(bad)
    assert "simulated://" in refusal.value.remedy


def test_faults(uri: str) -> None:
    with opened(_spec(uri)) as hypervisor:
        simulated.set_faults(uri, simulated.Faults(error="boom 17"))
        with pytest.raises(HypervisorError, match="boom 17"):
            hypervisor.vms()
        simulated.set_faults(uri, simulated.Faults(unreachable=True))
        with pytest.raises(Unreachable):
            hypervisor.vms()
        assert not hypervisor.probe()[-1].ok
        simulated.set_faults(uri, simulated.Faults(latency_seconds=0.2))
        began = time.monotonic()
        hypervisor.vms()
        assert time.monotonic() - began >= 0.2


def test_stopping_a_vm_ends_its_consoles(uri: str) -> None:
    with opened(_spec(uri)) as hypervisor:
        vm = next(vm for vm in hypervisor.vms() if vm.power_state is PowerState.RUNNING)
        with RfbClient(hypervisor.console(vm.ref)) as console:
            hypervisor.power(vm.ref, PowerAction.STOP)
            assert console.is_ended()
        eventually(lambda: "simulated console" not in " ".join(thread.name for thread in threading.enumerate()))


def test_typed_keys_appear(uri: str) -> None:
    with opened(_spec(uri)) as hypervisor:
        vm = next(vm for vm in hypervisor.vms() if vm.power_state is PowerState.RUNNING)
        with RfbClient(hypervisor.console(vm.ref)) as console:
            assert console.name == vm.name
            assert len(console.picture()) * 16 == console.height
            console.press(ord("Q"))
            changed = console.picture(incremental=True)
            assert len(changed) == 1
            console.press(0xFF0D)
            assert len(console.picture(incremental=True)) == 2
            for _ in range(40):
                console.press(0xFF0D)
            assert console.picture(incremental=True)


_OTHER_PROCESS = """
import sys
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import EndpointSpec, Kind, PowerAction
hypervisor = registry.create(EndpointSpec(key="x", kind=Kind.SIMULATED, uri=sys.argv[1]))
hypervisor.power(sys.argv[2], PowerAction.PAUSE)
print(len(hypervisor.connections(sys.argv[2])), hypervisor.vm(sys.argv[2]).name)
console = hypervisor.console(sys.argv[2])
"""


def test_processes_share_a_fleet_through_its_file(tmp_path: Path) -> None:
    uri = f"simulated://shared?state={tmp_path / 'shared.sqlite'}"
    with opened(_spec(uri)) as hypervisor:
        events = Events()
        hypervisor.subscribe(events)
        vm = next(vm for vm in hypervisor.vms() if vm.power_state is PowerState.RUNNING)
        with RfbClient(hypervisor.console(vm.ref)):
            command = [sys.executable, "-c", _OTHER_PROCESS, uri, vm.ref]
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
            assert done.stdout.split() == ["1", vm.name]
            events.wait(EventKind.VM_CHANGED, vm.ref, PowerState.PAUSED)
            assert hypervisor.vm(vm.ref).power_state is PowerState.PAUSED
            # The other process is gone, and its console with it.
            assert len(hypervisor.connections(vm.ref)) == 1


def test_fleets_in_one_file_keep_to_themselves(tmp_path: Path) -> None:
    state = tmp_path / "both.sqlite"
    one, two = f"simulated://one?vms=8&state={state}", f"simulated://two?vms=8&state={state}"
    with opened(_spec(one)) as first, opened(_spec(two)) as second:
        events = Events()
        second.subscribe(events)
        vm = next(vm for vm in first.vms() if vm.power_state is PowerState.RUNNING)
        first.power(vm.ref, PowerAction.STOP)
        simulated.set_faults(one, simulated.Faults(unreachable=True))
        simulated.reset(two)
        assert second.hosts()
        with pytest.raises(Unreachable):
            first.hosts()
        simulated.set_faults(one, simulated.Faults())
        assert first.vm(vm.ref).power_state is PowerState.OFF
        eventually(lambda: len(events.seen) >= 2)
        assert {event.kind for event in events.seen} == {EventKind.CONNECTED}


def test_the_fleet_survives_reopening(uri: str) -> None:
    registry.close_all()
    spec = _spec(uri)
    vm = next(vm for vm in registry.open_hypervisor(spec).vms() if vm.power_state is PowerState.RUNNING)
    registry.call(spec, lambda hypervisor: hypervisor.power(vm.ref, PowerAction.PAUSE))
    registry.close_all()
    assert registry.open_hypervisor(spec).vm(vm.ref).power_state is PowerState.PAUSED
    registry.close_all()
