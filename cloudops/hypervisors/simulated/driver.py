"""The simulated driver: the semantics every driver keeps, in the plainest form."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cloudops.hypervisors.hub import EventHub
from cloudops.hypervisors.port import (
    Busy,
    ConsoleConnection,
    ConsoleEndpoint,
    DestinationIncompatible,
    DestinationUnreachable,
    EndpointSpec,
    EventKind,
    EventSink,
    HostFacts,
    HypervisorError,
    HypervisorEvent,
    InvalidState,
    Kind,
    MigrationOptions,
    MigrationStatus,
    MigrationTarget,
    NotSupported,
    Objection,
    PowerAction,
    PowerState,
    ProbeStep,
    ResizeStep,
    SameHost,
    ScalingState,
    Screenshot,
    Shape,
    TimedOut,
    Transport,
    Unreachable,
    VmFacts,
    VmNotFound,
    VmNotRunning,
)
from cloudops.hypervisors.simulated import jobs, maintenance, resizing
from cloudops.hypervisors.simulated.console import open_console
from cloudops.hypervisors.simulated.fleet import HOST_OWN_MEMORY_MIB, SimulatedHost, parse_uri
from cloudops.hypervisors.simulated.guests import Pending, SimulatedGuest
from cloudops.hypervisors.simulated.jobs import MigrationFault
from cloudops.hypervisors.simulated.landscape import Landscape
from cloudops.hypervisors.simulated.maintenance import MaintenanceFault
from cloudops.hypervisors.simulated.picture import picture
from cloudops.hypervisors.simulated.resizing import ResizeFault
from cloudops.hypervisors.simulated.state import Faults, State

VERSION = "Simulated 1.0"
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


def set_faults(uri: str, faults: Faults) -> None:
    """Makes the endpoint behave badly, until ``set_faults(uri, Faults())``."""
    state = _landscape(uri).state
    with state.store.write():
        jobs.settle(state.store)
        state.set_faults(faults)
        jobs.interrupt(state)


def add_migration_fault(uri: str, fault: MigrationFault) -> None:
    """What happens to the next migrations from or to the endpoint; used up in the order in which they were added."""
    jobs.add_fault(_landscape(uri).state, fault)


def clear_migration_faults(uri: str) -> None:
    """No migration fails any more, and those that were held up go on."""
    jobs.clear_faults(_landscape(uri).state)


def add_maintenance_fault(uri: str, fault: MaintenanceFault) -> None:
    """What the endpoint answers to the next requests for its own maintenance mode."""
    maintenance.add_fault(_landscape(uri).state, fault)


def add_resize_fault(uri: str, fault: ResizeFault) -> None:
    """What happens to the next resizes at the endpoint; used up in the order in which they were added."""
    resizing.add_fault(_landscape(uri).state, fault)


def clear_resize_faults(uri: str) -> None:
    """No resize fails any more."""
    resizing.clear_faults(_landscape(uri).state)


def set_guest(uri: str, vm_ref: str, guest: SimulatedGuest) -> None:
    """How the VM's guest behaves from now on, also with what it was asked for before."""
    state = _landscape(uri).state
    state.set_guest(vm_ref, replace(state.guest(vm_ref) or Pending(), guest=guest))


def put_host(uri: str, host: SimulatedHost) -> None:
    """Adds a host to the endpoint, or makes one of this reference another."""
    _landscape(uri).state.put_host(host)


def put_vm(uri: str, vm: VmFacts) -> None:
    """Defines a VM at the endpoint, or makes one of this reference another."""
    _landscape(uri).state.put_vm(vm)


def remove_vm(uri: str, vm_ref: str) -> None:
    """The VM is gone, running or not."""
    _landscape(uri).state.remove_vm(vm_ref)


def reset(uri: str) -> None:
    """Puts the endpoint back to what its URI says: hosts, VMs, power states, connections, no faults, no migrations."""
    _landscape(uri).state.reset()


def _landscape(uri: str) -> Landscape:
    return Landscape(parse_uri(uri))


