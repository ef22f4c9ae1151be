"""What a fake is built of: plain values that tests write down. Sizes are MiB and GiB as named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

SHARED = "shared-1"
NETWORK = "VM Network"


@dataclass(frozen=True)
class HostPlan:
    """An ESXi host. ``cluster`` empty: it stands alone in its vCenter. ``tags`` are vCenter's tags."""

    name: str
    cluster: str = "Cluster A"
    cpu_threads: int = 32
    cpu_mhz: int = 2600
    memory_mib: int = 262144
    version: str = "8.0.2"
    build: str = "22380479"
    cpu_model: str = "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz"
    evc_mode: str = "intel-icelake"
    tags: Sequence[str] = ()
    datastores: Sequence[str] = (SHARED,)
    networks: Sequence[str] = (NETWORK,)
    vmotion: bool = True


@dataclass(frozen=True)
class VmPlan:
    """A VM. ``max_connections``: its ``RemoteDisplay.maxConnections``. ``vnc``: a VNC server to show ("host:port" or
    "unix:/path") in place of the built-in screen."""

    name: str
    host: str = ""
    cpus: int = 2
    memory_mib: int = 4096
    powered_on: bool = True
    max_connections: int = 40
    cpu_hot_add: bool = True
    cpu_hot_remove: bool = False
    memory_hot_add: bool = True
    guest_id: str = "debian11_64Guest"
    guest_name: str = "Debian GNU/Linux 11 (64-bit)"
    linux: bool = True
    disks_gib: Sequence[int] = (20,)
    datastore: str = SHARED
    network: str = NETWORK
    vnc: str = ""
    instance_uuid: str = ""
    template: bool = False


@dataclass(frozen=True)
class DatastorePlan:
    name: str
    capacity_gib: int = 4096
    free_gib: int = 2048
    shared: bool = True


@dataclass(frozen=True)
class ClusterPlan:
    """``evc_mode`` empty: EVC is off. ``drs``: whether EnterMaintenanceMode moves running VMs away by itself."""

    name: str
    evc_mode: str = ""
    drs: bool = False
    ha: bool = False


@dataclass(frozen=True)
class WorldPlan:
    """All of it. Clusters, datastores and networks that hosts and VMs name and nobody lists come by themselves."""

    hosts: Sequence[HostPlan] = ()
    vms: Sequence[VmPlan] = ()
    clusters: Sequence[ClusterPlan] = ()
    datastores: Sequence[DatastorePlan] = ()
    tag_categories: Sequence[str] = field(default=("Placement",))


def simple_plan(hosts: int | Sequence[HostPlan], vms: int | Sequence[VmPlan], *, clusters: int = 1) -> WorldPlan:
    """``hosts`` and ``vms`` as numbers: esx-01…, vm-0001… dealt to them in turn, hosts in ``clusters`` even parts."""
    if isinstance(hosts, int):
        letters = [
            f"Cluster {chr(ord('A') + number)}" if clusters <= 26 else f"Cluster {number}" for number in range(clusters)
        ]
        hosts = [
            HostPlan(f"esx-{number + 1:02d}.lab.example.org", letters[number * clusters // hosts])
            for number in range(hosts)
        ]
    names = [host.name for host in hosts]
    if isinstance(vms, int):
        vms = [VmPlan(f"vm-{number + 1:04d}", names[number % len(names)]) for number in range(vms)]
    return WorldPlan(hosts=hosts, vms=vms)
