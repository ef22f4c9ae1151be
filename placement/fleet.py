"""The fleet as columns: one entry per host in each, so that a rule is one operation on arrays.

No Django. ``structure`` has what rarely changes, :class:`Fleet` adds what changes with every claim.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from placement.structure import COMPRESSION, Bools, ClusterRow, Ints, Reader, Structure

CONNECTIONS = ("unknown", "up", "unreachable")
UP = CONNECTIONS.index("up")
HOLDS = ("", "draining", "maintenance", "fenced", "platform")
"""Why a host takes nothing although it may be scheduled; the last is its platform's own maintenance mode."""
LOAD: tuple[tuple[str, str], ...] = (
    ("vcpu_capacity", "<i4"),
    ("memory_capacity_mib", "<i4"),
    ("vcpu_claimed", "<i4"),
    ("memory_claimed_mib", "<i4"),
    ("consoles", "<i4"),
    ("console_limit", "<i4"),
    ("schedulable", "?"),
    ("connection", "u1"),
    ("hold", "u1"),
)
"""The columns that change all the time, with their types as stored."""
STATE = tuple(name for name, _ in LOAD if name not in ("consoles", "console_limit"))
"""Those that the database knows with the host."""
CHANGE = np.dtype([("host", "<i4"), *LOAD])
CLAIMED = ("vcpu_claimed", "memory_claimed_mib")
CLAIM = np.dtype([("host", "<i4"), *((name, "<i4") for name in CLAIMED)])
_CLAIM = struct.Struct("<3i")


@dataclass(frozen=True, slots=True)
class HostRow:
    """One host, as columns are made from. Memory in MiB; ``connection`` and ``hold`` in the models' words."""

    id: str
    name: str
    cluster: str
    vcpu_capacity: int
    memory_capacity_mib: int
    vcpu_claimed: int = 0
    memory_claimed_mib: int = 0
    kind: str = ""
    cpu_model: str = ""
    tags: Sequence[str] = ()
    networks: Sequence[str] = ()
    datastores: Sequence[str] = ()
    schedulable: bool = True
    connection: str = "up"
    hold: str = ""
    consoles: int = 0
    console_limit: int = 40


@dataclass
class Derived:
    """What follows from a fleet's columns, kept by an owner who changes it with them. ``standings``: verdicts that
    depend neither on capacity nor on claims, by what is asked."""

    vcpu_free: Ints
    memory_free_mib: Ints
    vcpu_whole: Ints
    memory_whole_mib: Ints
    standings: dict[Any, Any] = field(default_factory=dict)


