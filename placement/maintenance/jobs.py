"""What every verb of a maintenance job does alike: lock its row, wake it, tell pages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from django.db import transaction

from cloudops.core import live, runtime
from cloudops.core.actors import Actor, ActorKind
from cloudops.core.queue import enqueue
from placement.maintenance.errors import JobOver
from placement.models import Maintenance, MaintenanceHostStatus, MaintenanceStatus, Platform

TASK: Final = "placement.tasks.advance_maintenance"
OVER: Final = frozenset({MaintenanceStatus.COMPLETED, MaintenanceStatus.CANCELLED})
ACTIVE: Final = (
    MaintenanceHostStatus.DRAINING,
    MaintenanceHostStatus.ENTERING,
    MaintenanceHostStatus.BLOCKED,
    MaintenanceHostStatus.HELD,
)
"""A job's hosts that are out of use now."""


def locked(job_id: UUID) -> Maintenance:
    """The job's row, locked for the transaction. Raises ``Maintenance.DoesNotExist``."""
    return Maintenance.objects.select_for_update(of=("self",)).get(pk=job_id)


def locked_live(job_id: UUID) -> Maintenance:
    """The same; raises :class:`JobOver` when it has ended."""
    job = locked(job_id)
    if job.status in OVER:
        raise JobOver(f"“{job.title}” is {job.get_status_display().lower()}.", maintenance=str(job.pk))
    return job


def acting_for(job: Maintenance) -> Actor:
    """Who migrates, in the audit trail: CloudOps itself, for whoever asked for the maintenance."""
    return Actor(ActorKind.SYSTEM, f"maintenance (asked for by {job.requested_by_name})"[:200])


def wake(job: Maintenance, *, now: datetime) -> None:
    """It is looked at as soon as a worker is free; should the queue not be reachable, at the next tick."""
    Maintenance.objects.filter(pk=job.pk).update(wake_at=now)
    job.wake_at = now
    transaction.on_commit(partial(enqueue, TASK, str(job.pk)), robust=True)


def tell(job: Maintenance, host_ids: Iterable[UUID] = ()) -> None:
    """Pages that show the job, its hosts and the room there are fetch again."""
    live.publish("maintenance", f"maintenance:{job.pk}", "hosts", "capacity", *(f"host:{pk}" for pk in host_ids))


def purge(*, now: datetime) -> int:
    """Removes jobs that ended as long ago as audit events are kept; returns how many rows went."""
    horizon = now - timedelta(days=runtime.current().audit_retention_days)
    over = Maintenance.objects.filter(ended_at__lt=horizon)
    return over.exclude(hosts__platform=Platform.LEAVING).delete()[0]
