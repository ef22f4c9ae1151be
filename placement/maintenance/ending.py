"""Ending a maintenance job: complete it, cancel it, or take a cancelled one up again as a new one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from django.db import transaction

from cloudops.core.actors import Actor
from cloudops.core.state import transition
from placement import vm_migrations
from placement.maintenance import jobs, returning, rolling, words
from placement.maintenance.errors import HostsWaiting, JobOver, JobStillOn, NotEmptyYet
from placement.maintenance.options import Choice, Mode, Options, VmChoice
from placement.maintenance.starting import start
from placement.migration_errors import MigrationOver
from placement.models import (
    Maintenance,
    MaintenanceHost,
    MaintenanceHostStatus,
    MaintenanceMove,
    MaintenanceStatus,
    MoveStatus,
    VmMigration,
)

NOT_HELD: Final = (MaintenanceHostStatus.DRAINING, MaintenanceHostStatus.ENTERING, MaintenanceHostStatus.BLOCKED)


def complete(job: Maintenance, *, by: Actor, now: datetime, uncordon: bool = True) -> Maintenance:
    """The maintenance is done: its hosts are used again (``uncordon`` off: only the hold ends). Hosts of which only the
    platform's own maintenance mode is missing, as it was refused, do not stand in the way.

    Raises :class:`NotEmptyYet`, :class:`HostsWaiting` and ``JobOver``."""
    with transaction.atomic():
        job = jobs.locked_live(job.pk)
        rows = list(job.hosts.select_related("host__endpoint"))
        if job.status != MaintenanceStatus.HOLDING and not _only_platforms_refuse(rows):
            left = [row.host.name for row in rows if row.status in NOT_HELD]
            if all(row.status == MaintenanceHostStatus.ENTERING for row in rows if row.status in NOT_HELD):
                words_ = "; ".join(f"{row.host.name}: {row.platform_detail}" for row in rows if row.host.name in left)
                raise NotEmptyYet(words_, hosts=len(left), vms=0)
            vms = job.moves.filter(status__in=[MoveStatus.WAITING, MoveStatus.MOVING, MoveStatus.BLOCKED]).count()
            detail = f"{words.count(vms, 'VM')} still to move off {', '.join(left[:3]) or 'its hosts'}."
            raise NotEmptyYet(detail, hosts=len(left), vms=vms)
        if waiting := sum(1 for row in rows if row.status == MaintenanceHostStatus.WAITING):
            raise HostsWaiting(f"{words.count(waiting, 'host')} of {len(rows)} waiting.", hosts=waiting)
        transition(job, to=MaintenanceStatus.COMPLETED, by=by, now=now, severity="notice", ended_at=now, wake_at=None)
        rolling.end_turns(rows, by=by, now=now, uncordon=uncordon)
        jobs.tell(job, [row.host_id for row in rows])
    return job


def _only_platforms_refuse(rows: Sequence[MaintenanceHost]) -> bool:
    """Every host is empty and held by us; what is missing is no more than their platforms' own maintenance mode."""
    return all(row.status not in NOT_HELD or rolling.refused_only(row) for row in rows)


def cancel(job: Maintenance, *, abort_running: bool = False, by: Actor, now: datetime) -> Maintenance:
    """Ends the job: its hosts are used again at once. Migrations under way go on to their end, or are aborted.

    VMs that were moved stay where they are; :func:`~placement.maintenance.bring_home` takes them back. Cancelling twice
    is harmless. Raises ``JobOver`` when it was completed.
    """
    with transaction.atomic():
        job = jobs.locked(job.pk)
        if job.status == MaintenanceStatus.COMPLETED:
            raise JobOver(f"“{job.title}” is completed.", maintenance=str(job.pk))
        if job.status != MaintenanceStatus.CANCELLED:
            transition(
                job, to=MaintenanceStatus.CANCELLED, by=by, now=now, severity="notice", ended_at=now, blocked_reason=""
            )
            rows = list(job.hosts.select_related("host__endpoint"))
            rolling.end_turns(rows, by=by, now=now)
            jobs.tell(job, [row.host_id for row in rows])
        if abort_running:
            _abort_running(job, by=by, now=now)
        jobs.wake(job, now=now)  # what still moves is followed to its end
    return job


def _abort_running(job: Maintenance, *, by: Actor, now: datetime) -> None:
    for migration in VmMigration.objects.filter(maintenance=job, ended_at__isnull=True).order_by("pk"):
        try:
            vm_migrations.abort(migration, by=by, now=now)
        except MigrationOver:
            continue  # it ended meanwhile, which is as good


def resume(job: Maintenance, *, by: Actor, now: datetime) -> Maintenance:
    """A new job with the hosts and choices that a cancelled one was left with. Stopping a VM is never carried over.

    Raises :class:`JobStillOn`, and what :func:`start` raises.
    """
    job = Maintenance.objects.get(pk=job.pk)
    if job.status not in jobs.OVER:
        raise JobStillOn(f"“{job.title}” is {job.get_status_display().lower()}.", maintenance=str(job.pk))
    if job.mode == Mode.RETURN and job.origin is not None:
        return returning.bring_home(job.origin, by=by, now=now)
    rows = job.hosts.order_by("position")
    left = list(rows.filter(released_at__gte=job.ended_at).values_list("host_id", flat=True))
    options = Options(
        mode=job.mode,
        across_clusters=job.across_clusters,
        move_powered_off=job.move_powered_off,
        hosts_at_once=min(job.hosts_at_once, max(1, len(left))),
        host_parallel=job.host_parallel,
        choices={move.vm_id: _again(move) for move in job.moves.filter(resident=False)},
    )
    return start(host_ids=left, options=options, reason=job.reason, title=job.title, by=by, now=now)


def _again(move: MaintenanceMove) -> VmChoice:
    main = Choice.NONE if move.choice == Choice.STOP else Choice(move.choice)
    return VmChoice(main, move.choice_host_id if main == Choice.HOST else None, frozenset(move.relaxed))
