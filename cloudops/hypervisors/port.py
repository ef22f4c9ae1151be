"""The one way CloudOps speaks to a hypervisor: a narrow port, its value types and its typed errors.

A driver implements :class:`Hypervisor` for one *management endpoint* (one libvirt daemon, one vCenter). An endpoint
may hold many hosts. Every method blocks, is safe to call from several threads, and returns or raises within the
endpoint's ``timeout_seconds``; it never runs on an event loop (see ``registry``). Sizes are MiB, times are aware UTC.

No Django and no vendor SDK is imported here. Values and errors are in ``port_values`` and ``port_errors``; everybody
imports them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cloudops.hypervisors.port_errors import (
    AuthenticationFailed,
    Busy,
    CeilingExceeded,
    CertificateMismatch,
    ConsoleLimitReached,
    CpuIncompatible,
    DestinationIncompatible,
    DestinationUnreachable,
    GuestDidNotFollow,
    HostNotConnected,
    HypervisorError,
    InvalidState,
    MemoryInUse,
    MemoryMisaligned,
    MigrationAborted,
    MigrationFailed,
    MigrationInterrupted,
    MigrationUnsafe,
    NameTaken,
    NetworkMissing,
    NoConsole,
    NoPermission,
    NotSupported,
    OutOfSpace,
    Overloaded,
    ResizeFailed,
    SameHost,
    SlotsExhausted,
    StorageMissing,
    TimedOut,
    Unreachable,
    VcpusNotRemovable,
    VmNotFound,
    VmNotRunning,
)
from cloudops.hypervisors.port_values import (
    ConsoleConnection,
    ConsoleEndpoint,
    DiskFacts,
    DiskKind,
    EndpointSpec,
    EventKind,
    GuestView,
    HostFacts,
    HypervisorEvent,
    Kind,
    MemoryDevice,
    MemoryModel,
    MigrationOptions,
    MigrationState,
    MigrationStatus,
    MigrationTarget,
    Objection,
    PowerAction,
    PowerState,
    ProbeStep,
    ResizeKind,
    ResizeStep,
    ScalingFacts,
    ScalingState,
    Screenshot,
    Shape,
    Transport,
    VmFacts,
)

__all__ = [
    "AuthenticationFailed",
    "Busy",
    "CeilingExceeded",
    "CertificateMismatch",
    "ConsoleConnection",
    "ConsoleEndpoint",
    "ConsoleLimitReached",
    "CpuIncompatible",
    "DestinationIncompatible",
    "DestinationUnreachable",
    "DiskFacts",
    "DiskKind",
    "EndpointSpec",
    "EventKind",
    "EventSink",
    "GuestDidNotFollow",
    "GuestView",
    "HostFacts",
    "HostNotConnected",
    "Hypervisor",
    "HypervisorError",
    "HypervisorEvent",
    "InvalidState",
    "Kind",
    "MemoryDevice",
    "MemoryInUse",
    "MemoryMisaligned",
    "MemoryModel",
    "MigrationAborted",
    "MigrationFailed",
    "MigrationInterrupted",
    "MigrationOptions",
    "MigrationState",
    "MigrationStatus",
    "MigrationTarget",
    "MigrationUnsafe",
    "NameTaken",
    "NetworkMissing",
    "NoConsole",
    "NoPermission",
    "NotSupported",
    "Objection",
    "OutOfSpace",
    "Overloaded",
    "PowerAction",
    "PowerState",
    "ProbeStep",
    "ResizeFailed",
    "ResizeKind",
    "ResizeStep",
    "SameHost",
    "ScalingFacts",
    "ScalingState",
    "Screenshot",
    "Shape",
    "SlotsExhausted",
    "StorageMissing",
    "TimedOut",
    "Transport",
    "Unreachable",
    "VcpusNotRemovable",
    "VmFacts",
    "VmNotFound",
    "VmNotRunning",
]

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
        :class:`NoConsole`; a ``WSS`` endpoint holds a ticket for one connection (``AcquireTicket``), and
        :class:`ConsoleLimitReached` says that there is none."""

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

    def check_migration(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> Sequence[Objection]:
        """Asks both ends whether the destination would take the VM: its CPU, storage, networks, and whether name and
        UUID are free there. Empty when nothing speaks against it. Raises :class:`VmNotFound`; a destination that we
        cannot ask is an objection (``destination-unreachable``)."""

    def migrate(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        """Begins to move a VM; returns once the platform works on it, or when it is done already. The job lives on
        without this process (libvirt: peer to peer). Its end is learned through :meth:`migration` and events.

        Raises :class:`VmNotFound`, :class:`VmNotRunning` (``live`` and it is off), :class:`InvalidState` (not ``live``
        and it is not off), :class:`Busy` (it is being moved already), :class:`MigrationFailed` for what is refused at
        once."""

    def migration(self, vm_ref: str) -> MigrationStatus:
        """The job that moves this VM away from here. ``COMPLETED`` and ``FAILED`` as long as this process or the
        platform remembers, else ``NONE``, also for a VM that is unknown here. A new :meth:`migrate` forgets them, in
        its own process at least: whoever acts on them compares the ``label``."""

    def abort_migration(self, vm_ref: str) -> None:
        """Asks to end the job; the VM goes on here. Raises :class:`InvalidState` when nothing moves or it is too
        late (post-copy has begun)."""

    def discard(self, vm_ref: str) -> None:
        """Removes a leftover definition of a VM that does not run here (libvirt ``virDomainUndefineFlags``), also one
        that a migration left paused behind. Disks stay. Raises :class:`InvalidState` if it runs, :class:`VmNotFound`.
        """

    def enter_maintenance(self, host_ref: str) -> None:
        """Asks the platform for its own maintenance mode, once the host is empty (vSphere ``EnterMaintenanceMode``);
        returns once the platform works on it or is done. Its end is learned through :meth:`hosts`. Asking again is
        harmless. Raises :class:`NotSupported` where the platform has none, :class:`InvalidState` when it refuses."""

    def leave_maintenance(self, host_ref: str) -> None:
        """Ends the platform's maintenance mode, or the way into it. Harmless when it is in neither. Raises
        :class:`NotSupported` where the platform has none."""

    def scaling(self, vm_ref: str) -> ScalingState:
        """The VM's size this moment, what its guest sees of it, and what it would be started as. Raises
        :class:`VmNotFound`."""

    def resize(self, vm_ref: str, step: ResizeStep) -> None:
        """Makes one change to a running VM, and to what it is started as, so that a restart keeps it. Making it again
        is harmless. That this returns does not mean that the guest has followed: :meth:`scaling` tells.

        Raises :class:`VmNotFound`, :class:`VmNotRunning`, :class:`Busy` and :class:`ResizeFailed`'s: among them
        :class:`CeilingExceeded`, :class:`SlotsExhausted`, :class:`MemoryMisaligned`, :class:`VcpusNotRemovable`."""

    def define(self, vm_ref: str, shape: Shape) -> None:
        """Changes what the VM is started as (libvirt ``virDomainDefineXML``); a running VM goes on as it is. Nothing
        else of its definition changes. Raises :class:`VmNotFound`, :class:`Busy`, :class:`ResizeFailed`."""
