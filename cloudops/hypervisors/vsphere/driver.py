"""The vSphere driver: one vCenter, or one standalone ESXi host, with all the hosts and VMs behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cloudops.hypervisors.hub import EventHub
from cloudops.hypervisors.port import (
    ConsoleConnection,
    ConsoleEndpoint,
    EndpointSpec,
    EventSink,
    HostFacts,
    MigrationOptions,
    MigrationStatus,
    MigrationTarget,
    Objection,
    PowerAction,
    ProbeStep,
    ResizeStep,
    ScalingState,
    Screenshot,
    Shape,
    VmFacts,
)
from cloudops.hypervisors.vsphere import connections, console, inventory, power, scaling
from cloudops.hypervisors.vsphere.lanes import HostLanes
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import find_vm
from cloudops.hypervisors.vsphere.maintenance import Maintenance
from cloudops.hypervisors.vsphere.migration import Migrations
from cloudops.hypervisors.vsphere.probe import probe
from cloudops.hypervisors.vsphere.session import Session
from cloudops.hypervisors.vsphere.tags import TagReader
from cloudops.hypervisors.vsphere.updates import UpdateLoop


class VsphereHypervisor:
    """See :class:`cloudops.hypervisors.port.Hypervisor`. ``ref`` of a host is vCenter's own (``host-21``), that of a VM
    its instance UUID, which it keeps wherever it moves."""

    def __init__(self, spec: EndpointSpec) -> None:
        """Raises :class:`~cloudops.hypervisors.vsphere.address.InvalidAddress`; does not connect."""
        self.spec = spec
        self._session = Session(spec)
        self._lanes = HostLanes()
        self._hub = EventHub(f"events of {spec.uri}")
        self._updates = UpdateLoop(self._hub, self._session)
        self._tags = TagReader(self._session)
        self._migrations = Migrations(self._session)
        self._maintenance = Maintenance(self._session)

    def close(self) -> None:
        self._updates.close()
        self._session.close()
        self._hub.close()

    def probe(self) -> Sequence[ProbeStep]:
        return probe(self._session)

    def hosts(self) -> Sequence[HostFacts]:
        return self._session.call(lambda link: inventory.hosts(link, self._tags))

    def vms(self) -> Sequence[VmFacts]:
        return self._session.call(inventory.vms)

    def vm(self, vm_ref: str) -> VmFacts:
        return self._session.call(lambda link: inventory.vm(link, vm_ref))

    def console(self, vm_ref: str) -> ConsoleEndpoint:
        def find(link: Link) -> ConsoleEndpoint:
            found = find_vm(link, vm_ref)
            found.demand_running()
            with self._lanes.enter(found):
                return console.endpoint(link, found)

        return self._session.call(find)

    def connections(self, vm_ref: str) -> Sequence[ConsoleConnection]:
        def ask(link: Link) -> Sequence[ConsoleConnection]:
            found = find_vm(link, vm_ref)
            with self._lanes.enter(found):
                return connections.query(link, found) if found.is_on else []

        return self._session.call(ask)

    def drop_connections(self, vm_ref: str, labels: Sequence[str]) -> Sequence[str]:
        def drop(link: Link) -> Sequence[str]:
            found = find_vm(link, vm_ref)
            with self._lanes.enter(found):
                return connections.drop(link, found, labels) if found.is_on else []

        return self._session.call(drop)

    def screenshot(self, vm_ref: str) -> Screenshot:
        return self._session.call(lambda link: power.screenshot(link, vm_ref))

    def power(self, vm_ref: str, action: PowerAction) -> None:
        def act(link: Link) -> None:
            found = find_vm(link, vm_ref)
            with self._lanes.enter(found):
                power.act(link, found, action)

        self._session.call(act)

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        return self._updates.subscribe(sink)

    def check_migration(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> Sequence[Objection]:
        return self._migrations.check(vm_ref, target, options)

    def migrate(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        self._migrations.begin(vm_ref, target, options)

    def migration(self, vm_ref: str) -> MigrationStatus:
        return self._migrations.status(vm_ref)

    def abort_migration(self, vm_ref: str) -> None:
        self._migrations.abort(vm_ref)

    def discard(self, vm_ref: str) -> None:
        self._session.call(lambda link: power.discard(link, vm_ref))

    def enter_maintenance(self, host_ref: str) -> None:
        self._maintenance.enter(host_ref)

    def leave_maintenance(self, host_ref: str) -> None:
        self._maintenance.leave(host_ref)

    def scaling(self, vm_ref: str) -> ScalingState:
        return self._session.call(lambda link: scaling.read(link, vm_ref))

    def resize(self, vm_ref: str, step: ResizeStep) -> None:
        self._session.call(lambda link: scaling.resize(link, vm_ref, step))

    def define(self, vm_ref: str, shape: Shape) -> None:
        self._session.call(lambda link: scaling.define(link, vm_ref, shape))
