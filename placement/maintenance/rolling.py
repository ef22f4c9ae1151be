"""Whose turn it is: at most so many hosts of a job are out of use at once, each cordoned and held from its turn on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction

from cloudops.core import events
from cloudops.core.actors import Actor
from cloudops.core.state import transition
from cloudops.inventory import hosts
from cloudops.inventory.models import Host
from placement import capacity
from placement.maintenance import jobs, platform
from placement.maintenance.errors import HostNotHeld
from placement.models import (
    Hold,
    HostCapacity,
    Maintenance,
    MaintenanceHost,
    MaintenanceHostStatus,
    MaintenanceStatus,
    Platform,
)


def begin_turns(
    job: Maintenance, rows: Sequence[MaintenanceHost], *, by: Actor, now: datetime
) -> list[MaintenanceHost]:
    """Takes the next hosts out of use, as many as may be; in the caller's transaction, which holds the job's row.

    Cordon and hold are set together: from here on nothing new is placed on them.
    """
    free = job.hosts_at_once - sum(1 for row in rows if row.status in jobs.ACTIVE)
    due = [row for row in rows if row.status == MaintenanceHostStatus.WAITING][: max(0, free)]
    for row in due:
        host = Host.objects.select_for_update(of=("self",)).get(pk=row.host_id)
        transition(
            row,
            to=MaintenanceHostStatus.DRAINING,
            by=by,
            now=now,
            reason=job.reason,
            started_at=now,
            was_schedulable=host.schedulable,
        )
        hosts.cordon(host, by=by, now=now, reason=job.title)
        set_hold(row, Hold.DRAINING, now=now)
    jobs.tell(job, [row.host_id for row in due])
    return due


def set_hold(row: MaintenanceHost, hold: str, *, now: datetime) -> None:
    """The maintenance's hold; a fence stays as it is, whoever set it lifts it."""
    if not HostCapacity.objects.filter(pk=row.host_id, hold=Hold.FENCED).exists():
        capacity.set_hold(row.host_id, hold, now=now)


def empty_again(job: Maintenance, *, host_id: UUID, by: Actor, now: datetime) -> None:
    """A VM is to leave after all that had stayed on a held host: host and job say so in the same transaction."""
    row = job.hosts.filter(host_id=host_id, status=MaintenanceHostStatus.HELD).select_related("host__endpoint").first()
    if row is None:
        return
    transition(row, to=MaintenanceHostStatus.DRAINING, by=by, now=now)
    set_hold(row, Hold.DRAINING, now=now)
    if job.status == MaintenanceStatus.HOLDING:
        transition(job, to=MaintenanceStatus.DRAINING, by=by, now=now)


def end_turns(rows: Iterable[MaintenanceHost], *, by: Actor, now: datetime, uncordon: bool = True) -> None:
    """Back to use: the hold ends, and hosts that were schedulable before are so again (unless ``uncordon`` is off).
    Hosts that had not had their turn were never touched."""
    for row in rows:
        if row.status == MaintenanceHostStatus.RELEASED:
            continue
        touched = row.status in jobs.ACTIVE
        platform.withdraw([row], by=by, now=now)
        transition(
            row,
            to=MaintenanceHostStatus.RELEASED,
            by=by,
            now=now,
            severity="notice",
            released_at=now,
            blocked_reason="",
        )
        if touched:
            set_hold(row, Hold.NONE, now=now)
            if uncordon and row.was_schedulable:
                hosts.uncordon(Host.objects.get(pk=row.host_id), by=by, now=now)


def is_over(row: MaintenanceHost) -> bool:
    """Whether the host may be given back: it is held, or empty and only its platform refuses."""
    return row.status == MaintenanceHostStatus.HELD or refused_only(row)


def refused_only(row: MaintenanceHost) -> bool:
    """It is empty and held by us; what is missing is its platform's own maintenance mode."""
    return row.status == MaintenanceHostStatus.BLOCKED and row.platform == Platform.REFUSED


def release_host(job: Maintenance, *, host: Host, by: Actor, now: datetime, uncordon: bool = True) -> Maintenance:
    """One host's maintenance is done: it is used again, and the next one's turn comes. The last one completes the job.

    Raises :class:`HostNotHeld` and ``JobOver``."""
    with transaction.atomic():
        job = jobs.locked_live(job.pk)
        rows = list(job.hosts.select_related("host__endpoint"))
        row = next((row for row in rows if row.host_id == host.pk), None)
        if row is None or not is_over(row):
            state = row.get_status_display().lower() if row is not None else "not part of this job"
            raise HostNotHeld(f"{host.name} is {state}.", host=str(host.pk))
        end_turns([row], by=by, now=now, uncordon=uncordon)
        events.record("maintenance.host_released", by=by, now=now, subject=job, data={"host": host.name})
        begun = begin_turns(job, rows, by=by, now=now)
        if all(one.status == MaintenanceHostStatus.RELEASED for one in rows):
            transition(
                job, to=MaintenanceStatus.COMPLETED, by=by, now=now, severity="notice", ended_at=now, wake_at=None
            )
        else:
            if begun and job.status in {MaintenanceStatus.HOLDING, MaintenanceStatus.BLOCKED}:
                transition(job, to=MaintenanceStatus.DRAINING, by=by, now=now)
            jobs.wake(job, now=now)
        jobs.tell(job, [host.pk])
    return job
