"""The port's values: what a hypervisor reports and is given. Sizes are MiB, times are aware UTC."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Self

from cloudops.hypervisors.port_errors import HypervisorError


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
    """A host as its hypervisor reports it. ``ref`` is stable within the endpoint.

    ``networks`` are names of networks and bridges; ``datastores`` name shared storage alike on every host that reaches
    it; ``migration_uri`` is where other hosts may send VMs, when the endpoint's own URI works from elsewhere.
    ``cluster`` and ``tags`` are the platform's own (vSphere), empty where it has none; ``tags`` is None where it was
    not told. ``in_maintenance``: the platform's own maintenance mode. ``problem``: why the management service itself
    does not reach the host (``HostSystem.runtime.connectionState``), empty when it does. ``simulator``: what answers
    says of itself that it only simulates its platform (vSphere ``AboutInfo.name``).
    """

    ref: str
    name: str
    cpu_threads: int
    cpu_mhz: int
    memory_mib: int
    memory_free_mib: int
    hypervisor_version: str
    cpu_model: str = ""
    cpu_percent: float | None = None
    networks: tuple[str, ...] = ()
    datastores: tuple[str, ...] = ()
    migration_uri: str = ""
    cluster: str = ""
    tags: tuple[str, ...] | None = None
    in_maintenance: bool = False
    problem: str = ""
    simulator: bool = False


class MemoryModel(enum.StrEnum):
    """How memory is added to a running VM: ``VIRTIO_MEM`` gives and takes in small blocks, a ``DIMM`` only comes."""

    VIRTIO_MEM = "virtio-mem"
    DIMM = "dimm"


@dataclass(frozen=True, slots=True)
class MemoryDevice:
    """Memory beside what the VM was started with. Of ``size_mib``, ``requested_mib`` is asked for and ``current_mib``
    is what the guest has taken, both in steps of ``block_mib``; a DIMM counts whole."""

    alias: str
    model: MemoryModel
    size_mib: int
    requested_mib: int
    current_mib: int
    block_mib: int


@dataclass(frozen=True, slots=True)
class ScalingFacts:
    """The ceiling a VM was started with, and by which means it can be changed while it runs.

    ``max_memory_mib`` is the most that it could have live, everything counted; ``boot_memory_mib`` what it was started
    with, of which the balloon leaves it ``balloon_mib``. ``dimm_limit_mib`` is libvirt's ``maxMemory``: the most that
    boot memory and devices may be together (0: no device can be added). ``removable_vcpus``: how many of its vCPUs may
    leave while it runs. ``cpu_shares`` and ``cpu_quota_percent`` (of one thread, for the whole VM) are 0 where nothing
    is set. ``cpu_hot_add``, ``memory_hot_add``: whether the platform lets the VM grow live at all.
    """

    max_vcpus: int
    max_memory_mib: int
    memory_slots: int = 0
    memory_slots_used: int = 0
    boot_memory_mib: int = 0
    balloon_mib: int = 0
    has_balloon: bool = False
    dimm_limit_mib: int = 0
    memory_devices: tuple[MemoryDevice, ...] = ()
    memory_step_mib: int = 0
    removable_vcpus: int = 0
    cpu_shares: int = 0
    cpu_quota_percent: int = 0
    cpu_hot_add: bool = True
    memory_hot_add: bool = True

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The facts that ``dataclasses.asdict`` made these values of; names that are not known are left out."""
        known = {one.name for one in fields(cls)}
        said = {name: value for name, value in values.items() if name in known}
        devices = said.pop("memory_devices", ())
        read = tuple(MemoryDevice(**{**one, "model": MemoryModel(one["model"])}) for one in devices)
        return cls(**said, memory_devices=read)


