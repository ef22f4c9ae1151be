"""Slots: how many consoles a host, a VM, a user and a project may have, how many they have, and the race-free taking.

A slot has no row of its own: a session holds it as long as ``SessionQuerySet.holding_slots`` says so. Taking one locks
host, VM, user and the VM's project if that has a quota, always in this order, counts, and lets the caller write the
session in the same transaction. On PostgreSQL these are row locks that do not disturb foreign keys; SQLite's
transactions are immediate and serial.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db.models import Count, Q, QuerySet

from cloudops.accounts.models import Project, User
from cloudops.core import capacity, runtime
from cloudops.core.models import RuntimeSettings
from cloudops.inventory.models import Host, Vm
from consoles.models import ATTACHED, ConsoleSession, ForeignConnection, SessionQuerySet, Status

FOREIGN_INTERVALS: Final = 3
"""A foreign connection counts until it was not confirmed for this many cleanup intervals."""


class Counts(NamedTuple):
    """Slot holders, in the order of :class:`Usage`'s fields."""

    active: int
    idle: int
    pending: int


NONE: Final = Counts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Slots of a host, VM, user or project. ``active`` are consoles that are open or opening; ``idle`` are part of
    them."""

    scope: str
    limit: int
    active: int = 0
    idle: int = 0
    pending: int = 0
    foreign: int = 0
    count_foreign: bool = True
    by_platform: bool = False
    """Whether the limit is the platform's own."""

    @property
    def in_use(self) -> int:
        """What counts against the limit."""
        return self.active + self.pending + (self.foreign if self.count_foreign else 0)

    @property
    def free(self) -> int:
        return max(0, self.limit - self.in_use)

    @property
    def level(self) -> str:
        """How full: "ok", "high" (from 80 %) or "full"."""
        return capacity.level(self.in_use, self.limit)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the derived numbers."""
        return {**asdict(self), "in_use": self.in_use, "free": self.free, "level": self.level}


def host_limit(host: Host, settings: RuntimeSettings) -> int:
    """The host's own limit, else the installation's."""
    return host.console_limit_override or settings.console_host_limit


def vm_usage(max_consoles: int | None, settings: RuntimeSettings, counts: Counts = NONE, foreign: int = 0) -> Usage:
    """Slots of a VM under the lower of two limits: the installation's, and the platform's own (``Vm.max_consoles``),
    which foreign connections really take, whatever the setting says about counting them."""
    own, counted = settings.console_vm_limit, settings.console_count_foreign
    if max_consoles is not None and max_consoles - foreign <= own - (foreign if counted else 0):
        return Usage("vm", max_consoles, *counts, foreign, by_platform=True)
    return Usage("vm", own, *counts, foreign, counted)


def fresh_foreign(settings: RuntimeSettings, now: datetime) -> QuerySet[ForeignConnection]:
    """Foreign connections that were seen lately; older sightings count no more, with or without a reaper."""
    horizon = now - timedelta(seconds=FOREIGN_INTERVALS * settings.console_cleanup_interval_seconds)
    return ForeignConnection.objects.filter(last_seen_at__gt=horizon)


def usage_of_host(host: Host, *, now: datetime, idle_seconds: float | None = None) -> Usage:
    """Slots of one host."""
    return usage_by_host([host.pk], now=now, idle_seconds=idle_seconds)[host.pk]


def usage_of_vm(vm: Vm, *, now: datetime, idle_seconds: float | None = None) -> Usage:
    """Slots of one VM."""
    return usage_by_vm([vm.pk], now=now, idle_seconds=idle_seconds)[vm.pk]


def usage_of_user(user: User, *, now: datetime, idle_seconds: float | None = None) -> Usage:
    """Slots of one person; foreign connections belong to nobody."""
    settings = runtime.current()
    rows = _sessions("user_id", {"user_id": user.pk}, now, _idle_after(settings, idle_seconds))
    return Usage("user", settings.console_user_limit, *rows.get(user.pk, NONE))


def in_use_by_project(project_ids: Iterable[UUID], *, now: datetime) -> dict[UUID, int]:
    """What counts against the quotas of many projects, in one query; those without a console are left out. Foreign
    connections are nobody's."""
    rows = _in_projects(project_ids, now).order_by().values_list("vm__project_id")
    return dict(rows.annotate(count=Count("pk")))


def _in_projects(project_ids: Iterable[UUID], now: datetime) -> SessionQuerySet:
    return ConsoleSession.objects.holding_slots(now).filter(vm__project_id__in=list(project_ids))


def usage_now(host: Host, settings: RuntimeSettings, *, now: datetime) -> Usage:
    """Slots of a host whose row and settings are at hand, in two queries."""
    rows = _sessions("host_id", {"host_id": host.pk}, now, settings.console_idle_warning_seconds)
    foreign = fresh_foreign(settings, now).filter(host_id=host.pk).count() if settings.console_count_foreign else 0
    return Usage("host", host_limit(host, settings), *rows.get(host.pk, NONE), foreign)


def usage_by_host(
    host_ids: Iterable[UUID] | None, *, now: datetime, idle_seconds: float | None = None
) -> dict[UUID, Usage]:
    """Slots of many hosts (None: all) in four queries. ``idle_seconds``: what counts as idle; default the warning's."""
    hosts = Host.objects.all() if host_ids is None else Host.objects.filter(pk__in=list(host_ids))
    settings = runtime.current()
    own = dict(hosts.order_by().values_list("pk", "console_limit_override"))
    rows, foreign = _in_use("host", None if host_ids is None else list(own), settings, now, idle_seconds)
    counted = settings.console_count_foreign
    return {
        pk: Usage("host", limit or settings.console_host_limit, *rows.get(pk, NONE), foreign.get(pk, 0), counted)
        for pk, limit in own.items()
    }


