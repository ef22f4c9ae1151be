"""What makes one fitting host better than another: weighers give 0 to 1 per host, allocators are named sets of them.

No Django.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from placement.fleet import Fleet
from placement.spec import Groups, Spec
from placement.structure import ClusterRow, Floats, Ints

Weigher = Callable[[Spec, Fleet, Ints], Floats]
PREFERENCE = 2.0
"""A preference counts as much as an empty host against a full one."""


def free_memory(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """Share of the host's memory that is still free with this VM on it."""
    return (fleet.memory_free_mib[places] - spec.memory_mib) / fleet.memory_whole_mib[places]


def free_cpu(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """Share of the host's vCPUs that is still free with this VM on it."""
    return (fleet.vcpu_free[places] - spec.vcpus) / fleet.vcpu_whole[places]


def free_consoles(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """Free console slots, against the host that has most."""
    free: Floats = np.maximum(fleet.console_limit[places] - fleet.consoles[places] - spec.consoles, 0.0)
    most: float = max(1.0, float(free.max(initial=0.0)))
    return free / most


def soft_tags(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """Share of the preferred tags that the host carries."""
    found = np.zeros(len(places))
    for name in spec.soft_tags:
        if name in fleet.structure.tags:
            found += fleet.structure.tags[name][places]
    return found / max(1, len(spec.soft_tags))


def soft_apart(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """1 where no VM is that this one would rather not be with."""
    return 1.0 - _on(spec.soft_apart_hosts, fleet, places)


def soft_together(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """1 where a VM is that this one would like to be with."""
    return _on(spec.soft_together_hosts, fleet, places)


def _on(groups: Groups, fleet: Fleet, places: Ints) -> Floats:
    column = np.zeros(len(fleet))
    column[[fleet.structure.index[host] for host in groups if host in fleet.structure.index]] = 1.0
    return column[places]


def home_cluster(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """1 for hosts of the cluster where the VM is."""
    is_home = np.array([cluster.id == spec.home_cluster for cluster in fleet.structure.clusters], dtype=float)
    return is_home[fleet.structure.cluster[places]]


def order(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """1 for the first host of the first cluster, falling towards 0: clusters in order, hosts by name."""
    rank = cluster_ranks(spec, fleet)
    count = len(fleet)
    at: Floats = (rank[fleet.structure.cluster[places]] * count + places).astype(np.float64)
    return 1.0 - at / float(len(rank) * count)


def cluster_ranks(spec: Spec, fleet: Fleet) -> Ints:
    """Each cluster's place in the order asked for, 0 first: by what its usable hosts have free, or by position."""
    count = len(fleet.structure.clusters)
    if spec.cluster_order == "position" or not count:
        return np.arange(count)
    usable = fleet.schedulable & (fleet.connection == 1) & (fleet.hold == 0)
    cpu = spec.cluster_order == "cpu"
    free = fleet.vcpu_free if cpu else fleet.memory_free_mib
    sums = np.add.reduceat(np.where(usable, free, 0), fleet.structure.starts, dtype=np.int64)
    ranks = np.empty(count, dtype=np.int64)
    ranks[np.argsort(-sums, kind="stable")] = np.arange(count)
    return ranks


def draw(spec: Spec, fleet: Fleet, places: Ints) -> Floats:
    """A number of each host's own, drawn from the seed (splitmix64)."""
    return (mix(fleet.structure.salt[places] ^ np.uint64(spec.seed & 0xFFFFFFFFFFFFFFFF)) >> np.uint64(11)) / 2.0**53


def mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spreads every bit over all others (splitmix64, Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


_WORD = 0xFFFFFFFFFFFFFFFF


def turn(seed: int, count: int) -> int:
    """Which of so many has its turn with this seed: :func:`mix` of one number, without an array around it."""
    value = (seed + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return (value ^ (value >> 31)) % count


WEIGHERS: Mapping[str, Weigher] = {
    "order": order,
    "free-memory": free_memory,
    "free-cpu": free_cpu,
    "used-memory": lambda spec, fleet, places: 1.0 - free_memory(spec, fleet, places),
    "used-cpu": lambda spec, fleet, places: 1.0 - free_cpu(spec, fleet, places),
    "free-consoles": free_consoles,
    "home-cluster": home_cluster,
    "random": draw,
    "soft-tags": soft_tags,
    "soft-apart": soft_apart,
    "soft-together": soft_together,
}
SETS: Mapping[str, Mapping[str, float]] = {
    "first-fit": {"order": 1.0},
    "spread": {"free-memory": 1.0, "free-cpu": 1.0},
    "pack": {"used-memory": 1.0, "used-cpu": 1.0},
    "least-consoles": {"free-consoles": 1.0},
    "random": {"random": 1.0},
}
TAKES_TURNS = frozenset({"spread", "pack", "least-consoles", "weights"})
"""Allocators whose equally good hosts may take turns; first-fit means the first, and random draws anyway."""


def allocator_for(spec: Spec, cluster: ClusterRow | None) -> tuple[str, Mapping[str, float]]:
    """The allocator's name and its weights: the request's, else the cluster's, else the installation's.

    Weights that name nothing are the spread allocator's.
    """
    own = cluster.allocator if cluster is not None else ""
    name = spec.allocator or own or spec.default_allocator
    if name != "weights":
        return name, SETS[name]
    chosen = spec.weights or (cluster.weights if cluster is not None else {})
    known = {key: float(value) for key, value in sorted(chosen.items()) if key in WEIGHERS}
    return name, known or SETS["spread"]


def with_preferences(spec: Spec, weights: Mapping[str, float]) -> dict[str, float]:
    """The weights that are asked, with the preferences that this request has."""
    asked = {
        "soft-tags": bool(spec.soft_tags),
        "soft-apart": bool(spec.soft_apart_hosts),
        "soft-together": bool(spec.soft_together_hosts),
    }
    preferences = {name: PREFERENCE for name, present in asked.items() if present and name not in weights}
    return {**weights, **preferences}
