"""A hypervisor whose answers a test writes, behind the product's own registry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cloudops.core.actors import Actor, ActorKind
from cloudops.hypervisors.port import (
    ConsoleConnection,
    ConsoleEndpoint,
    EndpointSpec,
    EventSink,
    HostFacts,
    HypervisorEvent,
    InvalidState,
    MigrationOptions,
    MigrationState,
    MigrationStatus,
    MigrationTarget,
    NotSupported,
    Objection,
    PowerAction,
    PowerState,
    ProbeStep,
    ResizeStep,
    ScalingState,
    Screenshot,
    Shape,
    Transport,
    VmFacts,
    VmNotFound,
)
from cloudops.inventory.models import Cluster, Endpoint, Host

NOW = datetime(2020, 1, 15, 12, 0, tzinfo=UTC)
ADMIN = Actor(ActorKind.USER, "alice", user_id=1, address="192.0.2.7")


EVERYWHERE = "0.0.0.0"  # noqa: S104 - where guests' VNC servers listen


def host_facts(number: int = 1, **changes: Any) -> HostFacts:
    facts = HostFacts(f"host-{number}", f"kvm{number}", 16, 2400, 65_536, 32_768, "QEMU 7.2", "EPYC", 12.5)
    return replace(facts, **changes)


def vm_facts(number: int = 1, *, host: int = 1, **changes: Any) -> VmFacts:
    facts = VmFacts(f"vm-{number}", f"guest{number}", f"host-{host}", PowerState.RUNNING, 2, 2_048)
    return replace(facts, **changes)


@dataclass
class FakeHypervisor:
    """See :class:`cloudops.hypervisors.port.Hypervisor`. ``error`` is raised by every call, ``gate`` holds each up."""

    spec: EndpointSpec = field(default_factory=lambda: EndpointSpec("", "libvirt", ""))  # type: ignore[arg-type]
    host_list: list[HostFacts] = field(default_factory=lambda: [host_facts()])
    vm_list: list[VmFacts] = field(default_factory=list)
    error: Exception | None = None
    gate: threading.Event | None = None
    asked: list[tuple[str, PowerAction]] = field(default_factory=list)
    obeys: bool = True
    sinks: list[EventSink] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    console_endpoint: ConsoleEndpoint = field(
        default_factory=lambda: ConsoleEndpoint(Transport.TCP, host=EVERYWHERE, port=1)
    )

    def _enter(self, name: str) -> None:
        self.calls.append(name)
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.calls.append("close")

    def probe(self) -> Sequence[ProbeStep]:
        try:
            self._enter("probe")
        except Exception as error:
            return [ProbeStep("Connect", ok=False, detail=str(error), remedy="Plug it in.")]
        return [ProbeStep("Connect", ok=True, detail="fine")]

    def hosts(self) -> Sequence[HostFacts]:
        self._enter("hosts")
        return list(self.host_list)

    def vms(self) -> Sequence[VmFacts]:
        self._enter("vms")
        return list(self.vm_list)

    def vm(self, vm_ref: str) -> VmFacts:
        self._enter("vm")
        for vm in self.vm_list:
            if vm.ref == vm_ref:
                return vm
        raise VmNotFound(vm_ref)

    def console(self, vm_ref: str) -> ConsoleEndpoint:
        self._enter("console")
        return self.console_endpoint

    def connections(self, vm_ref: str) -> Sequence[ConsoleConnection]:
        return []

    def drop_connections(self, vm_ref: str, labels: Sequence[str]) -> Sequence[str]:
        return []

    def screenshot(self, vm_ref: str) -> Screenshot:
        self._enter("screenshot")
        return Screenshot(b"picture %d" % self.calls.count("screenshot"), "image/png")

    def power(self, vm_ref: str, action: PowerAction) -> None:
        self._enter("power")
        self.asked.append((vm_ref, action))
        if self.obeys:
            self.set_power(vm_ref, PowerState.OFF if action == PowerAction.STOP else PowerState.RUNNING)

    def check_migration(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> Sequence[Objection]:
        self._enter("check_migration")
        return []

    def migrate(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        raise NotSupported("Tests that move VMs use simulated hosts.")

    def migration(self, vm_ref: str) -> MigrationStatus:
        self._enter("migration")
        return MigrationStatus(MigrationState.NONE)

    def abort_migration(self, vm_ref: str) -> None:
        raise InvalidState("Nothing moves here.")

    def discard(self, vm_ref: str) -> None:
        self._enter("discard")
        self.vm_list = [vm for vm in self.vm_list if vm.ref != vm_ref]

    def enter_maintenance(self, host_ref: str) -> None:
        self._enter("enter_maintenance")
        raise NotSupported("The fake has no maintenance mode of its own.")

    def leave_maintenance(self, host_ref: str) -> None:
        self._enter("leave_maintenance")
        raise NotSupported("The fake has no maintenance mode of its own.")

    def scaling(self, vm_ref: str) -> ScalingState:
        self._enter("scaling")
        raise NotSupported("The fake tells nothing of sizes.")

    def resize(self, vm_ref: str, step: ResizeStep) -> None:
        self._enter("resize")
        raise NotSupported("The fake resizes nothing.")

    def define(self, vm_ref: str, shape: Shape) -> None:
        self._enter("define")
        raise NotSupported("The fake redefines nothing.")

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        if self.error is not None:
            raise self.error
        self.sinks.append(sink)
        return lambda: self.sinks.remove(sink)

    def set_power(self, vm_ref: str, state: PowerState) -> None:
        self.vm_list = [replace(vm, power_state=state) if vm.ref == vm_ref else vm for vm in self.vm_list]

    def tell(self, event: HypervisorEvent) -> None:
        for sink in list(self.sinks):
            sink(event)


def make_endpoint(uri: str, *, hosts: int = 1, cluster: Cluster | None = None) -> Endpoint:
    """An endpoint with hosts ``host-1`` … as rows, never synchronised."""
    endpoint = Endpoint.objects.create(kind="libvirt", uri=uri, timeout_seconds=1)
    where = cluster or Cluster.objects.get_or_create(name="Rack 1")[0]
    for number in range(1, hosts + 1):
        Host.objects.create(endpoint=endpoint, cluster=where, ref=f"host-{number}", name=f"kvm{number}")
    return endpoint
