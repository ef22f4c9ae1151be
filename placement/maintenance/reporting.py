"""Where a job stands, for its page and the API: few numbers, in a constant number of queries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Sum

from placement.maintenance import jobs, rolling
from placement.models import Maintenance, MaintenanceHost, MaintenanceMove, MoveStatus, VmMigration

DONE: Final = (MoveStatus.MOVED, MoveStatus.STOPPED, MoveStatus.GONE)


@dataclass(frozen=True, slots=True)
class Report:
    """``to_do``: VMs that have to leave and have not; ``percent``: of all that had to, those that have left.
    ``seconds_left``: an estimate, None when nothing is under way."""

    job: Maintenance
    hosts: tuple[MaintenanceHost, ...]
    counts: dict[str, int]
    to_do: int
    done: int
    percent: int
    seconds_left: float | None

    @property
    def blocked(self) -> int:
        return self.counts.get(MoveStatus.BLOCKED, 0)

    @property
    def refused(self) -> int:
        """Hosts that are empty and held, but for their platform's own maintenance mode, which was refused."""
        return sum(1 for row in self.hosts if rolling.refused_only(row))


def report(job: Maintenance, *, now: datetime) -> Report:
    """The job's numbers as its rows have them."""
    del now
    counts = Counter(dict(_counted(job)))
    done = sum(counts[status] for status in DONE)
    to_do = sum(counts[status] for status in (MoveStatus.WAITING, MoveStatus.MOVING, MoveStatus.STOPPING))
    to_do += counts[MoveStatus.BLOCKED]
    whole = done + to_do
    return Report(
        job=job,
        hosts=tuple(job.hosts.select_related("host__cluster")),
        counts={status: counts[status] for status in MoveStatus.values},
        to_do=to_do,
        done=done,
        percent=round(100 * done / whole) if whole else 100,
        seconds_left=_seconds_left(job, to_do),
    )


def _counted(job: Maintenance) -> list[tuple[str, int]]:
    statuses = job.moves.order_by().values_list("status", flat=True)
    return list(Counter(statuses).items())


def _seconds_left(job: Maintenance, to_do: int) -> float | None:
    """What is still expected, divided by how many move at once now."""
    if job.status in jobs.OVER or not to_do:
        return None
    open_ = MaintenanceMove.objects.filter(maintenance=job, status__in=[MoveStatus.WAITING, MoveStatus.MOVING])
    seconds = open_.aggregate(left=Sum("expected_seconds"))["left"] or 0.0
    at_once = VmMigration.objects.filter(maintenance=job, ended_at__isnull=True).count()
    return float(seconds) / at_once if at_once else None
