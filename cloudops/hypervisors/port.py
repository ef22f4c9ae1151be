"""The one way CloudOps speaks to a hypervisor: a narrow port, its value types and its typed errors.

A driver implements :class:`Hypervisor` for one *management endpoint* (one libvirt daemon, one vCenter). An endpoint
may hold many hosts. Every method blocks, is safe to call from several threads, and returns or raises within the
endpoint's ``timeout_seconds``; it never runs on an event loop (see ``registry``). Sizes are MiB, times are aware UTC.

No Django and no vendor SDK is imported here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Protocol


class Kind(enum.StrEnum):
    """Which driver serves an endpoint."""

    LIBVIRT = "libvirt"
    VSPHERE = "vsphere"
    SIMULATED = "simulated"


class PowerState(enum.StrEnum):
    """What the hypervisor reports of a VM; ``UNKNOWN`` when its host cannot be asked."""

    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"
    CRASHED = "crashed"
    UNKNOWN = "unknown"


class PowerAction(enum.StrEnum):
    """What may be asked of a VM. ``SHUTDOWN`` and ``REBOOT`` ask the guest (ACPI); ``STOP`` and ``RESET`` do not."""

    START = "start"
    SHUTDOWN = "shutdown"
    REBOOT = "reboot"
    STOP = "stop"
    RESET = "reset"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """All a driver needs to reach a management endpoint. ``secret`` is plain text here and must never be logged."""

    key: str
    kind: Kind
    uri: str
    username: str = ""
    secret: str = field(default="", repr=False)
    certificate_sha256: str = ""
    timeout_seconds: float = 10.0
    keepalive_seconds: int = 3


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host as its hypervisor reports it. ``ref`` is stable within the endpoint."""

    ref: str
    name: str
    cpu_threads: int
    cpu_mhz: int
    memory_mib: int
    memory_free_mib: int
    hypervisor_version: str
    cpu_model: str = ""
    cpu_percent: float | None = None


@dataclass(frozen=True, slots=True)
class ScalingFacts:
    """The ceiling a VM was started with (libvirt ``maxMemory``/``vcpu``), as far as the platform tells."""

    max_vcpus: int
    max_memory_mib: int
    memory_slots: int = 0
    memory_slots_used: int = 0


@dataclass(frozen=True, slots=True)
class VmFacts:
    """A VM as its hypervisor reports it. ``ref`` is the VM's UUID on libvirt, its instance UUID on vSphere."""

    ref: str
    name: str
    host_ref: str
    power_state: PowerState
    vcpus: int
    memory_mib: int
    scaling: ScalingFacts | None = None
    guest_os: str = ""
    max_consoles: int | None = None
    has_console: bool = True


class Transport(enum.StrEnum):
    """How the relay reaches a VM's VNC server."""

    TCP = "tcp"
    TLS = "tls"
    FD = "fd"
    WSS = "wss"


@dataclass(frozen=True, slots=True)
class ConsoleEndpoint:
    """Where a VM's VNC server is *now*, and what the relay needs to speak RFB to it.

    ``TCP``/``TLS``: ``host`` and ``port``. ``FD``: ``fd`` is a connected socket that the receiver owns and closes.
    ``WSS``: ``url`` with the ``binary`` subprotocol, certificate pinned by ``certificate_sha256``. ``password`` is the
    VNC password (at most 8 characters count), empty for none. ``host`` may be a wildcard or loopback address as the
    guest's VNC server listens on it; the caller substitutes the host's management address.
    """

    transport: Transport
    host: str = ""
    port: int = 0
    fd: int = -1
    url: str = ""
    certificate_sha256: str = ""
    password: str = field(default="", repr=False)
    ca_pem: str = ""


@dataclass(frozen=True, slots=True)
class ConsoleConnection:
    """One display connection that the platform really has (libvirt: ``query-vnc``; vSphere: ``QueryConnections``).

    ``label`` identifies it for :meth:`Hypervisor.drop_connections`. A connection over a passed file descriptor has
    family ``unix`` and no address.
    """

    label: str
    family: str
    client_host: str = ""
    client_port: int = 0
    websocket: bool = False


@dataclass(frozen=True, slots=True)
class Screenshot:
    """A picture of a VM's display."""

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One step of "test connection": what was tried, whether it worked, and what to do when it did not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    elapsed_ms: float = 0.0


class EventKind(enum.StrEnum):
    """What a driver tells between polls."""

    VM_CHANGED = "vm_changed"
    VM_REMOVED = "vm_removed"
    CONSOLE_CHANGED = "console_changed"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class HypervisorEvent:
    """Something happened; the receiver re-reads what it needs. ``power_state`` is set when the event tells it."""

    kind: EventKind
    vm_ref: str = ""
    at: datetime | None = None
    power_state: PowerState | None = None
    detail: str = ""


