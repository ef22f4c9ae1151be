"""What hosts may promise: rows that follow the inventory, the policies and the settings, and what they add up to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models, transaction
from django.db.models import F, OuterRef, Q, Subquery, Value
from django.db.models.functions import Cast, Coalesce, Floor, Greatest

from cloudops.core import live, runtime
from cloudops.core.models import RuntimeSettings
from cloudops.inventory.models import Connection, Host
from placement import readings, versions
from placement.models import HostCapacity

PORTION = 500
COLUMNS = ("vcpu_capacity", "memory_capacity_mib", "open")


def refresh(*, host_ids: Collection[UUID] | None = None, structure: bool = True, now: datetime) -> int:
    """Brings the rows of these hosts (None: all) up to what hosts, policies and settings say; returns how many changed.

    ``structure``: also look at cluster, tags, networks and storage, so that schedulers read those that changed again.
    The number of statements grows with what changed, not with the hosts. Claims stay as they are, even where they
    exceed the capacity now.
    """
    del now  # every verb takes it; nothing here depends on the time
    with transaction.atomic():
        rows = HostCapacity.objects.all() if host_ids is None else HostCapacity.objects.filter(pk__in=list(host_ids))
        _add_missing(host_ids)
        wanted = _wanted(runtime.current())
        values = {name: Subquery(wanted.filter(pk=OuterRef("pk")).values(f"new_{name}")) for name in COLUMNS}
        differs = ~Q(**{name: F(f"new_{name}") for name in COLUMNS})
        changed = rows.annotate(**{f"new_{name}": value for name, value in values.items()}).filter(differs)
        ids = list(changed.order_by("pk").select_for_update(of=("self",)).values_list("pk", flat=True))
        for some in _portions(ids):
            HostCapacity.objects.filter(pk__in=some).update(**values, version=versions.Now())
        restructured = _note_structure(host_ids) if structure else []
        if ids or restructured:
            live.publish("capacity")
    return len({*ids, *restructured})


def _note_structure(host_ids: Collection[UUID] | None) -> list[UUID]:
    _, found = readings.read(host_ids=host_ids)
    changed = [one for one in found if one.structure != one.fingerprint]
    rows = [HostCapacity(pk=UUID(one.row.id), structure=one.fingerprint) for one in changed]
    rows.sort(key=lambda row: row.pk)
    HostCapacity.objects.bulk_update(rows, ["structure"], batch_size=PORTION)
    ids = [row.pk for row in rows]
    for some in _portions(ids):
        HostCapacity.objects.filter(pk__in=some).update(version=versions.Now())
    return ids


def _portions(ids: Sequence[UUID]) -> Iterable[Sequence[UUID]]:
    return (ids[start : start + PORTION] for start in range(0, len(ids), PORTION))


def _add_missing(host_ids: Collection[UUID] | None) -> None:
    missing = Host.objects.filter(capacity__isnull=True).order_by()
    if host_ids is not None:
        missing = missing.filter(pk__in=list(host_ids))
    new = [HostCapacity(host_id=pk) for pk in missing.values_list("pk", flat=True)]
    HostCapacity.objects.bulk_create(new, ignore_conflicts=True, batch_size=2_000)


def _wanted(settings: RuntimeSettings) -> models.QuerySet[Host]:
    """Hosts with what their rows should hold: (total - reserved) x ratio, rounded down, never below zero."""

    def promised(total: str, reserve: Any, ratio: Any) -> Any:
        whole = Coalesce(F(f"{total}_override"), F(total))
        exact = Cast(Greatest(whole - reserve, Value(0)), models.FloatField()) * ratio
        return Cast(Floor(exact + Value(1e-6)), models.PositiveIntegerField())

    def policy(name: str, otherwise: float) -> Any:
        field = models.FloatField() if isinstance(otherwise, float) else models.IntegerField()
        return Coalesce(F(f"cluster__policy__{name}"), Value(otherwise), output_field=field)

    return Host.objects.order_by().annotate(
        new_vcpu_capacity=promised(
            "cpu_threads", policy("cpu_reserve_threads", 0), policy("cpu_ratio", float(settings.placement_cpu_ratio))
        ),
        new_memory_capacity_mib=promised(
            "memory_mib",
            policy("memory_reserve_mib", settings.placement_memory_reserve_mib),
            policy("memory_ratio", float(settings.placement_memory_ratio)),
        ),
        new_open=models.Case(
            models.When(schedulable=True, connection=Connection.UP, platform_maintenance=False, then=Value(True)),
            default=Value(False),
        ),
    )


def on_settings_saved(*, instance: RuntimeSettings, created: bool, **_: Any) -> None:
    """Receiver: ratios and reserves may be others now; in the transaction that changes them."""
    if not created:
        refresh(structure=False, now=instance.updated_at)


def set_hold(host_id: UUID, hold: str, *, now: datetime) -> None:
    """Nothing more is placed on a held host; an empty ``hold`` ends that. In the caller's transaction."""
    del now
    with transaction.atomic():
        _add_missing([host_id])
        HostCapacity.objects.filter(pk=host_id).exclude(hold=hold).update(hold=hold, version=versions.Now())
        live.publish("capacity")