@dataclass
class Fleet:
    """The hosts and what is on them. Columns are changed in place by their owner only; others :meth:`copy` first."""

    structure: Structure
    vcpu_capacity: Ints
    memory_capacity_mib: Ints
    vcpu_claimed: Ints
    memory_claimed_mib: Ints
    consoles: Ints
    console_limit: Ints
    schedulable: Bools
    connection: Ints
    hold: Ints
    derived: Derived | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def vcpu_free(self) -> Ints:
        """vCPUs that each host has left, below zero where more is claimed than it may promise."""
        return self.vcpu_capacity - self.vcpu_claimed if self.derived is None else self.derived.vcpu_free

    @property
    def memory_free_mib(self) -> Ints:
        """The same of memory."""
        if self.derived is None:
            return self.memory_capacity_mib - self.memory_claimed_mib
        return self.derived.memory_free_mib

    @property
    def vcpu_whole(self) -> Ints:
        """vCPUs that each host may promise, at least 1: what shares are of."""
        return np.maximum(self.vcpu_capacity, 1) if self.derived is None else self.derived.vcpu_whole

    @property
    def memory_whole_mib(self) -> Ints:
        """The same of memory."""
        return np.maximum(self.memory_capacity_mib, 1) if self.derived is None else self.derived.memory_whole_mib

    def derive(self) -> None:
        """Keeps what follows from the columns from now on. Whoever changes columns then calls this again, or
        :meth:`put`."""
        self.derived = None
        self.derived = Derived(self.vcpu_free, self.memory_free_mib, self.vcpu_whole, self.memory_whole_mib)

    def put(self, place: int, values: Sequence[Any]) -> bool:
        """One host's new entries, in the order of :data:`STATE`; returns whether more than claims changed."""
        vcpus, memory, vcpus_claimed, memory_claimed, *standing = values
        resized = self.vcpu_capacity[place] != vcpus or self.memory_capacity_mib[place] != memory
        self.vcpu_capacity[place], self.memory_capacity_mib[place] = vcpus, memory
        self.vcpu_claimed[place], self.memory_claimed_mib[place] = vcpus_claimed, memory_claimed
        if self.derived is not None:
            self.derived.vcpu_free[place] = vcpus - vcpus_claimed
            self.derived.memory_free_mib[place] = memory - memory_claimed
            self.derived.vcpu_whole[place], self.derived.memory_whole_mib[place] = max(vcpus, 1), max(memory, 1)
        if [self.schedulable[place], self.connection[place], self.hold[place]] == standing:
            return bool(resized)
        self.schedulable[place], self.connection[place], self.hold[place] = standing
        if self.derived is not None:
            self.derived.standings.clear()
        return True

    def claim(self, place: int, vcpus: int, memory_mib: int) -> None:
        """Counts so much more as claimed on one host."""
        self.vcpu_claimed[place] += vcpus
        self.memory_claimed_mib[place] += memory_mib
        if self.derived is not None:
            self.derived.vcpu_free[place] -= vcpus
            self.derived.memory_free_mib[place] -= memory_mib

    def __len__(self) -> int:
        return len(self.structure)

    @classmethod
    def build(cls, hosts: Iterable[HostRow], clusters: Iterable[ClusterRow]) -> Self:
        """Columns of these hosts; clusters without hosts are left out."""
        rows = list(hosts)
        used = {row.cluster for row in rows}
        ordered = sorted((c for c in clusters if c.id in used), key=lambda c: (c.position, c.name, c.id))
        number = {c.id: place for place, c in enumerate(ordered)}
        rows.sort(key=lambda row: (number[row.cluster], row.name, row.id))
        structure = Structure(
            clusters=tuple(ordered),
            ids=tuple(row.id for row in rows),
            names=tuple(row.name for row in rows),
            kinds=(kinds := tuple(sorted({row.kind for row in rows}))),
            cpu_models=(models := tuple(sorted({row.cpu_model for row in rows}))),
            cluster=np.array([number[row.cluster] for row in rows], dtype=np.int32),
            kind=np.array([kinds.index(row.kind) for row in rows], dtype=np.int32),
            cpu_model=np.array([models.index(row.cpu_model) for row in rows], dtype=np.int32),
            tags=_columns([row.tags for row in rows]),
            networks=_columns([row.networks for row in rows]),
            datastores=_columns([row.datastores for row in rows]),
        )
        load = {
            "connection": [CONNECTIONS.index(row.connection) for row in rows],
            "hold": [HOLDS.index(row.hold) for row in rows],
        }
        return cls(
            structure,
            **{name: np.array(load.get(name) or [getattr(row, name) for row in rows], kind) for name, kind in LOAD},
        )

    def copy(self) -> Self:
        """The same hosts with columns of its own."""
        return type(self)(self.structure, **{name: getattr(self, name).copy() for name, _ in LOAD})

    def with_claims(self, more: Mapping[str, tuple[int, int]]) -> Self:
        """A copy in which these hosts have (vCPUs, MiB) more, or less, claimed."""
        fleet = self.copy()
        for host, (vcpus, memory_mib) in more.items():
            place = self.structure.index[host]
            fleet.vcpu_claimed[place] += vcpus
            fleet.memory_claimed_mib[place] += memory_mib
        return fleet

    def encode(self) -> bytes:
        """Everything, compressed; :meth:`decode` gives the same columns."""
        load = zlib.compress(b"".join(getattr(self, name).astype(kind).tobytes() for name, kind in LOAD), COMPRESSION)
        structure = self.structure.encoded
        return len(structure).to_bytes(4, "little") + structure + load

    @classmethod
    def decode(cls, data: bytes, difference: bytes = b"") -> Self:
        """What was encoded, with what :meth:`difference` told of it later."""
        size = int.from_bytes(data[:4], "little")
        structure = Structure.decode(data[4 : 4 + size])
        reader = Reader(zlib.decompress(data[4 + size :]), 0)
        columns = {}
        for name, kind in LOAD:
            item = np.dtype(kind)
            columns[name] = np.frombuffer(reader.take(item.itemsize * len(structure)), item).copy()
        fleet = cls(structure, **columns)
        if difference:
            fleet.apply(zlib.decompress(difference))
        return fleet

    def changes(
        self, places: Collection[int], claims: Collection[int] = (), packed: dict[int, bytes] | None = None
    ) -> bytes:
        """These hosts' entries, for :meth:`apply` on an older copy; of hosts in ``claims`` only what is claimed.
        ``packed`` holds entries of an earlier call, of hosts on which nothing was claimed since, and is added to."""
        head = len(places).to_bytes(4, "little") + self._packed(places, CHANGE)
        if packed is None:
            return head + self._packed(claims, CLAIM)
        return head + b"".join([packed.get(place) or self._pack_claim(place, packed) for place in claims])

    def _pack_claim(self, place: int, packed: dict[int, bytes]) -> bytes:
        claimed = int(self.vcpu_claimed[place]), int(self.memory_claimed_mib[place])
        entry = packed[place] = _CLAIM.pack(place, *claimed)
        return entry

    def _packed(self, places: Collection[int], kind: np.dtype[Any]) -> bytes:
        if not places:
            return b""
        wanted = np.fromiter(places, dtype=np.int32, count=len(places))
        packed = np.empty(len(wanted), dtype=kind)
        packed["host"] = wanted
        for name in (kind.names or ())[1:]:
            packed[name] = getattr(self, name)[wanted]
        return packed.tobytes()

    def difference(self, places: Collection[int], claims: Collection[int] = ()) -> bytes:
        """:meth:`changes`, compressed, for :meth:`decode` beside a whole fleet."""
        return zlib.compress(self.changes(places, claims), COMPRESSION)

    def apply(self, changes: bytes) -> None:
        """Brings this copy up to where :meth:`changes` was called."""
        if not changes:
            return
        claims_at = 4 + int.from_bytes(changes[:4], "little") * CHANGE.itemsize
        for part, kind in ((changes[4:claims_at], CHANGE), (changes[claims_at:], CLAIM)):
            packed = np.frombuffer(part, dtype=kind)
            for name in (kind.names or ())[1:]:
                getattr(self, name)[packed["host"]] = packed[name]


def _columns(names_of_hosts: Sequence[Sequence[str]]) -> dict[str, Bools]:
    columns: dict[str, Bools] = {}
    for place, names in enumerate(names_of_hosts):
        for name in names:
            if name not in columns:
                columns[name] = np.zeros(len(names_of_hosts), dtype=bool)
            columns[name][place] = True
    return dict(sorted(columns.items()))
