"""How room is drawn: one bar per resource, used / claimed / free, with a mark where overcommitting starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cloudops.inventory.models import Connection
from placement.capacity import ClusterRoom, HostRoom, Room
from placement.models import Hold

CLOSED_WORDS = {
    Hold.DRAINING: "Its VMs are being moved away.",
    Hold.MAINTENANCE: "It is held empty for maintenance.",
    Hold.FENCED: "It was fenced: nobody knows what still runs there.",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """``used`` is at work, ``claimed`` promised beyond that, of ``total``; ``physical`` is what there really is."""

    used: float
    claimed: float
    total: float
    physical: float | None


def cpu(room: Room) -> Bar:
    """vCPUs promised, and how much of that is at work."""
    busy = min(room.vcpu_claimed, (room.used_cpu_percent or 0.0) * room.cpu_threads / 100)
    return Bar(round(busy, 1), round(room.vcpu_claimed - busy, 1), room.vcpu_capacity, _mark(room, "cpu"))


def memory(room: Room) -> Bar:
    """Memory promised, in MiB, and how much of that is in use."""
    used = min(room.memory_claimed_mib, room.used_memory_mib)
    return Bar(used, room.memory_claimed_mib - used, room.memory_capacity_mib, _mark(room, "memory"))


def _mark(room: Room, resource: str) -> float | None:
    real, promised = (
        (room.cpu_threads, room.vcpu_capacity) if resource == "cpu" else (room.memory_mib, room.memory_capacity_mib)
    )
    return real if real < promised else None


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host as the explorer shows it: ``state`` is one word, ``closed`` why nothing is placed there, or ""."""

    host_room: HostRoom
    state: str
    closed: str
    cpu: Bar
    memory: Bar


@dataclass(frozen=True, slots=True)
class ClusterRows:
    """A cluster and those of its hosts that are shown; ``hidden`` counts the others."""

    cluster: ClusterRoom
    cpu: Bar
    memory: Bar
    rows: tuple[HostRow, ...]
    hidden: int


def host_row(found: HostRoom) -> HostRow:
    """One line of the explorer."""
    state, closed = state_of(found)
    return HostRow(found, state, closed, cpu(found.room), memory(found.room))


def state_of(found: HostRoom) -> tuple[str, str]:
    """What a host's placement state is called, and why it is closed."""
    host = found.host
    if found.hold:
        return found.hold, CLOSED_WORDS[Hold(found.hold)]
    if host.connection != Connection.UP:
        return str(host.connection), host.error_detail or "It cannot be reached."
    if host.platform_maintenance:
        return "maintenance", "It is in its platform's own maintenance mode."
    if not host.schedulable:
        return "cordoned", "It is cordoned: VMs stay, but none are placed here."
    return "open", ""


def cluster_rows(cluster: ClusterRoom, *, limit: int) -> ClusterRows:
    """A cluster's hosts, those that are closed or overcommitted first when there are more than ``limit``."""
    rows = [host_row(one) for one in cluster.hosts]
    if len(rows) > limit:
        rows.sort(key=lambda row: not row.closed and not row.host_room.room.over_capacity)
    return ClusterRows(cluster, cpu(cluster.room), memory(cluster.room), tuple(rows[:limit]), max(0, len(rows) - limit))


def counts(clusters: Iterable[ClusterRoom]) -> dict[str, int]:
    """The line of facts above the clusters."""
    hosts = [host for cluster in clusters for host in cluster.hosts]
    return {
        "hosts": len(hosts),
        "takes_vms": sum(1 for one in hosts if one.open and not one.hold),
        "held": sum(1 for one in hosts if one.hold),
        "over": sum(1 for one in hosts if one.room.over_capacity),
    }
