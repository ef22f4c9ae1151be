"""The same seeded fleet and requests for ours and for every peer. No imports beyond the standard library: peers run
this file in environments of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

SHAPES = ((2, 4_096, 40), (4, 8_192, 60), (8, 32_768, 100), (16, 65_536, 200))
THREADS, CPU_RATIO, MEMORY_MIB, DISK_GB = 64, 4.0, 512 * 1024, 4_000
TAGS = 16
TAGS_PER_HOST = 4
HOSTS_PER_CLUSTER = 50


@dataclass(frozen=True)
class BenchHost:
    """A host: 64 threads (promised four times), 512 GiB, 4 of 16 tags, about ten VMs on it."""

    uuid: str
    name: str
    cluster: int
    tags: tuple[int, ...]
    vms: tuple[tuple[str, tuple[int, int, int]], ...]


def hosts(count: int, seed: int = 7) -> Iterator[BenchHost]:
    """The fleet, always the same for a count."""
    chance = random.Random(seed)
    clusters = clusters_of(count)
    for number in range(count):
        vms, memory, disk = [], 0, 0
        for _ in range(chance.randint(6, 14)):
            shape = chance.choice(SHAPES)
            if memory + shape[1] <= MEMORY_MIB and disk + shape[2] <= DISK_GB:
                vms.append((uuid(chance), shape))
                memory, disk = memory + shape[1], disk + shape[2]
        tags = tuple(chance.sample(range(TAGS), TAGS_PER_HOST))
        yield BenchHost(uuid(chance), f"host-{number:06}", number % clusters, tags, tuple(vms))


def clusters_of(count: int) -> int:
    return max(2, count // HOSTS_PER_CLUSTER)


def requests(seed: int) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Size and one tag, without end."""
    chance = random.Random(seed)
    while True:
        yield chance.choice(SHAPES), chance.randrange(TAGS)


def uuid(chance: random.Random) -> str:
    return str(UUID(int=chance.getrandbits(128), version=4))