class SimulatedHypervisor:
    """See :class:`cloudops.hypervisors.port.Hypervisor`. The guest's answer to ``SHUTDOWN`` is immediate."""

    def __init__(self, spec: EndpointSpec) -> None:
        """Raises :class:`~cloudops.hypervisors.simulated.fleet.InvalidUri`."""
        self.spec = spec
        self._uri = parse_uri(spec.uri)
        self._land = Landscape(self._uri)
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
                "Read hosts and VMs", ok=True, detail=f"{len(self._land.hosts())} hosts, {len(self._land.vms())} VMs"
            ),
        ]

    def hosts(self) -> Sequence[HostFacts]:
        self._enter()
        hosts, vms = self._land.hosts(), self._land.vms()
        resting = maintenance.entered(self._state, vms, self._uri.maintenance_seconds or 0)
        running: dict[str, list[VmFacts]] = {ref: [] for ref in hosts}
        for vm in vms:
            if vm.power_state in _ALIVE and vm.host_ref in running:
                running[vm.host_ref].append(vm)
        return [
            HostFacts(
                ref=host.ref,
                name=host.name,
                cpu_threads=host.cpu_threads,
                cpu_mhz=host.cpu_mhz,
                memory_mib=host.memory_mib,
                memory_free_mib=max(
                    0, host.memory_mib - HOST_OWN_MEMORY_MIB - sum(vm.memory_mib for vm in running[host.ref])
                ),
                hypervisor_version=VERSION,
                cpu_model=host.cpu_model,
                cpu_percent=min(100.0, 25.0 * sum(vm.vcpus for vm in running[host.ref]) / host.cpu_threads),
                networks=host.networks,
                datastores=host.datastores,
                migration_uri=self.spec.uri,
                in_maintenance=host.ref in resting,
            )
            for host in hosts.values()
        ]

    def vms(self) -> Sequence[VmFacts]:
        self._enter()
        return self._land.vms()

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
        with self._state.store.write():
            if action is PowerAction.START:
                maintenance.demand_open(self._state, vm.host_ref, self._uri.name)
            if jobs.running(self._state, vm_ref) is not None and action is not PowerAction.STOP:
                raise Busy(f"VM {vm.name} is being moved.")
            jobs.cancel(self._state, vm_ref, f"VM {vm.name} was stopped.")
            resizing.follow_power(self._state, vm, result)
            self._state.set_power(vm_ref, result)

    def check_migration(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> Sequence[Objection]:
        self._enter()
        vm = self._vm(vm_ref)
        try:
            land, host = self._destination(vm, target)
        except HypervisorError as error:
            return [_objection(error)]
        return [_objection(error) for error in land.objections(vm, host, options)]

    def migrate(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        self._enter()
        vm = self._vm(vm_ref)
        if jobs.running(self._state, vm_ref) is not None:
            raise Busy(f"VM {vm.name} is being moved already.")
        if options.live and vm.power_state not in _ALIVE:
            raise VmNotRunning(f"VM {vm.name} is {vm.power_state}.")
        if not options.live and vm.power_state in _ALIVE:
            raise InvalidState(f"VM {vm.name} is {vm.power_state}; only a VM that is off moves without its memory.")
        land, host = self._destination(vm, target)
        if objections := land.objections(vm, host, options):
            raise objections[0]
        rate = float(options.bandwidth_mib_per_second or self._uri.migrate_mib_per_second)
        jobs.begin(self._state, land.state, vm, host.ref, options, min(rate, float(self._uri.migrate_mib_per_second)))

    def migration(self, vm_ref: str) -> MigrationStatus:
        self._enter()
        return jobs.status(self._state, vm_ref)

    def abort_migration(self, vm_ref: str) -> None:
        self._enter()
        jobs.abort(self._state, vm_ref)

    def discard(self, vm_ref: str) -> None:
        self._enter()
        vm = self._vm(vm_ref)
        if vm.power_state in _ALIVE:
            raise InvalidState(f"VM {vm.name} is {vm.power_state} here; only a definition that is off is a leftover.")
        self._state.remove_vm(vm_ref)

    def enter_maintenance(self, host_ref: str) -> None:
        self._demand_maintenance_mode(host_ref)
        maintenance.enter(self._state, host_ref)

    def leave_maintenance(self, host_ref: str) -> None:
        self._demand_maintenance_mode(host_ref)
        maintenance.leave(self._state, host_ref)

    def _demand_maintenance_mode(self, host_ref: str) -> None:
        self._enter()
        if self._uri.maintenance_seconds is None:
            raise NotSupported("Simulated hosts have no maintenance mode of their own without maintenance_seconds=….")
        if host_ref not in self._land.hosts():
            raise HypervisorError(f"{self._uri.name} has no host {host_ref}.")

    def scaling(self, vm_ref: str) -> ScalingState:
        self._enter()
        return resizing.scaling(self._state, self._vm(vm_ref))

    def resize(self, vm_ref: str, step: ResizeStep) -> None:
        self._enter()
        resizing.resize(self._state, self._vm(vm_ref), step)

    def define(self, vm_ref: str, shape: Shape) -> None:
        self._enter()
        resizing.define(self._state, self._vm(vm_ref), shape)

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
    def _state(self) -> State:
        return self._land.state

    def _watch(self, seen: int) -> None:
        state = self._state
        while not self._closed.is_set():
            seen, events = state.wait_changes(seen, WATCH_SECONDS, before=lambda: jobs.settle(state.store))
            for event in events:
                self._hub.publish(event)

    def _destination(self, vm: VmFacts, target: MigrationTarget) -> tuple[Landscape, SimulatedHost]:
        """Where the target's host is simulated. Raises what keeps this host from reaching it."""
        if target.spec.kind is not Kind.SIMULATED:
            raise DestinationIncompatible(f"A simulated VM cannot run on a host of kind {target.spec.kind}.")
        land = _landscape(target.spec.uri)
        faults = land.state.faults()
        host = land.hosts().get(target.host_ref)
        if land.uri.state != self._uri.state or faults.disconnected or host is None:
            raise DestinationUnreachable(f"{self._uri.name} cannot reach {target.host_ref} at {land.uri.name}.")
        if (land.state.endpoint, host.ref) == (self._state.endpoint, vm.host_ref):
            raise SameHost(f"VM {vm.name} is on {host.name}.")
        maintenance.demand_open(land.state, host.ref, host.name)
        return land, host

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

    def _vm(self, vm_ref: str) -> VmFacts:
        vm = self._land.vm(vm_ref)
        if vm is None:
            raise VmNotFound(f"{self._uri.name} has no VM {vm_ref}.")
        return vm

    def _running(self, vm_ref: str) -> VmFacts:
        vm = self._vm(vm_ref)
        if vm.power_state not in _ALIVE:
            raise VmNotRunning(f"VM {vm.name} is {vm.power_state}.")
        return vm

    def _is_console_live(self, label: str, vm_ref: str) -> bool:
        vm = self._land.vm(vm_ref)
        return vm is not None and vm.power_state in _ALIVE and self._state.is_console_live(label)


def _objection(error: HypervisorError) -> Objection:
    return Objection(error.code, error.detail or error.title, error.remedy)
