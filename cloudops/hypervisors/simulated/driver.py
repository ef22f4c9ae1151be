"""The simulated driver: the semantics every driver keeps, in the plainest form."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cloudops.hypervisors.hub import EventHub
from cloudops.hypervisors.port import (
    ConsoleConnection,
    ConsoleEndpoint,
    EndpointSpec,
    EventKind,
    EventSink,
    HostFacts,
    HypervisorError,
    HypervisorEvent,
    InvalidState,
    PowerAction,
    PowerState,
    ProbeStep,
    Screenshot,
    TimedOut,
    Transport,
    Unreachable,
    VmFacts,
    VmNotFound,
    VmNotRunning,
)
from cloudops.hypervisors.simulated.console import open_console
from cloudops.hypervisors.simulated.fleet import Fleet, FleetUri, fleet, parse_uri
from cloudops.hypervisors.simulated.picture import picture
from cloudops.hypervisors.simulated.state import Faults, State

VERSION = "Simulated 1.0"
HOST_OWN_MEMORY_MIB = 4096
WATCH_SECONDS = 1.0

# From which states an action is possible, and where it leads.
_ALIVE = {PowerState.RUNNING, PowerState.PAUSED}
_TRANSITIONS: dict[PowerAction, tuple[set[PowerState], PowerState]] = {
    PowerAction.START: ({PowerState.OFF, PowerState.CRASHED}, PowerState.RUNNING),
    PowerAction.SHUTDOWN: ({PowerState.RUNNING}, PowerState.OFF),
    PowerAction.REBOOT: ({PowerState.RUNNING}, PowerState.RUNNING),
    PowerAction.STOP: (_ALIVE, PowerState.OFF),
    PowerAction.RESET: (_ALIVE, PowerState.RUNNING),
    PowerAction.PAUSE: ({PowerState.RUNNING}, PowerState.PAUSED),
    PowerAction.RESUME: ({PowerState.PAUSED}, PowerState.RUNNING),
}

_states: dict[FleetUri, State] = {}
_states_lock = threading.Lock()


def set_faults(uri: str, faults: Faults) -> None:
    """Makes the endpoint behave badly, until ``set_faults(uri, Faults())``."""
    _state(parse_uri(uri)).set_faults(faults)


def reset(uri: str) -> None:
    """Puts the endpoint back to what its URI says: power states, connections, no faults."""
    _state(parse_uri(uri)).reset()


def _state(uri: FleetUri) -> State:
    with _states_lock:
        if uri not in _states:
            _states[uri] = State(uri.state, endpoint=f"{uri.name}/{uri.seed}")
        return _states[uri]


def _after_fork() -> None:
    global _states_lock
    _states_lock = threading.Lock()
    _states.clear()


os.register_at_fork(after_in_child=_after_fork)


class SimulatedHypervisor:
    """See :class:`cloudops.hypervisors.port.Hypervisor`. The guest's answer to ``SHUTDOWN`` is immediate."""

    def __init__(self, spec: EndpointSpec) -> None:
        """Raises :class:`~cloudops.hypervisors.simulated.fleet.InvalidUri`."""
        self.spec = spec
        self._uri = parse_uri(spec.uri)
        self._state = _state(self._uri)
        self._hub = EventHub(f"events of {spec.uri}")
        self._watcher: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()
        self._hub.close()

    def probe(self) -> Sequence[ProbeStep]:
        began = time.monotonic()
        try:
            self._enter()
        except HypervisorError as error:
            return [ProbeStep("Reach the simulated endpoint", ok=False, detail=str(error), remedy=error.remedy)]
        elapsed_ms = (time.monotonic() - began) * 1000
        return [
            ProbeStep("Reach the simulated endpoint", ok=True, detail=self.spec.uri, elapsed_ms=elapsed_ms),
            ProbeStep(
                "Read hosts and VMs", ok=True, detail=f"{len(self._fleet.hosts)} hosts, {len(self._fleet.vms)} VMs"
            ),
        ]

    def hosts(self) -> Sequence[HostFacts]:
        self._enter()
        running: dict[str, list[VmFacts]] = {ref: [] for ref in self._fleet.hosts}
        for vm in self._current_vms():
            if vm.power_state in _ALIVE:
                running[vm.host_ref].append(vm)
        return [
            HostFacts(
                ref=host.ref,
                name=host.name,
                cpu_threads=host.cpu_threads,
                cpu_mhz=host.cpu_mhz,
                memory_mib=host.memory_mib,
                memory_free_mib=host.memory_mib - HOST_OWN_MEMORY_MIB - sum(vm.memory_mib for vm in running[host.ref]),
                hypervisor_version=VERSION,
                cpu_model=host.cpu_model,
                cpu_percent=min(100.0, 25.0 * sum(vm.vcpus for vm in running[host.ref]) / host.cpu_threads),
            )
            for host in self._fleet.hosts.values()
        ]

    def vms(self) -> Sequence[VmFacts]:
        self._enter()
        return self._current_vms()

    def vm(self, vm_ref: str) -> VmFacts:
        self._enter()
        return self._vm(vm_ref)

    def console(self, vm_ref: str) -> ConsoleEndpoint:
        self._enter()
        vm = self._running(vm_ref)
        label = f"simulated:{uuid.uuid4()}"
        self._state.add_console(label, vm_ref)
        fd = open_console(
            vm.name,
            is_live=lambda: self._is_console_live(label, vm_ref),
            on_end=lambda: self._state.remove_console(label, vm_ref),
        )
        return ConsoleEndpoint(Transport.FD, fd=fd)

    def connections(self, vm_ref: str) -> Sequence[ConsoleConnection]:
        self._enter()
        if self._vm(vm_ref).power_state not in _ALIVE:
            return []
        return self._state.consoles(vm_ref)

    def drop_connections(self, vm_ref: str, labels: Sequence[str]) -> Sequence[str]:
        self._enter()
        self._vm(vm_ref)
        return self._state.drop_consoles(vm_ref, labels)

    def screenshot(self, vm_ref: str) -> Screenshot:
        self._enter()
        return Screenshot(picture(self._running(vm_ref).name), "image/png")

    def power(self, vm_ref: str, action: PowerAction) -> None:
        self._enter()
        vm = self._vm(vm_ref)
        possible, result = _TRANSITIONS[action]
        if vm.power_state not in possible:
            if vm.power_state in (PowerState.OFF, PowerState.CRASHED):
                raise VmNotRunning(f"VM {vm.name} is {vm.power_state}; it cannot {action}.")
            raise InvalidState(f"VM {vm.name} is {vm.power_state}; it cannot {action}.")
        self._state.set_power(vm_ref, result)

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        if self._closed.is_set():
            raise Unreachable("This connection was closed.")
        seen = self._state.last_change()
        cancel = self._hub.subscribe(sink)
        with self._lock:
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, args=(seen,), name="simulated events", daemon=True)
                self._watcher.start()
        kind = EventKind.DISCONNECTED if self._state.faults().disconnected else EventKind.CONNECTED
        self._hub.publish(HypervisorEvent(kind, at=datetime.now(UTC)))
        return cancel

    @property
    def _fleet(self) -> Fleet:
        return fleet(replace(self._uri, state=""))

    def _watch(self, seen: int) -> None:
        while not self._closed.is_set():
            seen, events = self._state.wait_changes(seen, WATCH_SECONDS)
            for event in events:
                self._hub.publish(event)

    def _enter(self) -> None:
        """What every call goes through: the faults."""
        if self._closed.is_set():
            raise Unreachable("This connection was closed.")
        faults = self._state.faults()
        deadline = time.monotonic() + self.spec.timeout_seconds
        if faults.unreachable:
            raise Unreachable(f"{self._uri.name} is switched off (simulated).")
        while faults.hang or faults.latency_seconds >= self.spec.timeout_seconds:
            if time.monotonic() >= deadline:
                raise TimedOut(
                    f"{self._uri.name} did not answer within {self.spec.timeout_seconds:g} s (simulated).",
                    numbers={"timeout_seconds": self.spec.timeout_seconds},
                )
            self._state.wait(min(0.1, self.spec.timeout_seconds))
            faults = self._state.faults()
        if faults.latency_seconds:
            time.sleep(faults.latency_seconds)
        if faults.error:
            raise HypervisorError(faults.error, platform_code="simulated")

    def _current_vms(self) -> list[VmFacts]:
        states = self._state.power_states()
        return [replace(vm, power_state=states[vm.ref]) if vm.ref in states else vm for vm in self._fleet.vms.values()]

    def _vm(self, vm_ref: str) -> VmFacts:
        vm = self._fleet.vms.get(vm_ref)
        if vm is None:
            raise VmNotFound(f"{self._uri.name} has no VM {vm_ref}.")
        return replace(vm, power_state=self._state.power_states().get(vm_ref, vm.power_state))

    def _running(self, vm_ref: str) -> VmFacts:
        vm = self._vm(vm_ref)
        if vm.power_state not in _ALIVE:
            raise VmNotRunning(f"VM {vm.name} is {vm.power_state}.")
        return vm

    def _is_console_live(self, label: str, vm_ref: str) -> bool:
        return self._state.is_console_live(label) and self._vm(vm_ref).power_state in _ALIVE
