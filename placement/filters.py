"""The rules that a host must meet, each one boolean column over the fleet, and what each needs and finds on a host.

No Django. A filter's column is None when it has nothing to say about this request: then every host passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from placement.fleet import CONNECTIONS, HOLDS, UP, Fleet
from placement.spec import Groups, Spec
from placement.structure import Bools, Floats, Ints

Column = Bools | None
NEVER = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """What a filter needs, what a host has, and what is missing, in JSON's own types."""

    needed: Any
    available: Any
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """One rule. ``ease`` orders what could be changed to let a host pass, the easiest first; 0: nothing could.

    ``about_load``: it looks at what is on the hosts now, so that its answer changes as VMs move.
    ``shortfall``: how far hosts are from passing, relative to what is needed, to compare them by.
    """

    name: str
    passes: Callable[[Spec, Fleet], Column]
    measure: Callable[[Spec, Fleet, int], Measure]
    ease: int = NEVER
    about_load: bool = False
    shortfall: Callable[[Spec, Fleet, Ints], Floats] | None = field(default=None)


def _only(spec: Spec, fleet: Fleet) -> Column:
    if spec.only_hosts is None:
        return None
    column = np.zeros(len(fleet), dtype=bool)
    column[_places(fleet, spec.only_hosts)] = True
    return column


def _excluded(spec: Spec, fleet: Fleet) -> Column:
    if not spec.exclude_hosts:
        return None
    column = np.ones(len(fleet), dtype=bool)
    column[_places(fleet, spec.exclude_hosts)] = False
    return column


def _places(fleet: Fleet, hosts: Iterable[str]) -> list[int]:
    index = fleet.structure.index
    return [index[host] for host in hosts if host in index]


def _scope(spec: Spec, fleet: Fleet) -> Column:
    if spec.across_clusters or spec.home_cluster is None:
        return None
    column = np.zeros(len(fleet), dtype=bool)
    for number, cluster in enumerate(fleet.structure.clusters):
        if cluster.id == spec.home_cluster:
            column[fleet.structure.hosts_of(number)] = True
    return column


def _kind(spec: Spec, fleet: Fleet) -> Column:
    return _one_of(spec.kind, fleet.structure.kinds, fleet.structure.kind, len(fleet))


def _cpu(spec: Spec, fleet: Fleet) -> Column:
    """A guest that was given its host's own CPU needs the same; what a host does not tell is not held against it."""
    wanted = _one_of(spec.cpu_model, fleet.structure.cpu_models, fleet.structure.cpu_model, len(fleet))
    unknown = _one_of("", fleet.structure.cpu_models, fleet.structure.cpu_model, len(fleet), empty=True)
    return None if wanted is None or unknown is None else wanted | unknown


def _one_of(value: str, known: tuple[str, ...], column: Ints, count: int, *, empty: bool = False) -> Column:
    if not value and not empty:
        return None
    if value not in known:
        return np.zeros(count, dtype=bool)
    return None if len(known) == 1 else column == known.index(value)


def _all_of(names: Iterable[str], columns: Mapping[str, Bools], count: int) -> Column:
    found: Column = None
    for name in names:
        column = columns.get(name)
        if column is None:
            return np.zeros(count, dtype=bool)
        found = column if found is None else found & column
    return found


def _tags(spec: Spec, fleet: Fleet) -> Column:
    return _all_of(spec.tags, fleet.structure.tags, len(fleet))


def _networks(spec: Spec, fleet: Fleet) -> Column:
    found = _all_of(spec.networks, fleet.structure.networks, len(fleet))
    return None if found is None else found | ~fleet.structure.networks_known


def _datastores(spec: Spec, fleet: Fleet) -> Column:
    found = _all_of(spec.datastores, fleet.structure.datastores, len(fleet))
    return None if found is None else found | ~fleet.structure.datastores_known


def _local_disks(spec: Spec, fleet: Fleet) -> Column:
    return np.zeros(len(fleet), dtype=bool) if spec.local_disks else None


