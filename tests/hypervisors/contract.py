"""What every driver promises (cloudops/hypervisors/port.py), as one suite that each driver's tests inherit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from cloudops.hypervisors import registry
from cloudops.hypervisors.port import (
    ConsoleConnection,
    EndpointSpec,
    EventKind,
    Hypervisor,
    HypervisorError,
    HypervisorEvent,
    InvalidState,
    NotSupported,
    PowerAction,
    PowerState,
    Screenshot,
    TimedOut,
    Transport,
    Unreachable,
    VmNotFound,
    VmNotRunning,
)
from tests.hypervisors.rfb import RfbClient

WAIT_SECONDS = 15.0
SLACK_SECONDS = 1.5
"""What a bounded call may take beyond its timeout on a busy machine."""


@dataclass(frozen=True)
class Subject:
    """An endpoint under test: a running VM and one that is off, both with consoles, and ways to hurt their host."""

    spec: EndpointSpec
    running: str
    stopped: str
    hang: Callable[[], None]
    unhang: Callable[[], None]
    disconnect: Callable[[], None]
    """Ends the management connection for a moment at least; the endpoint comes back after ``reconnect``."""
    reconnect: Callable[[], None]


def eventually(check: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


@contextmanager
def opened(spec: EndpointSpec) -> Iterator[Hypervisor]:
    hypervisor = registry.create(spec)
    try:
        yield hypervisor
    finally:
        hypervisor.close()


class Events:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.seen: list[HypervisorEvent] = []

    def __call__(self, event: HypervisorEvent) -> None:
        self.seen.append(event)

    def has(self, kind: EventKind, vm_ref: str = "", power_state: PowerState | None = None, since: int = 0) -> bool:
        return any(
            event.kind is kind and event.vm_ref == vm_ref and (power_state is None or event.power_state is power_state)
            for event in self.seen[since:]
        )

    def wait(self, kind: EventKind, vm_ref: str = "", power_state: PowerState | None = None, since: int = 0) -> None:
        eventually(lambda: self.has(kind, vm_ref, power_state, since))


class HypervisorContract:
    """Inherit it and provide a ``subject`` fixture."""

    @pytest.fixture
    def subject(self) -> Subject:
        pytest.fail("a driver's suite provides its own subject")

    @pytest.fixture
    def hypervisor(self, subject: Subject) -> Iterator[Hypervisor]:
        with opened(subject.spec) as hypervisor:
            yield hypervisor

    def test_hosts_have_sensible_facts(self, hypervisor: Hypervisor) -> None:
        hosts = hypervisor.hosts()
        assert hosts
        assert len({host.ref for host in hosts}) == len(hosts)
        for host in hosts:
            assert host.name
            assert host.hypervisor_version
            assert host.cpu_threads > 0
            assert 0 <= host.memory_free_mib <= host.memory_mib
            assert host.memory_mib > 500

    def test_references_are_stable_across_connections(self, subject: Subject) -> None:
        with opened(subject.spec) as first, opened(subject.spec) as second:
            assert [host.ref for host in first.hosts()] == [host.ref for host in second.hosts()]
            assert {vm.ref for vm in first.vms()} == {vm.ref for vm in second.vms()}

    def test_vms_are_on_known_hosts_and_read_alike_alone(self, hypervisor: Hypervisor, subject: Subject) -> None:
        vms = {vm.ref: vm for vm in hypervisor.vms()}
        assert {vm.host_ref for vm in vms.values()} <= {host.ref for host in hypervisor.hosts()}
        assert vms[subject.running].power_state is PowerState.RUNNING
        assert vms[subject.stopped].power_state is PowerState.OFF
        for reference in (subject.running, subject.stopped):
            assert hypervisor.vm(reference) == vms[reference]
            assert vms[reference].vcpus >= 1
            assert vms[reference].memory_mib >= 16
            assert vms[reference].has_console
            scaling = vms[reference].scaling
            assert scaling is None or scaling.max_memory_mib >= vms[reference].memory_mib

    @pytest.mark.parametrize("reference", ["0b0e6d3c-0000-4000-8000-000000000000", "not-a-reference", ""])
    def test_an_unknown_vm_is_not_found(self, hypervisor: Hypervisor, reference: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: hypervisor.vm(reference),
            lambda: hypervisor.console(reference),
            lambda: hypervisor.connections(reference),
            lambda: hypervisor.screenshot(reference),
            lambda: hypervisor.power(reference, PowerAction.START),
        ]
        for call in calls:
            with pytest.raises(VmNotFound):
                call()

    def test_a_console_is_counted_while_it_is_open(self, hypervisor: Hypervisor, subject: Subject) -> None:
        eventually(lambda: not hypervisor.connections(subject.running))  # those of the test before are gone
        before = 0
        with RfbClient(hypervisor.console(subject.running)) as first, RfbClient(hypervisor.console(subject.running)):
            assert first.width > 0
            assert first.name
            connections = hypervisor.connections(subject.running)
            assert len(connections) == before + 2
            assert len({connection.label for connection in connections}) == len(connections)
        eventually(lambda: len(hypervisor.connections(subject.running)) == before)

    def test_a_console_shows_a_picture(self, hypervisor: Hypervisor, subject: Subject) -> None:
        endpoint = hypervisor.console(subject.running)
        assert endpoint.transport in (Transport.FD, Transport.TCP, Transport.WSS)
        with RfbClient(endpoint) as console:
            shown = b"".join(console.picture().values())
        assert len(set(shown)) > 1, "the picture is of one colour"

    def test_a_stopped_vm_has_no_console(self, hypervisor: Hypervisor, subject: Subject) -> None:
        with pytest.raises(VmNotRunning):
            hypervisor.console(subject.stopped)
        with pytest.raises(VmNotRunning):
            hypervisor.screenshot(subject.stopped)
        assert list(hypervisor.connections(subject.stopped)) == []

    def test_a_screenshot_is_a_png_or_refused_in_words(self, hypervisor: Hypervisor, subject: Subject) -> None:
        screenshot, refusal = _screenshot(hypervisor, subject.running)
        if screenshot is None:
            assert refusal is not None
            assert refusal.detail
            assert refusal.remedy != NotSupported.remedy
            return
        assert screenshot.media_type == "image/png"
        assert screenshot.data.startswith(b"\x89PNG\r\n\x1a\n")
        assert screenshot.data.endswith(b"IEND\xaeB`\x82")

    def test_dropping_ends_the_named_connection_alone_or_is_refused(
        self, hypervisor: Hypervisor, subject: Subject
    ) -> None:
        eventually(lambda: not hypervisor.connections(subject.running))
        before: set[str] = set()
        with RfbClient(hypervisor.console(subject.running)) as doomed:
            (first,) = _new(hypervisor.connections(subject.running), before)
            with RfbClient(hypervisor.console(subject.running)) as kept:
                try:
                    dropped = hypervisor.drop_connections(subject.running, [first.label, "unheard-of"])
                except NotSupported:
                    assert len(hypervisor.connections(subject.running)) == len(before) + 2
                else:
                    assert first.label in dropped
                    assert set(dropped) <= {first.label, "unheard-of"}  # what was never there is gone, too
                    assert doomed.is_ended()
                    eventually(lambda: len(hypervisor.connections(subject.running)) == len(before) + 1)
                assert kept.picture()

    def test_power_goes_round_with_events(self, hypervisor: Hypervisor, subject: Subject) -> None:
        events, vm = Events(), subject.stopped
        cancel = hypervisor.subscribe(events)
        events.wait(EventKind.CONNECTED)
        for action, state in (
            (PowerAction.START, PowerState.RUNNING),
            (PowerAction.PAUSE, PowerState.PAUSED),
            (PowerAction.RESUME, PowerState.RUNNING),
            (PowerAction.STOP, PowerState.OFF),
        ):
            since = len(events.seen)
            hypervisor.power(vm, action)
            events.wait(EventKind.VM_CHANGED, vm, state, since)
            eventually(lambda wanted=state: hypervisor.vm(vm).power_state is wanted)  # type: ignore[misc]
        assert all(event.at is not None and event.at.tzinfo is not None for event in events.seen)
        cancel()
        count = len(events.seen)
        hypervisor.power(vm, PowerAction.START)
        hypervisor.power(vm, PowerAction.STOP)
        time.sleep(0.3)
        assert len(events.seen) == count

    def test_power_is_refused_where_the_state_forbids_it(self, hypervisor: Hypervisor, subject: Subject) -> None:
        with pytest.raises(InvalidState):
            hypervisor.power(subject.running, PowerAction.START)
        for action in (PowerAction.STOP, PowerAction.PAUSE, PowerAction.SHUTDOWN, PowerAction.RESET):
            with pytest.raises(VmNotRunning):
                hypervisor.power(subject.stopped, action)

    def test_console_events_are_told(self, hypervisor: Hypervisor, subject: Subject) -> None:
        events = Events()
        hypervisor.subscribe(events)
        events.wait(EventKind.CONNECTED)
        with RfbClient(hypervisor.console(subject.running)):
            events.wait(EventKind.CONSOLE_CHANGED, subject.running)
            since = len(events.seen)
        events.wait(EventKind.CONSOLE_CHANGED, subject.running, since=since)

    def test_many_threads_may_ask_at_once(self, hypervisor: Hypervisor, subject: Subject) -> None:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: hypervisor.vm(subject.running).ref, range(36)))
        assert answers == [subject.running] * 36

    def test_closing_is_final_and_idempotent(self, subject: Subject) -> None:
        hypervisor = registry.create(subject.spec)
        hypervisor.hosts()
        hypervisor.close()
        hypervisor.close()
        with pytest.raises(Unreachable):
            hypervisor.hosts()
        with pytest.raises(Unreachable):
            hypervisor.subscribe(Events())

    def test_the_probe_names_every_step(self, subject: Subject) -> None:
        steps = registry.probe(replace(subject.spec, key="unsaved"))
        assert len(steps) >= 2
        assert all(step.ok and step.name and step.detail for step in steps), steps

    @pytest.mark.fault
    def test_a_hung_host_answers_in_time_and_comes_back(self, subject: Subject) -> None:
        spec = replace(subject.spec, timeout_seconds=2.0, keepalive_seconds=1)
        limit = spec.timeout_seconds + SLACK_SECONDS
        with opened(spec) as connected, opened(spec) as fresh:
            connected.hosts()
            subject.hang()
            try:
                for hypervisor in (connected, fresh):
                    began = time.monotonic()
                    with pytest.raises(Unreachable):
                        hypervisor.vms()
                    assert time.monotonic() - began < limit
                began = time.monotonic()
                steps = registry.probe(spec)
                assert time.monotonic() - began < limit
                assert not steps[-1].ok
                assert steps[-1].remedy
            finally:
                subject.unhang()
            eventually(lambda: _answers(connected))
            eventually(lambda: _answers(fresh))

    @pytest.mark.fault
    def test_a_lost_connection_is_told_and_comes_back_by_itself(self, subject: Subject) -> None:
        spec = replace(subject.spec, timeout_seconds=5.0, keepalive_seconds=1)
        with opened(spec) as hypervisor:
            events = Events()
            hypervisor.subscribe(events)
            events.wait(EventKind.CONNECTED)
            since = len(events.seen)
            subject.disconnect()
            try:
                events.wait(EventKind.DISCONNECTED, since=since)
            finally:
                subject.reconnect()
            events.wait(EventKind.CONNECTED, since=since)
            since = len(events.seen)
            hypervisor.power(subject.stopped, PowerAction.START)
            events.wait(EventKind.VM_CHANGED, subject.stopped, PowerState.RUNNING, since)
            hypervisor.power(subject.stopped, PowerAction.STOP)

    @pytest.mark.fault
    def test_a_hung_host_delays_nobody_else(self, subject: Subject) -> None:
        other = EndpointSpec(key="other", kind=subject.spec.kind.SIMULATED, uri="simulated://other", timeout_seconds=5)
        hung = replace(subject.spec, key="hung", timeout_seconds=2.0, keepalive_seconds=1)
        registry.call(hung, lambda hypervisor: hypervisor.hosts())
        subject.hang()
        try:
            with ThreadPoolExecutor(30) as pool:
                waiting = [pool.submit(registry.call, hung, lambda hypervisor: hypervisor.hosts()) for _ in range(30)]
                began = time.monotonic()
                for _ in range(20):
                    assert registry.call(other, lambda hypervisor: hypervisor.hosts())
                assert time.monotonic() - began < 1.0
                errors = [future.exception(hung.timeout_seconds + 1 + SLACK_SECONDS) for future in waiting]
        finally:
            subject.unhang()
            registry.close_all()
        assert all(isinstance(error, Unreachable) for error in errors), errors
        assert any(isinstance(error, TimedOut) for error in errors)


def _screenshot(hypervisor: Hypervisor, vm_ref: str) -> tuple[Screenshot | None, NotSupported | None]:
    try:
        return hypervisor.screenshot(vm_ref), None
    except NotSupported as refusal:
        return None, refusal


def _new(connections: object, before: set[str]) -> list[ConsoleConnection]:
    assert isinstance(connections, (list, tuple))
    return [connection for connection in connections if connection.label not in before]


def _answers(hypervisor: Hypervisor) -> bool:
    try:
        return bool(hypervisor.hosts())
    except HypervisorError:
        return False
