"""The managed objects the fake knows, as plain values; ``properties/`` turns them into what the API shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.vsphere.fake.plans import ClusterPlan, DatastorePlan, HostPlan, VmPlan
from tests.vsphere.fake.types import refuse, vmodl

if TYPE_CHECKING:
    from tests.vsphere.fake.world import World

BOOTED_AT = datetime(2026, 1, 1, tzinfo=UTC)

Reader = Callable[[Any], Any]


class Entity:
    """One managed object. ``revision`` is the world's when it last changed; read values are kept until then."""

    ref: Any
    world: World
    readers: Mapping[str, Reader]

    def __init__(self) -> None:
        self.revision = 1
        self._values: dict[str, Any] = {}
        self.texts: dict[tuple[str, str], str] = {}
        """Properties as the wire has them, by version and path."""

    @property
    def mo_id(self) -> str:
        return str(self.ref._moId)

    def touched(self, revision: int) -> None:
        self.revision = revision
        self._values.clear()
        self.texts.clear()

    def value(self, path: str) -> Any:
        """The property at a dotted path, None where it is unset. Raises: InvalidProperty."""
        top, _, rest = path.partition(".")
        value = self._top(top)
        for part in rest.split(".") if rest else ():
            if value is None:
                return None
            if not hasattr(value, part):
                raise refuse(vmodl.query.InvalidProperty, f"no property {path}", name=path)
            value = getattr(value, part)
        return value

    def _top(self, name: str) -> Any:
        if name not in self._values:
            reader = self.readers.get(name)
            if reader is None:
                try:
                    self.ref._GetPropertyInfo(name)
                except AttributeError:
                    raise refuse(vmodl.query.InvalidProperty, f"no property {name}", name=name) from None
            self._values[name] = reader(self) if reader else None
        return self._values[name]


@dataclass(eq=False)
class Folder(Entity):
    name: str
    parent: Entity | None = None
    children: list[Entity] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()


@dataclass(eq=False)
class Datacenter(Entity):
    name: str
    parent: Entity
    vm_folder: Folder
    host_folder: Folder
    datastore_folder: Folder
    network_folder: Folder

    def __post_init__(self) -> None:
        super().__init__()


@dataclass(eq=False)
class Pool(Entity):
    """A resource pool: each cluster's or single host's root pool."""

    owner: Cluster | None = None

    def __post_init__(self) -> None:
        super().__init__()


@dataclass(eq=False)
class Cluster(Entity):
    """A cluster, or with ``is_single`` the compute resource around one host."""

    plan: ClusterPlan
    parent: Entity
    pool: Pool
    is_single: bool = False
    hosts: list[Host] = field(default_factory=list)
    drs: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.drs = self.plan.drs

    @property
    def name(self) -> str:
        return self.plan.name


@dataclass(eq=False)
class Datastore(Entity):
    plan: DatastorePlan
    parent: Entity

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def name(self) -> str:
        return self.plan.name


@dataclass(eq=False)
class Network(Entity):
    name: str
    parent: Entity

    def __post_init__(self) -> None:
        super().__init__()


@dataclass(eq=False)
class Host(Entity):
    """``address`` and ``port`` are where its /ticket/ is served. ``connection``: connected, disconnected,
    notResponding."""

    plan: HostPlan
    cluster: Cluster
    address: str = "127.0.0.1"
    port: int = 443
    connection: str = "connected"
    in_maintenance: bool = False
    tags: list[str] = field(default_factory=list)
    datastores: list[Datastore] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    vms: dict[str, Vm] = field(default_factory=dict)
    cpu_used_mhz: int = 2000
    memory_used_mib: int | None = None
    uuid: str = ""
    thumbprint_sha1: str = ""
    entering: int = 0
    """Tasks that wait to put it into maintenance; nothing comes to it meanwhile."""
    certificate_pem: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.tags = list(self.plan.tags)

    @property
    def name(self) -> str:
        return self.plan.name

    def effective_evc(self) -> str:
        return self.cluster.plan.evc_mode or self.plan.evc_mode

    def demand_mib(self) -> int:
        """What it uses, unless somebody set it: two GiB and its running VMs' memory."""
        if self.memory_used_mib is not None:
            return self.memory_used_mib
        return 2048 + sum(vm.memory_mib for vm in self.vms.values() if vm.power == "poweredOn")


@dataclass(eq=False)
class Vm(Entity):
    """``boot_memory_mib`` and ``boot_cpus``: what it was last started with, None while it is off."""

    plan: VmPlan
    name: str
    host: Host
    datastore: Datastore
    network: Network
    cpus: int
    memory_mib: int
    max_connections: int
    cpu_hot_add: bool
    cpu_hot_remove: bool
    memory_hot_add: bool
    instance_uuid: str
    bios_uuid: str
    vnc: str = ""
    power: str = "poweredOn"
    boot_memory_mib: int | None = None
    boot_cpus: int | None = None
    cpu_shares: int = 0
    cpu_shares_level: str = "normal"
    cpu_limit_mhz: int = -1
    cpu_reservation_mhz: int = 0
    memory_shares: int = 0
    memory_shares_level: str = "normal"
    memory_limit_mib: int = -1
    memory_reservation_mib: int = 0
    connections: int = 0
    increment_mib: int = 128
    annotation: str = ""
    guest_memory_used_mib: int = 1024
    cpu_used_mhz: int = 200
    tools_running: bool = True
    busy: bool = False
    """A task changes it; others get TaskInProgress."""
    required_evc: str = ""
    """The CPU mode that it was started with; a host must have at least this."""
    config_version: int = 1
    template: bool = False
    booted_at: datetime = BOOTED_AT

    def __post_init__(self) -> None:
        super().__init__()
        if self.power == "poweredOn":
            self.start()

    def start(self) -> None:
        """What a start settles: the size that hot-add counts from, and the CPU mode."""
        self.boot_memory_mib, self.boot_cpus = self.memory_mib, self.cpus
        self.required_evc = self.host.effective_evc()

    def stop(self) -> None:
        self.boot_memory_mib = self.boot_cpus = None
        self.required_evc = ""

    def limit_mib(self) -> int:
        """The most memory it could have live (config.hotPlugMemoryLimit): 16 times what it started with; a Linux
        guest that started with 3 GB or less stays below 3 GB."""
        boot = self.boot_memory_mib or self.memory_mib
        limit = 16 * boot
        if self.plan.linux and boot <= 3072:
            limit = min(limit, 3072)
        return limit


@dataclass(eq=False)
class View(Entity):
    """A container view; what it shows follows the inventory."""

    container: Entity
    kinds: tuple[Any, ...]
    recursive: bool

    def __post_init__(self) -> None:
        super().__init__()

    def _top(self, name: str) -> Any:
        return self.readers[name](self)


@dataclass(eq=False)
class Task(Entity):
    """``state``: queued, running, success, error. The work runs in the fake's event loop."""

    name: str
    entity: Any
    user: str
    state: str = "running"
    progress: int = 0
    result: Any = None
    error: Any = None
    cancelable: bool = True
    cancelled: bool = False
    begun_at: datetime = BOOTED_AT
    ended_at: datetime | None = None

    def __post_init__(self) -> None:
        super().__init__()