def _together(spec: Spec, fleet: Fleet) -> Column:
    if not spec.together_hosts:
        return None
    wanted = _names(spec.together_hosts)
    column = np.zeros(len(fleet), dtype=bool)
    column[_places(fleet, [host for host, names in spec.together_hosts.items() if wanted <= set(names)])] = True
    return column


def _apart(spec: Spec, fleet: Fleet) -> Column:
    if not spec.apart_hosts:
        return None
    column = np.ones(len(fleet), dtype=bool)
    column[_places(fleet, spec.apart_hosts)] = False
    return column


def _names(groups: Groups) -> set[str]:
    return {name for names in groups.values() for name in names}


def _thresholds(spec: Spec, fleet: Fleet) -> Column:
    if not spec.has_thresholds:
        return None
    cpu, memory = fleet.structure.lowest_thresholds
    if min(cpu, memory, spec.cpu_threshold_percent, spec.memory_threshold_percent) >= 100:
        return None
    open_ = np.ones(len(fleet.structure.clusters), dtype=bool)
    for number in range(len(open_)):
        open_[number] = all(percent <= limit for _, percent, limit in cluster_load(spec, fleet, number))
    return open_[fleet.structure.cluster]


def cluster_load(spec: Spec, fleet: Fleet, number: int) -> list[tuple[str, float, int]]:
    """Of CPU and memory: how many percent of a cluster would be promised with this VM, and the threshold."""
    hosts, cluster = fleet.structure.hosts_of(number), fleet.structure.clusters[number]
    found = []
    thresholds = (
        (spec.cpu_threshold_percent, cluster.cpu_threshold_percent),
        (spec.memory_threshold_percent, cluster.memory_threshold_percent),
    )
    loads = (
        ("CPU", spec.vcpus, fleet.vcpu_claimed, fleet.vcpu_capacity),
        ("memory", spec.memory_mib, fleet.memory_claimed_mib, fleet.memory_capacity_mib),
    )
    for (name, needed, claimed, capacity), (otherwise, own) in zip(loads, thresholds, strict=True):
        limit = otherwise if own is None else own
        whole = int(capacity[hosts].sum(dtype=np.int64))
        percent = 100.0 * (int(claimed[hosts].sum(dtype=np.int64)) + needed) / whole if whole else 0.0
        found.append((name, round(percent, 1), limit if limit < 100 else 1_000_000))
    return found


def _relative(needed: int, free: Ints) -> Floats:
    return (needed - free) / max(1, needed)


def _consoles(spec: Spec, fleet: Fleet) -> Column:
    return None if not spec.consoles else fleet.console_limit - fleet.consoles >= spec.consoles


def _measure_only(spec: Spec, fleet: Fleet, place: int) -> Measure:
    names = [fleet.structure.names[index] for index in _places(fleet, spec.only_hosts or ())]
    return Measure(names, fleet.structure.names[place], (spec.only_reason,) if spec.only_reason else ())


def _measure_excluded(spec: Spec, fleet: Fleet, place: int) -> Measure:
    reason = spec.exclude_hosts.get(fleet.structure.ids[place], "")
    return Measure("", "", (reason,) if reason else ())


def _measure_scope(spec: Spec, fleet: Fleet, place: int) -> Measure:
    home = next((c.name for c in fleet.structure.clusters if c.id == spec.home_cluster), "")
    return Measure(home, fleet.structure.cluster_of(place).name)


def _missing(names: Iterable[str], columns: Mapping[str, Bools], place: int) -> tuple[str, ...]:
    return tuple(name for name in names if name not in columns or not columns[name][place])


def _has(columns: Mapping[str, Bools], place: int) -> list[str]:
    return [name for name, column in columns.items() if column[place]]


def _measure_named(attribute: str) -> Callable[[Spec, Fleet, int], Measure]:
    def measure(spec: Spec, fleet: Fleet, place: int) -> Measure:
        names, columns = list(getattr(spec, attribute)), getattr(fleet.structure, attribute)
        return Measure(names, _has(columns, place), _missing(names, columns, place))

    return measure


