"""Each process's copy of the fleet, kept up to date by reading what changed since it last looked.

It is a hint, however fresh: whether a host has room is decided by the claim's statement. What was decided on can be
kept: as a snapshot of all columns, or as the hosts that differ from a snapshot that is stored already.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from django.db import connection, transaction

from cloudops.inventory import signals
from cloudops.inventory.notices import ask
from placement import capacity, prepared, readings, statements, versions
from placement.fleet import CONNECTIONS, HOLDS, STATE, Fleet, HostRow
from placement.models import FleetSnapshot

RELOAD_SHARE = 50
"""Everything is read again after so many times what reading it took: it costs at most a fiftieth of the time."""
SNAPSHOT_CHANGES = 48
"""So many hosts may differ from a snapshot before there is a new one: they are stored with every decision."""
BASE_CHANGES = 4, 4_096
"""The new one is what differs from a whole one, as long as that is at most a fourth of the fleet, and so many hosts."""
SNAPSHOT_AGE = timedelta(hours=1)
LATELY_SECONDS = 0.02
SQLITE_OVERLAP = 64
MOST_DIFFERENCES = 256
"""So many are read by the prepared statement, whose plan is made for few; when there are more, all are read anew."""
MOST_PENDING = 8

DIFFERENCES = """
SELECT {host_id}, c.vcpu_capacity, c.memory_capacity_mib, c.vcpu_claimed, c.memory_claimed_mib,
       h.schedulable, h.connection,
       CASE WHEN c.hold = '' AND h.platform_maintenance THEN 'platform' ELSE c.hold END, c.structure, {horizon}, {own}
FROM placement_hostcapacity c JOIN inventory_host h ON h.id = c.host_id
WHERE c.version >= {since}
"""
_POSTGRES = DIFFERENCES.format(
    host_id="c.host_id::text",
    since="%(horizon)s::bigint",
    horizon=versions.POSTGRES_OLDEST,
    own="COALESCE(c.version = pg_current_xact_id_if_assigned()::text::bigint, false)",
)
_FEW = prepared.Statement(f"{_POSTGRES} ORDER BY c.version LIMIT {MOST_DIFFERENCES}", ("horizon",))
_SQLITE = DIFFERENCES.format(host_id="c.host_id", since="%(horizon)s", horizon="c.version + 1", own="1")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a decision was made on: a snapshot's id, the hosts that differ from it, and the snapshot if it is new."""

    snapshot_id: UUID
    changes: bytes
    new: FleetSnapshot | None


@dataclass(frozen=True, slots=True)
class Ground:
    """A host as it was decided on: what stands for its cluster, tags, networks and storage, and in which reading."""

    host: str
    structure: int
    readings: int


@dataclass
class Changed:
    """Places of hosts that differ from a snapshot: some in their claims only, of which ``packed`` has what was told."""

    claims: set[int] = field(default_factory=set)
    more: set[int] = field(default_factory=set)
    packed: dict[int, bytes] = field(default_factory=dict)

    def add(self, claims: Iterable[int], more: Iterable[int]) -> None:
        for place in claims:
            self.packed.pop(place, None)
        self.more.update(more)
        self.claims.update(claims)
        self.claims -= self.more

    def __len__(self) -> int:
        return len(self.claims) + len(self.more)


@dataclass
class Stored:
    """A snapshot that others may use, and what differs from it now."""

    id: UUID
    taken_at: datetime
    changed: Changed = field(default_factory=Changed)