@dataclass(frozen=True, slots=True)
class GuestView:
    """What the guest itself says, each None where it does not tell. ``memory_mib`` is what it has in all, ``used`` what
    it cannot do without (libvirt ``virDomainMemoryStats``: available minus usable)."""

    memory_mib: int | None = None
    memory_used_mib: int | None = None
    vcpus: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What a VM is started as. ``memory_mib`` is its boot memory; ``virtio_mem_mib`` the size of the device from which
    it can grow (0: none), ``virtio_mem_requested_mib`` what it is to have of that from the start. ``max_memory_mib``
    (0: no devices at all) and ``memory_slots`` leave room for DIMMs too. ``cpu_shares`` 0 and ``cpu_quota_percent`` 0:
    nothing is set."""

    vcpus: int
    max_vcpus: int
    memory_mib: int
    max_memory_mib: int = 0
    memory_slots: int = 0
    virtio_mem_mib: int = 0
    virtio_mem_requested_mib: int = 0
    cpu_shares: int = 0
    cpu_quota_percent: int = 0


@dataclass(frozen=True, slots=True)
class ScalingState:
    """A VM's size as it is this moment: the running VM's (or the definition's, when it is off), what the guest sees,
    and what the VM would be started as. ``cpu_control`` False: the host cannot weigh CPUs for a running VM."""

    vcpus: int
    memory_mib: int
    power_state: PowerState
    facts: ScalingFacts
    guest: GuestView
    next_start: Shape
    cpu_control: bool = True


class ResizeKind(enum.StrEnum):
    """What one step of a live resize changes, and what its ``value`` means."""

    VCPUS = "vcpus"  # vCPUs
    VIRTIO_MEM = "virtio-mem"  # MiB requested of the device ``alias``
    DIMM = "dimm"  # MiB of a new DIMM that gets the alias ``alias``
    BALLOON = "balloon"  # MiB of the boot memory that the guest may use
    MEMORY = "memory"  # MiB in all, where the platform has no smaller means (vSphere)
    CPU = "cpu"  # shares of CPU time; 0 the platform's default


@dataclass(frozen=True, slots=True)
class ResizeStep:
    """One change of a running VM. Every value is absolute, so that a step may be made again without harm."""

    kind: ResizeKind
    value: int
    alias: str = ""
    quota_percent: int = 0


class DiskKind(enum.StrEnum):
    """Whether other hosts reach a disk too, as far as the platform tells."""

    SHARED = "shared"
    LOCAL = "local"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """One disk of a VM. ``target`` is what the guest sees (``vda``), ``source`` the file, device or volume behind it.

    ``datastore`` is the name that :attr:`HostFacts.datastores` uses, empty for storage that is not shared.
    """

    target: str
    source: str
    kind: DiskKind
    datastore: str = ""
    size_mib: int = 0
    removable: bool = False


@dataclass(frozen=True, slots=True)
class VmFacts:
    """A VM as its hypervisor reports it. ``ref`` is the VM's UUID on libvirt, its instance UUID on vSphere.

    ``networks`` are those that :attr:`HostFacts.networks` names too; ``cpu_model`` is what the guest was given, empty
    for the hypervisor's default, which any host has. ``console_connections``: how many display connections the platform
    counts (``numMksConnections``), None where :meth:`Hypervisor.connections` tells.
    """

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
    disks: tuple[DiskFacts, ...] = ()
    networks: tuple[str, ...] = ()
    cpu_model: str = ""
    console_connections: int | None = None


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
    ``WSS``: ``url`` with the ``binary`` subprotocol, certificate pinned by ``certificate_sha256``, or by
    ``certificate_sha1`` where the platform tells no better (ESXi before 7.0.3). ``password`` is the VNC password (at
    most 8 characters count), empty for none. ``host`` may be a wildcard or loopback address as the guest's VNC server
    listens on it; the caller substitutes the host's management address.
    """

    transport: Transport
    host: str = ""
    port: int = 0
    fd: int = -1
    url: str = ""
    certificate_sha256: str = ""
    certificate_sha1: str = ""
    password: str = field(default="", repr=False)
    ca_pem: str = ""


@dataclass(frozen=True, slots=True)
class ConsoleConnection:
    """One display connection that the platform really has (libvirt: ``query-vnc``; vSphere: ``QueryConnections``).

    ``label`` identifies it for :meth:`Hypervisor.drop_connections`. A connection over a passed file descriptor has
    family ``unix`` and no address. ``user_name`` is who the platform says opened it.
    """

    label: str
    family: str
    client_host: str = ""
    client_port: int = 0
    websocket: bool = False
    user_name: str = ""


@dataclass(frozen=True, slots=True)
class Screenshot:
    """A picture of a VM's display."""

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One step of "test connection": what was tried, whether it worked, and what to do when it did not.

    ``certificate_sha256`` and ``certificate_sha1`` (``AB:CD:…``): of the certificate that was served, whether or not
    it was accepted; empty on every other step.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    elapsed_ms: float = 0.0
    certificate_sha256: str = ""
    certificate_sha1: str = ""


class EventKind(enum.StrEnum):
    """What a driver tells between polls."""

    VM_CHANGED = "vm_changed"
    VM_REMOVED = "vm_removed"
    CONSOLE_CHANGED = "console_changed"
    HOSTS_CHANGED = "hosts_changed"
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


@dataclass(frozen=True, slots=True)
class MigrationTarget:
    """Where a VM is to go. ``spec`` is how *we* reach the destination, ``uri`` how the *source host* does."""

    spec: EndpointSpec
    host_ref: str
    uri: str


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """How a VM is moved. ``live`` off: only the definition of a VM that is off. ``bandwidth_mib_per_second`` 0: no
    limit. ``auto_converge`` slows a guest that writes faster than its memory is copied; ``post_copy`` lets it run at
    the destination before all is copied, which ends for sure but loses the VM if the line breaks then.
    ``copy_storage`` copies disks that are not shared. ``label`` is the caller's name for this one attempt, which what
    is remembered of it carries."""

    live: bool = True
    bandwidth_mib_per_second: int = 0
    downtime_milliseconds: int = 300
    auto_converge: bool = True
    post_copy: bool = False
    copy_storage: bool = False
    label: str = ""


class MigrationState(enum.StrEnum):
    """``NONE``: no job runs, and none is remembered: whoever asks looks where the VM is."""

    NONE = "none"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """How far a migration is. ``remaining`` may grow while the guest writes; ``error`` is set when it failed.
    ``label`` is the options' for a job that has ended, so that an earlier one is not taken for it."""

    state: MigrationState
    memory_total_mib: int = 0
    memory_remaining_mib: int = 0
    memory_sent_mib: int = 0
    rate_mib_per_second: float = 0.0
    downtime_milliseconds: float | None = None
    elapsed_seconds: float = 0.0
    post_copy: bool = False
    error: HypervisorError | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a destination would not take a VM; ``code`` is that of the error a migration there would end with."""

    code: str
    detail: str
    remedy: str