def _measure_together(spec: Spec, fleet: Fleet, place: int) -> Measure:
    here = set(spec.together_hosts.get(fleet.structure.ids[place], ()))
    wanted = _names(spec.together_hosts)
    return Measure(sorted(wanted), sorted(here), tuple(sorted(wanted - here)))


def _measure_apart(spec: Spec, fleet: Fleet, place: int) -> Measure:
    here = tuple(spec.apart_hosts.get(fleet.structure.ids[place], ()))
    return Measure([], list(here), here)


def _measure_thresholds(spec: Spec, fleet: Fleet, place: int) -> Measure:
    load = cluster_load(spec, fleet, int(fleet.structure.cluster[place]))
    over = tuple(name for name, percent, limit in load if percent > limit)
    limits = {name: limit for name, _, limit in load if limit <= 100}
    return Measure(limits, {name: percent for name, percent, _ in load if name in limits}, over)


FILTERS: tuple[Filter, ...] = (
    Filter("only-hosts", _only, _measure_only),
    Filter("excluded-hosts", _excluded, _measure_excluded),
    Filter("kind", _kind, lambda s, f, i: Measure(s.kind, f.structure.kinds[int(f.structure.kind[i])])),
    Filter("schedulable", lambda s, f: f.schedulable, lambda s, f, i: Measure(True, bool(f.schedulable[i])), ease=2),
    Filter(
        "connection",
        lambda s, f: f.connection == UP,
        lambda s, f, i: Measure("up", CONNECTIONS[int(f.connection[i])]),
        ease=9,
    ),
    Filter("hold", lambda s, f: f.hold == 0, lambda s, f, i: Measure("", HOLDS[int(f.hold[i])]), ease=8),
    Filter("cluster-scope", _scope, _measure_scope, ease=1),
    Filter("tags", _tags, _measure_named("tags"), ease=4),
    Filter("networks", _networks, _measure_named("networks"), ease=10),
    Filter("datastores", _datastores, _measure_named("datastores"), ease=11),
    Filter("local-disks", _local_disks, lambda s, f, i: Measure([], [], s.local_disks), ease=3),
    Filter(
        "cpu-model",
        _cpu,
        lambda s, f, i: Measure(s.cpu_model, f.structure.cpu_models[int(f.structure.cpu_model[i])]),
    ),
    Filter("together", _together, _measure_together, ease=7, about_load=True),
    Filter("apart", _apart, _measure_apart, ease=7, about_load=True),
    Filter("threshold", _thresholds, _measure_thresholds, ease=6, about_load=True),
    Filter(
        "vcpus",
        lambda s, f: f.vcpu_free >= s.vcpus,
        lambda s, f, i: Measure(s.vcpus, int(f.vcpu_capacity[i]) - int(f.vcpu_claimed[i])),
        ease=5,
        about_load=True,
        shortfall=lambda s, f, p: _relative(s.vcpus, f.vcpu_capacity[p] - f.vcpu_claimed[p]),
    ),
    Filter(
        "memory",
        lambda s, f: f.memory_free_mib >= s.memory_mib,
        lambda s, f, i: Measure(s.memory_mib, int(f.memory_capacity_mib[i]) - int(f.memory_claimed_mib[i])),
        ease=5,
        about_load=True,
        shortfall=lambda s, f, p: _relative(s.memory_mib, f.memory_capacity_mib[p] - f.memory_claimed_mib[p]),
    ),
    Filter(
        "consoles",
        _consoles,
        lambda s, f, i: Measure(s.consoles, int(f.console_limit[i]) - int(f.consoles[i])),
        ease=5,
        about_load=True,
        shortfall=lambda s, f, p: _relative(s.consoles, f.console_limit[p] - f.consoles[p]),
    ),
)
"""In the order in which they are asked; a host counts as lost to the first that it fails."""
BY_NAME = {one.name: one for one in FILTERS}
