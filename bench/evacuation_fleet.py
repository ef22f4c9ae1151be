"""Fleets with a hidden legal answer: every VM is first put where it may end up, then some are lifted onto the hosts to
be emptied, and others shuffled, so that an answer may need a third VM to move."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from placement.planner.model import Host, Kind, Limits, Problem, Rule, Vm

MEMORY_MIB = 512 * 1024
VCPUS = 256
TAGS = 8
TAGS_PER_HOST = 3
HOSTS_PER_CLUSTER = 10
GROUP_SIZE = 5
SIZES = ((2, 4), (2, 8), (4, 16), (8, 32), (16, 64), (8, 96))


@dataclass(frozen=True)
class Shape:
    """What a fleet looks like. ``tagged``, ``bound`` and ``apart`` are shares of the VMs: with a tag, with storage that
    only their cluster reaches, in a group that must be apart."""

    name: str
    hosts: int
    sources: int
    fill: float
    shuffled: int = 0
    tagged: float = 0.4
    bound: float = 0.3
    apart: float = 0.15

    def hard(self) -> Shape:
        """The same with far more demands."""
        return Shape(
            f"{self.name}, hard", self.hosts, self.sources, self.fill, self.shuffled, tagged=0.7, bound=0.5, apart=0.3
        )


@dataclass
class Planted:
    """A fleet in the making; sizes in GiB."""

    shape: Shape
    rng: random.Random
    cluster: list[int]
    tags: list[frozenset[int]]
    sources: frozenset[int]
    memory: list[int] = field(default_factory=list)
    vcpus: list[int] = field(default_factory=list)
    tag: list[int] = field(default_factory=list)
    bound: list[bool] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    used_memory: list[int] = field(default_factory=list)
    used_vcpus: list[int] = field(default_factory=list)
    mates: dict[int, list[int]] = field(default_factory=dict)
    open_groups: set[int] = field(default_factory=set)

    def fits(self, v: int, host: int) -> bool:
        """Room and demands, groups included; where the VM is now counts as its cluster."""
        return (
            self.used_memory[host] + self.memory[v] <= MEMORY_MIB // 1024
            and self.used_vcpus[host] + self.vcpus[v] <= VCPUS
            and (self.tag[v] < 0 or self.tag[v] in self.tags[host])
            and not (self.bound[v] and self.cluster[host] != self.cluster[self.at[v]])
            and not (self.group[v] >= 0 and self._mate_on(v, host))
        )

    def _mate_on(self, v: int, host: int) -> bool:
        return any(self.at[w] == host for w in self.mates[self.group[v]] if w != v)

    def move(self, v: int, host: int) -> None:
        old = self.at[v]
        self.used_memory[old] -= self.memory[v]
        self.used_vcpus[old] -= self.vcpus[v]
        self.used_memory[host] += self.memory[v]
        self.used_vcpus[host] += self.vcpus[v]
        self.at[v] = host


def planted(shape: Shape, seed: int, limits: Limits | None = None) -> Problem:
    """A problem of this shape that can be solved."""
    fleet = _empty(shape, random.Random(seed))
    _fill(fleet)
    _lift(fleet)
    _shuffle(fleet)
    return _problem(fleet, limits or Limits(), seed)


def _empty(shape: Shape, rng: random.Random) -> Planted:
    clusters = max(2, shape.hosts // HOSTS_PER_CLUSTER)
    cluster = [host % clusters for host in range(shape.hosts)]
    if shape.sources == 1:
        sources = frozenset([rng.randrange(shape.hosts)])
    else:
        whole = [host for host in range(shape.hosts) if cluster[host] == 0] + [
            host for host in range(shape.hosts) if cluster[host]
        ]
        sources = frozenset(whole[: shape.sources])
    tags = [frozenset(rng.sample(range(TAGS), TAGS_PER_HOST)) for _ in range(shape.hosts)]
    fleet = Planted(shape, rng, cluster, tags, sources)
    fleet.used_memory = [0] * shape.hosts
    fleet.used_vcpus = [0] * shape.hosts
    return fleet


def _fill(fleet: Planted) -> None:
    rng, limit = fleet.rng, MEMORY_MIB / 1024 * fleet.shape.fill
    for host in range(fleet.shape.hosts):
        misses = 0
        while host not in fleet.sources and misses < 12 and fleet.used_memory[host] < limit:
            vcpus, memory = rng.choice(SIZES)
            if fleet.used_memory[host] + memory > limit + 2 or fleet.used_vcpus[host] + vcpus > VCPUS:
                misses += 1
                continue
            _add(fleet, host, vcpus, memory)
            fleet.group.append(_group(fleet, host))


def _add(fleet: Planted, host: int, vcpus: int, memory: int) -> None:
    rng = fleet.rng
    fleet.memory.append(memory)
    fleet.vcpus.append(vcpus)
    fleet.tag.append(rng.choice(sorted(fleet.tags[host])) if rng.random() < fleet.shape.tagged else -1)
    fleet.bound.append(rng.random() < fleet.shape.bound)
    fleet.at.append(host)
    fleet.used_memory[host] += memory
    fleet.used_vcpus[host] += vcpus


def _group(fleet: Planted, host: int) -> int:
    """The group the newest VM, which is on this host, joins; -1 for none."""
    rng = fleet.rng
    if rng.random() >= fleet.shape.apart:
        return -1
    v = len(fleet.at) - 1
    fitting = [group for group in sorted(fleet.open_groups) if all(fleet.at[w] != host for w in fleet.mates[group])]
    if fitting and rng.random() < 0.75:
        group = rng.choice(fitting)
    else:
        group = len(fleet.mates)
        fleet.open_groups.add(group)
        fleet.mates[group] = []
    fleet.mates[group].append(v)
    if len(fleet.mates[group]) >= GROUP_SIZE:
        fleet.open_groups.discard(group)
    return group


def _lift(fleet: Planted) -> None:
    """Moves VMs from where they are planted onto the hosts to be emptied."""
    limit = MEMORY_MIB / 1024 * min(fleet.shape.fill, 0.95)
    order = list(range(len(fleet.at)))
    fleet.rng.shuffle(order)
    for v in order:
        for host in sorted(fleet.sources, key=lambda one: (fleet.used_memory[one], one)):
            if fleet.used_memory[host] + fleet.memory[v] <= limit and fleet.fits(v, host):
                fleet.move(v, host)
                break


def _shuffle(fleet: Planted) -> None:
    """Moves other VMs into the gaps that the planted answer needs."""
    done = 0
    order = [v for v, host in enumerate(fleet.at) if host not in fleet.sources and fleet.memory[v] >= 8]
    fleet.rng.shuffle(order)
    for v in order:
        if done >= fleet.shape.shuffled:
            break
        hosts = [
            h for h in range(fleet.shape.hosts) if h not in fleet.sources and h != fleet.at[v] and fleet.fits(v, h)
        ]
        if hosts:
            fleet.move(v, max(hosts, key=lambda host: fleet.used_memory[host]))
            done += 1


def _problem(fleet: Planted, limits: Limits, seed: int) -> Problem:
    count = fleet.shape.hosts
    hosts = tuple(
        Host(
            id=f"h{i}",
            name=f"host-{i:03}",
            cluster=f"cluster-{fleet.cluster[i]}",
            memory_mib=MEMORY_MIB,
            vcpus=VCPUS,
            tags=frozenset(f"t{tag}" for tag in fleet.tags[i]),
        )
        for i in range(count)
    )
    with_tag = [sum(1 << i for i in range(count) if tag in fleet.tags[i]) for tag in range(TAGS)]
    in_cluster = {c: sum(1 << i for i in range(count) if fleet.cluster[i] == c) for c in set(fleet.cluster)}
    shared: dict[tuple[int, int], tuple[Rule, ...]] = {}
    vms = []
    for v, host in enumerate(fleet.at):
        key = (fleet.tag[v], fleet.cluster[host] if fleet.bound[v] else -1)
        if key not in shared:
            rules = [Rule(Kind.TAG, f"t{key[0]}", with_tag[key[0]])] if key[0] >= 0 else []
            rules += [Rule(Kind.DATASTORE, f"store-{key[1]}", in_cluster[key[1]])] if key[1] >= 0 else []
            shared[key] = tuple(rules)
        apart = (f"g{fleet.group[v]}",) if fleet.group[v] >= 0 else ()
        size = fleet.memory[v] * 1024
        vms.append(Vm(f"v{v}", f"vm-{v:05}", f"h{host}", size, fleet.vcpus[v], shared[key], apart))
    sources = frozenset(f"h{host}" for host in fleet.sources)
    return Problem(hosts, tuple(vms), sources, limits, seed=seed)