def usage_by_vm(vm_ids: Iterable[UUID], *, now: datetime, idle_seconds: float | None = None) -> dict[UUID, Usage]:
    """Slots of many VMs in four queries."""
    settings = runtime.current()
    own = dict(Vm.objects.filter(pk__in=list(vm_ids)).order_by().values_list("pk", "max_consoles"))
    rows, foreign = _in_use("vm", list(own), settings, now, idle_seconds)
    return {pk: vm_usage(limit, settings, rows.get(pk, NONE), foreign.get(pk, 0)) for pk, limit in own.items()}


def _in_use(
    scope: str, ids: list[UUID] | None, settings: RuntimeSettings, now: datetime, idle_seconds: float | None
) -> tuple[dict[Any, Counts], dict[Any, int]]:
    """Slot holders and foreign connections of hosts or VMs (None: all)."""
    only = {} if ids is None else {f"{scope}_id__in": ids}
    rows = _sessions(f"{scope}_id", only, now, _idle_after(settings, idle_seconds))
    found = fresh_foreign(settings, now).filter(**only).order_by().values_list(f"{scope}_id")
    return rows, dict(found.annotate(n=Count("pk")))


def _idle_after(settings: RuntimeSettings, idle_seconds: float | None) -> float:
    return settings.console_idle_warning_seconds if idle_seconds is None else idle_seconds


def _sessions(key: str, only: dict[str, Any], now: datetime, idle_after: float) -> dict[Any, Counts]:
    """Counts of slot holders by ``key``."""
    attached = Q(status__in=ATTACHED)
    idle = attached & Q(last_input_at__lte=now - timedelta(seconds=idle_after))
    rows = (
        ConsoleSession.objects.holding_slots(now)
        .filter(**only)
        .order_by()
        .values_list(key)
        .annotate(
            active=Count("pk", filter=attached),
            idle=Count("pk", filter=idle),
            pending=Count("pk", filter=Q(status=Status.PENDING)),
        )
    )
    return {row[0]: Counts(*row[1:]) for row in rows}


@dataclass(frozen=True, slots=True)
class Taken:
    """Locked rows and what each scope had in use before the caller adds a session (or puts one back): host, VM, user,
    and the VM's project if that has a quota. ``vm`` has its project joined."""

    host: Host
    vm: Vm
    settings: RuntimeSettings
    usages: tuple[Usage, ...]

    @property
    def full(self) -> Usage | None:
        """The first scope without a free slot."""
        return next((usage for usage in self.usages if not usage.free), None)


def take(*, host_id: UUID, vm_id: UUID, user_id: int, now: datetime, besides: ConsoleSession | None = None) -> Taken:
    """Locks host, VM, user and a project with a quota until the transaction ends, and counts their slots (``besides``
    left out).

    The caller looks at ``full``, then writes its session in the same transaction: nobody else can take a slot between.
    Raises ``DoesNotExist`` when one of them is gone.
    """
    host = Host.objects.select_for_update(no_key=True).get(pk=host_id)
    vm = Vm.objects.select_for_update(no_key=True, of=("self",)).select_related("project").get(pk=vm_id)
    User.objects.select_for_update(no_key=True).only("pk").get(pk=user_id)
    settings = runtime.current()
    scopes = {"host": Q(host_id=host_id), "vm": Q(vm_id=vm_id), "user": Q(user_id=user_id)}
    counts = _count(scopes, now, besides)
    held = {scope: Counts(counts[f"{scope}_active"], 0, counts[f"{scope}_pending"]) for scope in scopes}
    near = fresh_foreign(settings, now).filter(host_id=host_id)
    foreign = near.aggregate(host=Count("pk"), vm=Count("pk", filter=Q(vm_id=vm_id)))
    usages = (
        Usage("host", host_limit(host, settings), *held["host"], foreign["host"], settings.console_count_foreign),
        vm_usage(vm.max_consoles, settings, held["vm"], foreign["vm"]),
        Usage("user", settings.console_user_limit, *held["user"]),
    )
    return Taken(host, vm, settings, (*usages, *_of_project(vm, now, besides)))


def _of_project(vm: Vm, now: datetime, besides: ConsoleSession | None) -> list[Usage]:
    """The VM's project's slots, its row locked; nothing without a quota. The quota is read again under the lock."""
    if vm.project is None or vm.project.quota_consoles is None:
        return []
    project = Project.objects.select_for_update(no_key=True).get(pk=vm.project.pk)
    if project.quota_consoles is None:
        return []
    holders = _in_projects([project.pk], now)
    if besides is not None:
        holders = holders.exclude(pk=besides.pk)
    pending = Q(status=Status.PENDING)
    counts = holders.aggregate(active=Count("pk", filter=~pending), pending=Count("pk", filter=pending))
    return [Usage("project", project.quota_consoles, counts["active"], 0, counts["pending"])]


def _count(scopes: dict[str, Q], now: datetime, besides: ConsoleSession | None) -> dict[str, int]:
    holders = ConsoleSession.objects.holding_slots(now).filter(scopes["host"] | scopes["vm"] | scopes["user"])
    if besides is not None:
        holders = holders.exclude(pk=besides.pk)
    pending = Q(status=Status.PENDING)
    columns = {}
    for scope, rows in scopes.items():
        columns[f"{scope}_active"] = Count("pk", filter=rows & ~pending)
        columns[f"{scope}_pending"] = Count("pk", filter=rows & pending)
    return holders.aggregate(**columns)