@dataclass
class Mirror:
    """One fleet and what is known about its age. Use :func:`current`."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    fleet: Fleet | None = None
    _fingerprints: dict[str, int] = field(default_factory=dict)
    _told: dict[str, int] = field(default_factory=dict)
    _horizon: int = 0
    _readings: int = 0
    _read_at: float = 0.0
    _asked: int = 0
    _unsure: set[str] = field(default_factory=set)
    _loaded_at: float = 0.0
    _load_seconds: float = 0.0
    _base: Stored | None = None
    _snapshot: Stored | None = None
    _pending: dict[UUID, list[Stored]] = field(default_factory=dict)

    @contextmanager
    def up_to_date(
        self, *, now: datetime, consoles: bool = False, everything: bool = False, lately: bool = False
    ) -> Iterator[Fleet]:
        """The fleet as it is now, not to be changed or kept beyond the block. ``consoles``: with console slots in use;
        ``everything``: read anew as a whole; ``lately``: a copy that lacks others' changes of the last milliseconds
        will do, as a stream of placements would spend a good part of its time on looking for them."""
        with self.lock:
            due = time.monotonic() - self._loaded_at > RELOAD_SHARE * self._load_seconds
            read = due or everything or not ((lately and self._recent()) or self._read_differences())
            if self.fleet is None or read:
                self._load(now)
            if consoles:
                self._read_consoles(now)
            if self.fleet is None:
                raise AssertionError("a load leaves a fleet")
            yield self.fleet

    def _recent(self) -> bool:
        """Whether the copy lacks nothing but what others changed in the last milliseconds."""
        young = time.monotonic() - self._read_at < LATELY_SECONDS
        return young and self._asked == versions.asked() and not self._unsure and not connection.in_atomic_block

    def _note_reading(self) -> None:
        self._readings += 1
        self._asked = versions.asked()
        self._read_at = 0.0 if connection.in_atomic_block else time.monotonic()

    def ground(self, host: str) -> Ground:
        """What a claim on this host stands on. Within :meth:`up_to_date`."""
        return Ground(host, self._told[host], self._readings)

    def claimed(self, ground: Ground, *, vcpus: int, memory_mib: int) -> None:
        """Counts a claim of this process that is committed until it is read; one that was read meanwhile is not counted
        twice."""
        with self.lock:
            place = None if self.fleet is None else self.fleet.structure.index.get(ground.host)
            if self.fleet is None or place is None or ground.readings != self._readings or connection.in_atomic_block:
                return
            self.fleet.claim(place, vcpus, memory_mib)
            self._note(claims=(place,))

    def keep(self, *, now: datetime) -> Kept:
        """What the fleet is at this moment, to be stored with a decision. Within :meth:`up_to_date`."""
        if self.fleet is None:
            raise AssertionError("only within up_to_date")
        near, base, fleet = self._usable(self._snapshot, now), self._usable(self._base, now), self.fleet
        if near is not None and len(near.changed) <= SNAPSHOT_CHANGES:
            changed = near.changed
            return Kept(near.id, fleet.changes(changed.more, changed.claims, changed.packed), None)
        if base is not None and len(base.changed) > self._most_changes(fleet):
            base = None
        data = fleet.encode() if base is None else fleet.difference(base.changed.more, base.changed.claims)
        values = {"taken_at": now, "hosts": len(fleet), "data": data, "base_id": None if base is None else base.id}
        row = statements.made(FleetSnapshot, id=uuid4(), **values)
        # A whole one becomes base and snapshot, each with differences of its own from then on.
        self._pending[row.pk] = [Stored(row.pk, now) for _ in range(2 if base is None else 1)]
        while len(self._pending) > MOST_PENDING:
            self._pending.pop(next(iter(self._pending)))
        return Kept(row.pk, b"", row)

    @staticmethod
    def _usable(stored: Stored | None, now: datetime) -> Stored | None:
        return stored if stored is not None and stored.taken_at > now - SNAPSHOT_AGE else None

    @staticmethod
    def _most_changes(fleet: Fleet) -> int:
        share, most = BASE_CHANGES
        return min(most, len(fleet) // share)

    def store(self, kept: Kept) -> None:
        """Writes the snapshot, where it is new, in the caller's transaction; others use it once that is committed."""
        if kept.new is not None:
            kept.new.save(force_insert=True)
            transaction.on_commit(partial(self.stored, kept), robust=True)

    def stored(self, kept: Kept) -> None:
        """The snapshot, where it is new, is committed."""
        with self.lock:
            for one in self._pending.pop(kept.snapshot_id, ()):
                if self._snapshot is not None and self._snapshot.id == one.id:
                    self._base = one
                else:
                    self._snapshot = one

    def forget(self) -> None:
        """Everything is read again when it is next needed."""
        with self.lock:
            self.fleet = None
            self._forget_snapshots()

    def _forget_snapshots(self) -> None:
        self._base, self._snapshot, self._pending = None, None, {}

    def _note(self, *, claims: Iterable[int] = (), more: Iterable[int] = ()) -> None:
        claims, more = tuple(claims), tuple(more)
        for stored in (self._base, self._snapshot, *chain.from_iterable(self._pending.values())):
            if stored is not None:
                stored.changed.add(claims, more)

    def _load(self, now: datetime) -> None:
        started = time.monotonic()
        self._note_reading()
        horizon = _horizon()
        clusters, found = readings.read()
        missing = [UUID(one.row.id) for one in found if not one.counted]
        if missing:
            capacity.refresh(host_ids=missing, now=now)
            clusters, found = readings.read()
        fingerprints = {one.row.id: one.fingerprint for one in found}
        if self.fleet is not None and fingerprints == self._fingerprints:
            self._take_over(self.fleet, [one.row for one in found])
        else:
            self.fleet = Fleet.build([one.row for one in found], clusters)
            self._forget_snapshots()
        self.fleet.derive()
        self._fingerprints, self._told = fingerprints, {one.row.id: one.structure for one in found}
        self._horizon, self._unsure = horizon, _own_changes()
        self._load_seconds = time.monotonic() - started
        certain = connection.vendor == "postgresql" or not connection.in_atomic_block
        self._loaded_at = time.monotonic() if certain else 0.0

    def _take_over(self, fleet: Fleet, rows: list[HostRow]) -> None:
        """The same hosts: only what differs is changed, so that stored snapshots stay of use."""
        places = [fleet.structure.index[row.id] for row in rows]
        differs = np.zeros(len(fleet), dtype=bool)
        for name in STATE:
            column = getattr(fleet, name)
            fresh = column.copy()
            fresh[places] = [_value(name, getattr(row, name)) for row in rows]
            differs |= column != fresh
            column[:] = fresh
        self._note(more=np.flatnonzero(differs).tolist())

    def _read_differences(self) -> bool:
        """False when the differences cannot tell everything: hosts are new, or their tags and the like changed."""
        fleet = self.fleet
        if fleet is None:
            return False
        self._note_reading()
        rows = self._differences()
        self._unsure = set()
        return self._apply(fleet, rows)

    def _differences(self) -> list[tuple[Any, ...]]:
        postgres = connection.vendor == "postgresql"
        if postgres and not self._unsure:
            few = prepared.run(_FEW, (self._horizon,)).rows
            if len(few) < MOST_DIFFERENCES:
                return [_read(row) for row in few]
        query, parameters = (_POSTGRES if postgres else _SQLITE), {"horizon": self._horizon}
        if self._unsure:
            keys = {f"host_{number}": statements.key_of(UUID(host)) for number, host in enumerate(self._unsure)}
            query = f"{query} OR c.host_id IN ({', '.join(f'%({name})s' for name in keys)})"
            parameters |= keys
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def _apply(self, fleet: Fleet, rows: list[tuple[Any, ...]]) -> bool:
        postgres, index = connection.vendor == "postgresql", fleet.structure.index
        in_transaction = connection.in_atomic_block
        claims: set[int] = set()
        more: set[int] = set()
        for host_id, *numbers, open_, link, hold, structure, horizon, own in rows:
            host = host_id if postgres else str(UUID(host_id))
            place = index.get(host)
            if place is None or self._told[host] != structure:
                self._note(claims=claims, more=more)
                return False
            changed = fleet.put(place, (*numbers, open_, CONNECTIONS.index(link), HOLDS.index(hold)))
            (more if changed else claims).add(place)
            self._horizon = max(self._horizon, horizon if postgres else horizon - SQLITE_OVERLAP)
            if own and in_transaction:
                self._unsure.add(host)  # this transaction may yet be undone
        self._note(claims=claims, more=more)
        return True

    def _read_consoles(self, now: datetime) -> None:
        fleet = self.fleet
        if fleet is None:
            return
        in_use, limit = fleet.consoles.copy(), fleet.console_limit.copy()
        for answer in ask(signals.host_console_load, host_ids=None, now=now):
            for host_id, (used, most) in answer.items():
                place = fleet.structure.index.get(str(host_id))
                if place is not None:
                    in_use[place], limit[place] = used, most
        changed = (in_use != fleet.consoles) | (limit != fleet.console_limit)
        fleet.consoles[:], fleet.console_limit[:] = in_use, limit
        self._note(more=np.flatnonzero(changed).tolist())


