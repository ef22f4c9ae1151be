"""The fleet as one picture: clusters, hosts, their load and their console slots, in a constant number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet, Sum

from cloudops.hypervisors.port import PowerState
from cloudops.inventory import signals
from cloudops.inventory.models import Cluster, Connection, Host, Vm
from cloudops.inventory.notices import ask
from cloudops.inventory.signals import HostHold
from consoles import limits
from consoles.limits import Usage

HOST_FILTERS = ("state", "cluster", "tag", "near", "q")
MOST_ROWS = 100
"""More hosts than this are not shown at once unless asked for; those that need attention come first then."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the VMs of a host take. vCPUs and memory (MiB) are of running VMs only."""

    vms: int = 0
    running: int = 0
    vcpus: int = 0
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class HostRow:
    """One host with its load and its console slots."""

    host: Host
    load: Load
    usage: Usage
    hold: HostHold | None = None
    """What keeps VMs away from it beside its connection and its cordon: it is drained, in maintenance or fenced."""

    @property
    def cpu_used(self) -> float:
        """CPU threads at work, as the host measures them; 0 when it does not."""
        return round((self.host.cpu_percent or 0) * self.host.total_cpu_threads / 100, 1)

    @property
    def memory_used_mib(self) -> int:
        """As the host measures it. What is measured is the whole machine's: of a host that was declared to be a smaller
        part of it, what its running VMs were given counts."""
        if self.host.total_memory_mib < self.host.memory_mib:
            return self.load.memory_mib
        return max(0, self.host.memory_mib - self.host.memory_free_mib)

    @property
    def memory_claimed_mib(self) -> int:
        """Memory promised to running VMs beyond what is in use."""
        return max(0, self.load.memory_mib - self.memory_used_mib)

    @property
    def consoles_busy(self) -> int:
        """Active consoles without the idle ones, as the bar wants them."""
        return self.usage.active - self.usage.idle

    @property
    def counted_foreign(self) -> int:
        """Foreign connections as far as they take slots."""
        return self.usage.foreign if self.usage.count_foreign else 0

    @property
    def state(self) -> str:
        """The word for the state: what is observed, then the operator's will."""
        if self.hold is not None:
            return f"{self.hold.words} {self.hold.detail}".strip()
        if self.host.connection != Connection.UP:
            return str(self.host.connection)
        return "up" if self.host.schedulable else "cordoned"

    @property
    def is_near_limit(self) -> bool:
        return self.usage.level != "ok"

    @property
    def needs_attention(self) -> bool:
        return self.is_near_limit or self.hold is not None or self.host.connection == Connection.UNREACHABLE


@dataclass(slots=True)
class ClusterRow:
    """A cluster with those of its hosts that the filters left, and its totals over them."""

    cluster: Cluster
    hosts: list[HostRow] = field(default_factory=list)
    most: int = 1_000_000

    @property
    def shown(self) -> list[HostRow]:
        """The rows on the page: all, or of too many the ones that need attention first."""
        if len(self.hosts) <= self.most:
            return self.hosts
        return sorted(self.hosts, key=lambda row: not row.needs_attention)[: self.most]

    @property
    def hidden(self) -> int:
        return max(0, len(self.hosts) - self.most)

    @property
    def kinds(self) -> list[str]:
        return sorted({row.host.endpoint.get_kind_display() for row in self.hosts})

    @property
    def cpu_used(self) -> float:
        """Threads at work."""
        return round(sum(row.cpu_used for row in self.hosts), 1)

    @property
    def cpu_threads(self) -> int:
        return sum(row.host.total_cpu_threads for row in self.hosts)

    @property
    def vcpus(self) -> int:
        return sum(row.load.vcpus for row in self.hosts)

    @property
    def memory_mib(self) -> int:
        return sum(row.host.total_memory_mib for row in self.hosts)

    @property
    def memory_used_mib(self) -> int:
        return sum(row.memory_used_mib for row in self.hosts)

    @property
    def running(self) -> int:
        return sum(row.load.running for row in self.hosts)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All of it: the clusters that are shown, and sums over every host whatever the filters."""

    clusters: list[ClusterRow]
    hosts: int
    shown: int
    vms: int
    running: int
    consoles: int
    idle: int
    near_limit: int
    unreachable: int
    cordoned: int
    held: int
    draining: int


def loads(host_ids: list[UUID] | None = None) -> dict[UUID, Load]:
    """What runs on each host (None: all), in one query."""
    vms = Vm.objects.filter(missing_since__isnull=True)
    if host_ids is not None:
        vms = vms.filter(host_id__in=host_ids)
    running = Q(power_state=PowerState.RUNNING)
    rows = (
        vms.order_by()
        .values_list("host_id")
        .annotate(
            vms=Count("pk"),
            running=Count("pk", filter=running),
            used_vcpus=Sum("vcpus", filter=running, default=0),
            used_memory_mib=Sum("memory_mib", filter=running, default=0),
        )
    )
    return {row[0]: Load(*row[1:]) for row in rows}


def host_row(host: Host, *, now: datetime) -> HostRow:
    """One host's row."""
    hold = _holds([host.pk], now).get(host.pk)
    return HostRow(host, loads([host.pk]).get(host.pk, Load()), limits.usage_of_host(host, now=now), hold)