@dataclass(frozen=True, slots=True)
class Room:
    """CPU and memory of one host or one cluster. ``used_*`` is what the hypervisor reports, None where it does not."""

    vcpu_capacity: int
    vcpu_claimed: int
    memory_capacity_mib: int
    memory_claimed_mib: int
    cpu_threads: int
    memory_mib: int
    used_memory_mib: int
    used_cpu_percent: float | None

    @property
    def vcpu_free(self) -> int:
        """Below zero where more is promised than may be."""
        return self.vcpu_capacity - self.vcpu_claimed

    @property
    def memory_free_mib(self) -> int:
        return self.memory_capacity_mib - self.memory_claimed_mib

    @property
    def vcpu_percent(self) -> float:
        """How much of the capacity is promised; above 100 after adopting VMs that were there."""
        return 100.0 * self.vcpu_claimed / self.vcpu_capacity if self.vcpu_capacity else 0.0

    @property
    def memory_percent(self) -> float:
        return 100.0 * self.memory_claimed_mib / self.memory_capacity_mib if self.memory_capacity_mib else 0.0

    @property
    def overcommitted(self) -> bool:
        """More is promised than the host really has."""
        return self.vcpu_claimed > self.cpu_threads or self.memory_claimed_mib > self.memory_mib

    @property
    def over_capacity(self) -> bool:
        """More is promised than may be."""
        return self.vcpu_free < 0 or self.memory_free_mib < 0


@dataclass(frozen=True, slots=True)
class HostRoom:
    """A host's room and whether VMs may be placed there."""

    host: Host
    room: Room
    open: bool
    hold: str


@dataclass(frozen=True, slots=True)
class ClusterRoom:
    """A cluster's hosts and what they add up to. ``takes_vms`` counts hosts that are open and not held."""

    cluster_id: UUID
    name: str
    room: Room
    takes_vms: int
    hosts: tuple[HostRoom, ...]


def overview(*, cluster_ids: Iterable[UUID] | None = None, now: datetime) -> list[ClusterRoom]:
    """Used, promised and free of every host, by cluster in their order. One query."""
    del now
    hosts = Host.objects.select_related("cluster", "capacity")
    if cluster_ids is not None:
        hosts = hosts.filter(cluster_id__in=list(cluster_ids))
    grouped: dict[UUID, list[HostRoom]] = {}
    for host in hosts:
        grouped.setdefault(host.cluster_id, []).append(_host_room(host))
    return [
        ClusterRoom(
            cluster_id=cluster_id,
            name=found[0].host.cluster.name,
            room=total(one.room for one in found),
            takes_vms=sum(1 for one in found if one.open and not one.hold),
            hosts=tuple(found),
        )
        for cluster_id, found in grouped.items()
    ]


def of_host(host: Host) -> HostRoom:
    """One host's room; ``host`` with its capacity joined costs no query."""
    return _host_room(host)


def _host_room(host: Host) -> HostRoom:
    row = getattr(host, "capacity", None) or HostCapacity(host=host)
    room = Room(
        vcpu_capacity=row.vcpu_capacity,
        vcpu_claimed=row.vcpu_claimed,
        memory_capacity_mib=row.memory_capacity_mib,
        memory_claimed_mib=row.memory_claimed_mib,
        cpu_threads=host.total_cpu_threads,
        memory_mib=host.total_memory_mib,
        used_memory_mib=max(0, host.memory_mib - host.memory_free_mib),
        used_cpu_percent=host.cpu_percent,
    )
    return HostRoom(host, room, _is_open(host), row.hold)


def _is_open(host: Host) -> bool:
    return host.schedulable and host.connection == Connection.UP and not host.platform_maintenance


def total(rooms: Iterable[Room]) -> Room:
    """What several hosts have together; CPU use is weighted by threads."""
    found = list(rooms)
    known = [one for one in found if one.used_cpu_percent is not None and one.cpu_threads]
    threads = sum(one.cpu_threads for one in known)
    busy = sum((one.used_cpu_percent or 0.0) * one.cpu_threads for one in known)
    return Room(
        vcpu_capacity=sum(one.vcpu_capacity for one in found),
        vcpu_claimed=sum(one.vcpu_claimed for one in found),
        memory_capacity_mib=sum(one.memory_capacity_mib for one in found),
        memory_claimed_mib=sum(one.memory_claimed_mib for one in found),
        cpu_threads=sum(one.cpu_threads for one in found),
        memory_mib=sum(one.memory_mib for one in found),
        used_memory_mib=sum(one.used_memory_mib for one in found),
        used_cpu_percent=busy / threads if threads else None,
    )
