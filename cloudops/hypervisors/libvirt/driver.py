"""The libvirt driver: one libvirt daemon, which is one host."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import libvirt
import libvirt_qemu

from cloudops.hypervisors.backoff import Backoff
from cloudops.hypervisors.hub import EventHub
from cloudops.hypervisors.libvirt import scaling
from cloudops.hypervisors.libvirt.compatibility import check
from cloudops.hypervisors.libvirt.domains import VncDisplay, power_state, read_domain, vm_facts
from cloudops.hypervisors.libvirt.hosts import HostReader
from cloudops.hypervisors.libvirt.lookup import find_domain
from cloudops.hypervisors.libvirt.migration import Migrations, demand_idle
from cloudops.hypervisors.libvirt.pool import SessionPool
from cloudops.hypervisors.libvirt.probe import probe
from cloudops.hypervisors.libvirt.reach import ReachReader
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.libvirt.uri import parse_uri
from cloudops.hypervisors.libvirt.watch import EventWatch
from cloudops.hypervisors.pictures import ppm_to_png
from cloudops.hypervisors.port import (
    ConsoleConnection,
    ConsoleEndpoint,
    EndpointSpec,
    EventSink,
    HostFacts,
    HypervisorError,
    MigrationOptions,
    MigrationStatus,
    MigrationTarget,
    NoConsole,
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
    Unreachable,
    VmFacts,
    VmNotRunning,
)

T = TypeVar("T")

PICTURE_CHUNK_BYTES = 256 * 1024
MAX_PICTURE_BYTES = 64 * 1024 * 1024

_POWER: dict[PowerAction, str] = {
    PowerAction.START: "create",
    PowerAction.SHUTDOWN: "shutdown",
    PowerAction.REBOOT: "reboot",
    PowerAction.STOP: "destroy",
    PowerAction.RESET: "reset",
    PowerAction.PAUSE: "suspend",
    PowerAction.RESUME: "resume",
}
_TAKES_FLAGS = {PowerAction.REBOOT, PowerAction.RESET}


class LibvirtHypervisor:
    """See :class:`cloudops.hypervisors.port.Hypervisor`. ``ref`` of its host and VMs are libvirt's UUIDs."""

    def __init__(self, spec: EndpointSpec) -> None:
        """Raises :class:`~cloudops.hypervisors.libvirt.uri.InvalidUri`; does not connect."""
        self.spec = spec
        self._uri = parse_uri(spec.uri)
        self._hub = EventHub(f"events of {spec.uri}")
        backoff = Backoff()
        self._pool = SessionPool(lambda: Session(spec, self._uri), backoff)
        self._watch = EventWatch(self._hub, self._watching_session, backoff, spec.timeout_seconds)
        self._hosts = HostReader()
        self._reach = ReachReader()
        self._migrations = Migrations(spec, self._call)

    def close(self) -> None:
        self._watch.close()
        self._pool.close()
        self._hub.close()

    def probe(self) -> Sequence[ProbeStep]:
        return probe(self.spec, self._uri)

    def hosts(self) -> Sequence[HostFacts]:
        uri = self._uri.from_elsewhere
        return [self._call(lambda handle: self._hosts.read(handle, self._reach.read(handle), uri))]

    def vms(self) -> Sequence[VmFacts]:
        def read(handle: Any) -> Sequence[VmFacts]:
            host_ref = self._hosts.ref(handle)
            reach = self._reach.read(handle)
            found = []
            for domain, stats in handle.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0):
                try:
                    found.append(vm_facts(domain, host_ref, reach, stats["state.state"], stats["state.reason"]))
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # else it went away meanwhile
                        raise
            return found

        return self._call(read)

    def vm(self, vm_ref: str) -> VmFacts:
        def read(handle: Any) -> VmFacts:
            domain = find_domain(handle, vm_ref)
            state, reason = domain.state()
            return vm_facts(domain, self._hosts.ref(handle), self._reach.read(handle), state, reason)

        return self._call(read)

    def console(self, vm_ref: str) -> ConsoleEndpoint:
        def find(handle: Any) -> ConsoleEndpoint:
            domain = _running(handle, vm_ref)
            display = _display(domain)
            # On any other line than a unix socket this call fails and takes the whole connection with it.
            if self._uri.is_local:
                fd = domain.openGraphicsFD(display.index, libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH)
                return ConsoleEndpoint(Transport.FD, fd=fd)
            if not display.port:
                raise NoConsole(
                    f"The VNC display of {domain.name()} listens on no TCP port.",
                    remedy="Give it a listen address and autoport, or manage this host through its unix socket.",
                )
            return ConsoleEndpoint(Transport.TCP, host=display.address, port=display.port, password=display.password)

        return self._call(find)

    def connections(self, vm_ref: str) -> Sequence[ConsoleConnection]:
        def ask(handle: Any) -> Sequence[ConsoleConnection]:
            domain = find_domain(handle, vm_ref)
            if not domain.isActive():
                return []
            answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, '{"execute":"query-vnc"}', 0))
            return read_vnc_clients(answer)

        return self._call(ask)

    def drop_connections(self, vm_ref: str, labels: Sequence[str]) -> Sequence[str]:
        raise NotSupported(
            "QEMU's VNC server cannot end one connection and keep the others.",
            remedy="End the session that holds it, or restart the VM's display by restarting the VM.",
        )

    def screenshot(self, vm_ref: str) -> Screenshot:
        def take(handle: Any) -> tuple[str, bytes]:
            domain = _running(handle, vm_ref)
            _display(domain)
            stream = handle.newStream(0)
            try:
                media_type = domain.screenshot(stream, 0, 0)
                picture = _receive(stream)
                stream.finish()
            except BaseException:
                with contextlib.suppress(libvirt.libvirtError):
                    stream.abort()
                raise
            return media_type, picture

        media_type, picture = self._call(take)
        if media_type == "image/png":
            return Screenshot(picture, media_type)
        return Screenshot(ppm_to_png(picture), "image/png")

    def power(self, vm_ref: str, action: PowerAction) -> None:
        def act(handle: Any) -> None:
            domain = find_domain(handle, vm_ref)
            if action is not PowerAction.STOP:
                demand_idle(domain)
            arguments = (0,) if action in _TAKES_FLAGS else ()
            try:
                getattr(domain, _POWER[action])(*arguments)
            except libvirt.libvirtError as error:
                if action is not PowerAction.START or not scaling.untuned(handle, domain, error):
                    raise
                domain.create()

        self._call(act)

    def check_migration(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> Sequence[Objection]:
        return check(self._call, self.spec, self._reach, vm_ref, target, options)

    def migrate(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        self._migrations.begin(vm_ref, target, options)

    def migration(self, vm_ref: str) -> MigrationStatus:
        return self._migrations.status(vm_ref)

    def abort_migration(self, vm_ref: str) -> None:
        self._migrations.abort(vm_ref)

    def discard(self, vm_ref: str) -> None:
        self._migrations.discard(vm_ref)

    def enter_maintenance(self, host_ref: str) -> None:
        raise NotSupported("libvirt has no maintenance mode of its own; CloudOps keeps VMs away.")

    def leave_maintenance(self, host_ref: str) -> None:
        raise NotSupported("libvirt has no maintenance mode of its own; CloudOps keeps VMs away.")

    def scaling(self, vm_ref: str) -> ScalingState:
        return self._call(lambda handle: scaling.read(handle, vm_ref))

    def resize(self, vm_ref: str, step: ResizeStep) -> None:
        self._call(lambda handle: scaling.resize(handle, vm_ref, step))

    def define(self, vm_ref: str, shape: Shape) -> None:
        self._call(lambda handle: scaling.define(handle, vm_ref, shape))

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        cancel = self._hub.subscribe(sink)
        try:
            self._watch.start()
        except Unreachable:
            cancel()
            raise
        return cancel

    def _watching_session(self, on_end: Callable[[Session, str], None]) -> Session:
        return Session(self.spec, self._uri, on_event=self._hub.publish, on_end=on_end)

    def _call(self, function: Callable[[Any], T]) -> T:
        """``function`` with libvirt's connection object, connecting first if need be; bounded by the spec's timeout."""
        deadline = time.monotonic() + self.spec.timeout_seconds
        with self._pool.session(deadline) as session:
            return session.call(function, deadline)


def read_vnc_clients(answer: dict[str, Any]) -> Sequence[ConsoleConnection]:
    """QEMU's answer to ``query-vnc`` (qapi/ui.json, VncInfo)."""
    clients = answer.get("return", {}).get("clients", [])
    nameless = itertools.count(1)
    return [
        ConsoleConnection(
            # Connections over a passed descriptor have no address: they are told apart by nothing but their order.
            label=f"{client['family']}:{client['host']}:{client['service'] or next(nameless)}",
            family=client["family"],
            client_host=client["host"],
            client_port=int(client["service"]) if str(client["service"]).isdigit() else 0,
            websocket=bool(client.get("websocket", False)),
        )
        for client in clients
    ]


def _running(handle: Any, vm_ref: str) -> Any:
    domain = find_domain(handle, vm_ref)
    state, reason = domain.state()
    current = power_state(state, reason)
    if current not in (PowerState.RUNNING, PowerState.PAUSED):
        raise VmNotRunning(f"VM {domain.name()} is {current}.")
    return domain


def _display(domain: Any) -> VncDisplay:
    display = read_domain(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)).vnc
    if display is None:
        raise NoConsole(f"VM {domain.name()} has no VNC graphics device.")
    return display


def _receive(stream: Any) -> bytes:
    picture = bytearray()
    while chunk := stream.recv(PICTURE_CHUNK_BYTES):
        picture += chunk
        if len(picture) > MAX_PICTURE_BYTES:
            raise HypervisorError(f"The picture of the display is larger than {MAX_PICTURE_BYTES} bytes.")
    return bytes(picture)