def _holds(host_ids: list[UUID] | None, now: datetime) -> dict[UUID, HostHold]:
    found: dict[UUID, HostHold] = {}
    for answer in ask(signals.host_hold, host_ids=host_ids, now=now):
        found |= answer
    return found


def fleet(*, now: datetime, wanted: Mapping[str, str] | None = None, most: int = MOST_ROWS) -> Fleet:
    """The fleet; ``wanted`` holds filters (``HOST_FILTERS``) on the hosts that are shown, at most about ``most``."""
    wanted = wanted or {}
    clusters = {cluster.pk: cluster for cluster in Cluster.objects.all()}
    load, usage = loads(), limits.usage_by_host(None, now=now)
    holds = _holds(None, now)
    rows = [
        HostRow(host, load.get(host.pk, Load()), usage[host.pk], holds.get(host.pk))
        for host in _hosts(clusters)
        if host.pk in usage
    ]
    tagged = _tagged(wanted["tag"]) if "tag" in wanted else None
    shown = [row for row in rows if _matches(row, wanted) and (tagged is None or row.host.pk in tagged)]
    return Fleet(
        clusters=_grouped(shown, clusters.values(), with_empty=not wanted, most=most),
        hosts=len(rows),
        shown=len(shown),
        vms=sum(row.load.vms for row in rows),
        running=sum(row.load.running for row in rows),
        consoles=sum(row.usage.in_use for row in rows),
        idle=sum(row.usage.idle for row in rows),
        near_limit=sum(row.is_near_limit for row in rows),
        unreachable=sum(row.host.connection == Connection.UNREACHABLE for row in rows),
        cordoned=sum(not row.host.schedulable for row in rows),
        held=len(holds),
        draining=sum(hold.state in ("draining", "blocked") for hold in holds.values()),
    )


def _hosts(clusters: Mapping[UUID, Cluster]) -> Iterator[Host]:
    """Every host in the order of the screens; the few clusters are joined here instead of read once per host."""
    shown = (
        "id", "cluster_id", "name", "schedulable", "connection", "connection_changed_at",
        "error_detail", "error_remedy", "cpu_threads", "cpu_percent", "cpu_threads_override",
        "memory_mib", "memory_free_mib", "memory_mib_override", "management_address",
        "simulator", "platform_maintenance", "endpoint__kind", "endpoint__uri",
    )  # fmt: skip
    for host in Host.objects.select_related("endpoint").only(*shown):
        if host.cluster_id in clusters:
            host.cluster = clusters[host.cluster_id]
            yield host


def _tagged(name: str) -> set[UUID]:
    return set(Host.objects.filter(tags__name=name).order_by().values_list("pk", flat=True))


def _matches(row: HostRow, wanted: Mapping[str, str]) -> bool:
    host = row.host
    checks: dict[str, Any] = {
        "state": lambda value: _is_in_state(row, value),
        "cluster": lambda value: value in {str(host.cluster_id), host.cluster.name},
        "near": lambda value: row.is_near_limit,
        "q": lambda value: value.lower() in f"{host.name} {host.management_address} {host.endpoint.uri}".lower(),
    }
    return all(checks[name](value) for name, value in wanted.items() if name in checks)


def _is_in_state(row: HostRow, wanted: str) -> bool:
    if wanted == "cordoned":
        return not row.host.schedulable
    return row.hold is not None if wanted == "held" else row.host.connection == wanted


def _grouped(rows: list[HostRow], known: Iterable[Cluster], *, with_empty: bool, most: int) -> list[ClusterRow]:
    clusters = {cluster.pk: ClusterRow(cluster) for cluster in known}
    for row in rows:
        clusters[row.host.cluster_id].hosts.append(row)
    filled = [cluster for cluster in clusters.values() if cluster.hosts]
    if len(rows) > most:
        for cluster in filled:
            cluster.most = max(3, most // len(filled))
    return list(clusters.values()) if with_empty else filled


def hosts_by_name() -> QuerySet[Host]:
    """Every host for a choice: id and name only."""
    return Host.objects.only("id", "name").order_by("name", "id")