EventSink = Callable[[HypervisorEvent], None]


class Hypervisor(Protocol):
    """One management endpoint. See the module docstring for what every method promises."""

    spec: EndpointSpec

    def close(self) -> None:
        """Lets go of the endpoint; other methods raise :class:`Unreachable` afterwards. Idempotent."""

    def probe(self) -> Sequence[ProbeStep]:
        """Tests the way to the endpoint step by step; stops at the first that fails. Never raises."""

    def hosts(self) -> Sequence[HostFacts]:
        """Every host behind this endpoint."""

    def vms(self) -> Sequence[VmFacts]:
        """Every VM of every host behind this endpoint, running or not."""

    def vm(self, vm_ref: str) -> VmFacts:
        """One VM. Raises :class:`VmNotFound`."""

    def console(self, vm_ref: str) -> ConsoleEndpoint:
        """Where the VM's console is now; an ``FD`` endpoint is a fresh socket, authentication already skipped (libvirt
        ``virDomainOpenGraphicsFD``, local connections only). Raises :class:`VmNotFound`, :class:`VmNotRunning`,
        :class:`NoConsole`."""

    def connections(self, vm_ref: str) -> Sequence[ConsoleConnection]:
        """Display connections the platform has for a VM; empty when it is off. Raises :class:`NotSupported`."""

    def drop_connections(self, vm_ref: str, labels: Sequence[str]) -> Sequence[str]:
        """Ends the named connections where the platform can; returns the labels that are gone.
        Raises :class:`NotSupported` where one connection cannot be ended without the others."""

    def screenshot(self, vm_ref: str) -> Screenshot:
        """The VM's display now. Raises :class:`VmNotRunning`, :class:`NotSupported`."""

    def power(self, vm_ref: str, action: PowerAction) -> None:
        """Asks for a power change; the new state is seen through :meth:`vm` and events, not through this return."""

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        """Calls ``sink`` (from any thread, never after cancellation) for every event; returns the cancellation.
        A driver reconnects by itself and reports ``DISCONNECTED``/``CONNECTED``; after the latter, re-sync."""


class HypervisorError(Exception):
    """A hypervisor refused or failed. ``code`` is stable; ``detail`` holds the platform's own words and numbers."""

    code: ClassVar[str] = "hypervisor-error"
    title: ClassVar[str] = "The hypervisor reported an error."
    remedy: str = "Look at the detail; if it says nothing, look at the hypervisor's own log."
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str = "",
        *,
        platform_code: str = "",
        numbers: Mapping[str, object] | None = None,
        remedy: str = "",
    ):
        """``remedy`` replaces the class's where the case is known better."""
        super().__init__(detail or self.title)
        self.detail = detail
        if remedy:
            self.remedy = remedy
        self.platform_code = platform_code
        self.numbers = dict(numbers or {})


class Unreachable(HypervisorError):
    code = "hypervisor-unreachable"
    title = "The host's management service cannot be reached."
    remedy = "Check that the host is up, that the address and port are right, and that no firewall is between."
    retryable = True


class TimedOut(Unreachable):
    code = "hypervisor-timeout"
    title = "The host's management service did not answer in time."
    remedy = "The host may be frozen or overloaded. Look at its load and at its libvirtd or hostd log."


class Overloaded(Unreachable):
    code = "hypervisor-overloaded"
    title = "Too many requests wait for this host already."
    remedy = "The host answers slowly. Try again in a few seconds; look at its load if this stays."


class AuthenticationFailed(HypervisorError):
    code = "hypervisor-authentication"
    title = "The host's management service refused the credentials."
    remedy = "Correct the user name, the password or the client certificate of this host."


class CertificateMismatch(HypervisorError):
    code = "hypervisor-certificate"
    title = "The certificate of the management service is not the expected one."
    remedy = "Compare the fingerprint with the host's own; accept the new one only if it was changed on purpose."


class VmNotFound(HypervisorError):
    code = "vm-not-found"
    title = "The hypervisor does not know this VM."
    remedy = "It may have been moved or removed; synchronise the host."


class VmNotRunning(HypervisorError):
    code = "vm-not-running"
    title = "The VM is not running."
    remedy = "Start the VM first."


class NoConsole(HypervisorError):
    code = "vm-without-console"
    title = "The VM has no VNC display."
    remedy = "Add a VNC graphics device to the VM's definition and restart the VM."


class InvalidState(HypervisorError):
    code = "vm-invalid-state"
    title = "The VM's state does not allow this."
    remedy = "Wait until the running operation ends, look at the VM's state and try again."


class Busy(HypervisorError):
    code = "vm-busy"
    title = "Another operation holds the VM."
    remedy = "Wait until it ends and try again."
    retryable = True


class NotSupported(HypervisorError):
    code = "not-supported"
    title = "This platform cannot do that."
    remedy = "Use another way; the detail says which."