def _read(row: tuple[bytes, ...]) -> tuple[Any, ...]:
    """One of the differences, from text."""
    host_id, vcpus, memory, vcpus_claimed, memory_claimed, open_, link, hold, structure, horizon, own = row
    numbers = int(vcpus), int(memory), int(vcpus_claimed), int(memory_claimed)
    standing = open_ == b"t", link.decode(), hold.decode()
    return host_id.decode(), *numbers, *standing, int(structure), int(horizon), own == b"t"


def _value(name: str, value: Any) -> Any:
    if name == "connection":
        return CONNECTIONS.index(value)
    return HOLDS.index(value) if name == "hold" else value


def _own_changes() -> set[str]:
    """Hosts that the present transaction changed: it may yet be undone."""
    if connection.vendor != "postgresql" or not connection.in_atomic_block:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT host_id FROM placement_hostcapacity WHERE version = pg_current_xact_id_if_assigned()::text::bigint"
        )
        return {str(row[0]) for row in cursor.fetchall()}


def _horizon() -> int:
    """Every change from this version on is to be read again."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"SELECT {versions.POSTGRES_OLDEST}")
            return int(cursor.fetchone()[0])
        cursor.execute("SELECT COALESCE(MAX(version), 0) + 1 FROM placement_hostcapacity")
        return int(cursor.fetchone()[0]) - SQLITE_OVERLAP


_mirror = Mirror()


def current() -> Mirror:
    """This process's mirror."""
    return _mirror


def forget() -> None:
    """Tests and changes behind everybody's back: read everything again."""
    _mirror.forget()
