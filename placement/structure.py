"""What rarely changes of a fleet: who the hosts are, their clusters, tags, networks and storage, as columns.

No Django. Hosts are in the order of their clusters' positions, then names.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self
from uuid import UUID

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]

COMPRESSION = 1


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """One cluster. Empty and None follow the request."""

    id: str
    name: str
    position: int = 0
    allocator: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    cpu_threshold_percent: int | None = None
    memory_threshold_percent: int | None = None


@dataclass(frozen=True)
class Structure:
    """Who the hosts are. Hosts of one cluster are neighbours: ``starts[c]`` is the first of cluster ``c``.

    ``tags``, ``networks`` and ``datastores`` hold one boolean column per name; a host that reports no network (no
    datastore) at all is not known to lack any.
    """

    clusters: tuple[ClusterRow, ...]
    ids: tuple[str, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    cpu_models: tuple[str, ...]
    cluster: Ints
    kind: Ints
    cpu_model: Ints
    tags: Mapping[str, Bools]
    networks: Mapping[str, Bools]
    datastores: Mapping[str, Bools]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Host id to its place in the columns."""
        return {key: place for place, key in enumerate(self.ids)}

    @cached_property
    def starts(self) -> Ints:
        return np.searchsorted(self.cluster, np.arange(len(self.clusters)))

    @cached_property
    def salt(self) -> npt.NDArray[np.uint64]:
        """64 random bits of each host, always the same."""
        return np.array([UUID(key).int & 0xFFFFFFFFFFFFFFFF for key in self.ids], dtype=np.uint64)

    @cached_property
    def networks_known(self) -> Bools:
        return _any(self.networks, len(self))

    @cached_property
    def datastores_known(self) -> Bools:
        return _any(self.datastores, len(self))

    @cached_property
    def has_policies(self) -> bool:
        """Whether any cluster has an allocator of its own."""
        return any(cluster.allocator for cluster in self.clusters)

    @cached_property
    def lowest_thresholds(self) -> tuple[int, int]:
        """The lowest CPU and memory threshold that a cluster has of its own; 100 for none."""
        cpu = [c.cpu_threshold_percent for c in self.clusters if c.cpu_threshold_percent is not None]
        memory = [c.memory_threshold_percent for c in self.clusters if c.memory_threshold_percent is not None]
        return min(cpu, default=100), min(memory, default=100)

    def hosts_of(self, cluster: int) -> slice:
        """The places of a cluster's hosts."""
        stop = self.starts[cluster + 1] if cluster + 1 < len(self.clusters) else len(self)
        return slice(int(self.starts[cluster]), int(stop))

    def cluster_of(self, place: int) -> ClusterRow:
        return self.clusters[int(self.cluster[place])]

    @cached_property
    def encoded(self) -> bytes:
        """Compressed; :meth:`decode` gives it back."""
        named = {"tags": self.tags, "networks": self.networks, "datastores": self.datastores}
        head = {
            "clusters": [list(_fields(cluster)) for cluster in self.clusters],
            "names": self.names,
            "kinds": self.kinds,
            "cpu_models": self.cpu_models,
            "named": {key: list(columns) for key, columns in named.items()},
        }
        parts = [b"".join(UUID(key).bytes for key in self.ids)]
        parts += [column.astype("<i4").tobytes() for column in (self.cluster, self.kind, self.cpu_model)]
        parts += [np.packbits(column).tobytes() for columns in named.values() for column in columns.values()]
        text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
        return zlib.compress(len(text).to_bytes(4, "little") + text + b"".join(parts), COMPRESSION)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        raw = zlib.decompress(data)
        size = int.from_bytes(raw[:4], "little")
        head = json.loads(raw[4 : 4 + size])
        reader = Reader(raw, 4 + size)
        count = len(head["names"])
        ids = tuple(str(UUID(bytes=reader.take(16))) for _ in range(count))
        cluster, kind, cpu_model = (np.frombuffer(reader.take(4 * count), "<i4") for _ in range(3))
        packed = -(-count // 8)
        named = {
            key: {
                name: np.unpackbits(np.frombuffer(reader.take(packed), np.uint8), count=count).astype(bool)
                for name in names
            }
            for key, names in head["named"].items()
        }
        return cls(
            clusters=tuple(ClusterRow(*values) for values in head["clusters"]),
            ids=ids,
            names=tuple(head["names"]),
            kinds=tuple(head["kinds"]),
            cpu_models=tuple(head["cpu_models"]),
            cluster=cluster,
            kind=kind,
            cpu_model=cpu_model,
            **named,
        )


def _fields(c: ClusterRow) -> tuple[Any, ...]:
    thresholds = c.cpu_threshold_percent, c.memory_threshold_percent
    return (c.id, c.name, c.position, c.allocator, dict(c.weights), *thresholds)


@dataclass
class Reader:
    raw: bytes
    at: int

    def take(self, size: int) -> bytes:
        self.at += size
        return self.raw[self.at - size : self.at]


def _any(columns: Mapping[str, Bools], count: int) -> Bools:
    known = np.zeros(count, dtype=bool)
    for column in columns.values():
        known |= column
    return known
