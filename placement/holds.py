"""Answers who asks what holds a host: pages show it beside the host's own state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from django.db.models import Count
from django.urls import reverse

from cloudops.inventory.signals import HostHold
from placement.models import Hold, HostCapacity, MaintenanceHost, MaintenanceHostStatus, MaintenanceMove, MoveStatus

LEFT: Final = frozenset({MoveStatus.MOVED, MoveStatus.STOPPED, MoveStatus.GONE})
STAYS: Final = (MoveStatus.SKIPPED,)
LIVE: Final = (
    MaintenanceHostStatus.DRAINING,
    MaintenanceHostStatus.ENTERING,
    MaintenanceHostStatus.BLOCKED,
    MaintenanceHostStatus.HELD,
)


def on_host_hold(*, host_ids: Collection[UUID] | None, **_: Any) -> dict[UUID, HostHold]:
    """Hosts that are fenced, emptied or held empty. One query when there are none, else three."""
    held = HostCapacity.objects.exclude(hold=Hold.NONE).order_by()
    if host_ids is not None:
        held = held.filter(pk__in=list(host_ids))
    holds = dict(held.values_list("pk", "hold"))
    if not holds:
        return {}
    jobs = _jobs(holds)
    progress = _progress(jobs)
    return {pk: _words(hold, jobs.get(pk), progress.get(pk, (0, 0))) for pk, hold in holds.items()}


def _jobs(holds: Collection[UUID]) -> dict[UUID, tuple[UUID, str]]:
    rows = MaintenanceHost.objects.filter(host__in=list(holds), status__in=LIVE).order_by()
    return {row[0]: (row[1], row[2]) for row in rows.values_list("host_id", "maintenance_id", "status")}


def _progress(jobs: dict[UUID, tuple[UUID, str]]) -> dict[UUID, tuple[int, int]]:
    """How many VMs have left each host, of how many that are to leave."""
    rows = MaintenanceMove.objects.filter(maintenance__in={job for job, _ in jobs.values()}, resident=False)
    done: Counter[UUID] = Counter()
    whole: Counter[UUID] = Counter()
    counted = rows.exclude(status__in=STAYS).order_by().values_list("source_id", "status").annotate(Count("pk"))
    for host_id, status, count in counted:
        whole[host_id] += count
        done[host_id] += count if status in LEFT else 0
    return {host_id: (done[host_id], whole[host_id]) for host_id in whole}


def _words(hold: str, job: tuple[UUID, str] | None, progress: tuple[int, int]) -> HostHold:
    url = reverse("maintenance-job", args=[job[0]]) if job else ""
    if hold == Hold.FENCED:
        return HostHold("fenced", "fenced", "", url)
    if hold == Hold.MAINTENANCE:
        return HostHold("maintenance", "in maintenance", "", url)
    done, whole = progress
    detail = f"{done} of {whole}" if whole else ""
    if job and job[1] == MaintenanceHostStatus.BLOCKED:
        return HostHold("blocked", "drain blocked", detail, url)
    if job and job[1] == MaintenanceHostStatus.ENTERING:
        return HostHold("draining", "entering maintenance mode", detail, url)
    return HostHold("draining", "draining", detail, url)
