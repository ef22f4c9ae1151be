"""What a simulated endpoint consists of, computed from its URI alone."""

from __future__ import annotations

import math
import random
import uuid
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

from cloudops.hypervisors.port import (
    DiskFacts,
    DiskKind,
    HypervisorError,
    MemoryDevice,
    MemoryModel,
    PowerState,
    ScalingFacts,
    VmFacts,
)

NAMESPACE = uuid.UUID("6f6a1c58-6f5e-4b8f-9a53-3b7d0f7f5d10")
ROLES = ("web", "db", "cache", "mail", "build", "app", "files", "ldap", "queue", "proxy")
SYSTEMS = ("Debian 12", "Ubuntu 24.04", "Rocky Linux 9", "Windows Server 2022", "FreeBSD 14")
CPU_MODELS = (("EPYC 9354", 3250), ("Xeon Gold 6430", 2100), ("EPYC 7543", 2800))
RUNNING_SHARE = 0.85
HOST_OWN_MEMORY_MIB = 4096
MEMORY_STEP_MIB = 64 * 1024
MAX_HOSTS = 5000
MAX_VMS_PER_HOST = 1000
MIGRATE_MIB_PER_SECOND = 1024
"""About what 10 Gbit/s carry: a VM takes some seconds."""
NETWORK = "lan"
DATASTORE = "san"


class InvalidUri(HypervisorError):
    code = "simulated-uri"
    title = "The URI of the simulated endpoint is not valid."
    remedy = "Write simulated://NAME?hosts=10&vms=20&seed=1, with numbers above zero."


@dataclass(frozen=True, slots=True)
class FleetUri:
    """A parsed URI. ``vms_per_host`` may be 0; ``state`` is empty for a state in memory."""

    name: str
    hosts: int = 1
    vms_per_host: int = 4
    seed: int = 1
    state: str = ""
    max_consoles: int | None = None
    migrate_mib_per_second: int = MIGRATE_MIB_PER_SECOND
    maintenance_seconds: int | None = None
    """How long a host takes into the platform's own maintenance mode; None: it has none."""


@dataclass(frozen=True, slots=True)
class SimulatedHost:
    """What a host is like. Tests make others than those of the fleet."""

    ref: str
    name: str
    cpu_threads: int
    cpu_mhz: int
    cpu_model: str
    memory_mib: int
    networks: tuple[str, ...] = (NETWORK,)
    datastores: tuple[str, ...] = (DATASTORE,)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts and VMs as they are before anybody changed anything, by reference and in order of name."""

    hosts: dict[str, SimulatedHost]
    vms: dict[str, VmFacts]


def parse_uri(uri: str) -> FleetUri:
    """Raises :class:`InvalidUri`."""
    parts = urlsplit(uri)
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    state = options.pop("state", "")
    unknown = options.keys() - {"hosts", "vms", "seed", "max_consoles", "migrate_mib_per_second", "maintenance_seconds"}
    if parts.scheme != "simulated" or not parts.netloc or unknown:
        raise InvalidUri(f"{uri!r}" + (f" has unknown options: {', '.join(sorted(unknown))}" if unknown else ""))
    try:
        numbers = {key: int(value) for key, value in options.items()}
    except ValueError as error:
        raise InvalidUri(f"{uri!r}: {error}") from error
    hosts, vms = numbers.get("hosts", 1), numbers.get("vms", 4)
    if not (0 < hosts <= MAX_HOSTS and 0 <= vms <= MAX_VMS_PER_HOST):
        raise InvalidUri(f"hosts must be 1 to {MAX_HOSTS}, vms (per host) 0 to {MAX_VMS_PER_HOST}; {uri!r}")
    rate = numbers.get("migrate_mib_per_second", MIGRATE_MIB_PER_SECOND)
    if rate < 1:
        raise InvalidUri(f"migrate_mib_per_second must be 1 or more; {uri!r}")
    consoles, maintenance = numbers.get("max_consoles"), numbers.get("maintenance_seconds")
    return FleetUri(parts.netloc, hosts, vms, numbers.get("seed", 1), state, consoles, rate, maintenance)


@lru_cache(maxsize=64)
def fleet(uri: FleetUri) -> Fleet:
    """The same fleet for the same name, sizes and seed, in every process."""
    hosts: dict[str, SimulatedHost] = {}
    vms: dict[str, VmFacts] = {}
    for number in range(1, uri.hosts + 1):
        name = uri.name if uri.hosts == 1 else f"{uri.name}-{number:0{len(str(uri.hosts))}}"
        # A generator per host: a larger fleet begins with the hosts of a smaller one.
        random_ = random.Random(f"{uri.name}/{uri.seed}/{number}")
        ref = str(uuid.uuid5(NAMESPACE, f"{uri.name}/{uri.seed}/{number}"))
        residents = [_vm(uri, random_, ref, name, index) for index in range(1, uri.vms_per_host + 1)]
        vms |= {vm.ref: vm for vm in residents}
        needed_mib = HOST_OWN_MEMORY_MIB + sum(vm.memory_mib for vm in residents) * random_.uniform(1.1, 1.8)
        model, mhz = random_.choice(CPU_MODELS)
        hosts[ref] = SimulatedHost(
            ref=ref,
            name=name,
            cpu_threads=max(16, 16 * math.ceil(sum(vm.vcpus for vm in residents) / 32)),
            cpu_mhz=mhz,
            cpu_model=model,
            memory_mib=MEMORY_STEP_MIB * math.ceil(needed_mib / MEMORY_STEP_MIB),
        )
    return Fleet(hosts, vms)


def _vm(uri: FleetUri, random_: random.Random, host_ref: str, host_name: str, index: int) -> VmFacts:
    vcpus = random_.choice((1, 2, 2, 4, 8))
    memory_mib = vcpus * random_.choice((512, 1024, 2048, 4096))
    return VmFacts(
        ref=str(uuid.uuid5(NAMESPACE, f"{host_ref}/{index}")),
        name=f"{random_.choice(ROLES)}-{host_name}-{index:02}",
        host_ref=host_ref,
        power_state=PowerState.RUNNING if random_.random() < RUNNING_SHARE else PowerState.OFF,
        vcpus=vcpus,
        memory_mib=memory_mib,
        scaling=_headroom(index, vcpus, memory_mib),
        guest_os=random_.choice(SYSTEMS),
        max_consoles=uri.max_consoles,
        disks=(DiskFacts("vda", f"{DATASTORE}/{host_name}-{index:02}.qcow2", DiskKind.SHARED, DATASTORE, 20 * 1024),),
        networks=(NETWORK,),
    )


def _headroom(index: int, vcpus: int, memory_mib: int) -> ScalingFacts:
    """Of five VMs three have a virtio-mem device, one has slots for DIMMs, and one was started without headroom."""
    facts = ScalingFacts(
        max_vcpus=vcpus * 2,
        max_memory_mib=memory_mib * 4,
        memory_slots=8,
        boot_memory_mib=memory_mib,
        balloon_mib=memory_mib,
        has_balloon=True,
        dimm_limit_mib=memory_mib * 4,
    )
    if index % 5 == 4:
        return facts
    if index % 5 == 0:
        return replace(facts, max_vcpus=vcpus, max_memory_mib=memory_mib, memory_slots=0, dimm_limit_mib=0)
    device = MemoryDevice("ua-virtiomem0", MemoryModel.VIRTIO_MEM, memory_mib * 3, 0, 0, 2)
    return replace(facts, memory_devices=(device,), memory_slots_used=1)
