"""What an administrator says about single VMs of a job that runs: choose something for one, or try again."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from cloudops.core import events
from cloudops.core.actors import Actor
from cloudops.inventory.models import Connection, Host
from placement.maintenance import jobs, platform, rolling, words
from placement.maintenance.errors import HostNeeded, HostNotChoosable, MoveOver, MoveUnderWay, StopNotRepeated
from placement.maintenance.looking import choice_of
from placement.maintenance.options import Choice, Mode
from placement.maintenance.rows import shift, update
from placement.models import (
    Maintenance,
    MaintenanceHost,
    MaintenanceHostStatus,
    MaintenanceMove,
    MoveStatus,
    Platform,
)

UNDER_WAY = (MoveStatus.MOVING, MoveStatus.STOPPING)
FRESH: Final[dict[str, Any]] = {"tried_hosts": [], "attempts": 0, "retry_at": None, "target": None, "after": []}


def choose(
    move: MaintenanceMove, *, choice: str, host: Host | None = None, by: Actor, now: datetime
) -> MaintenanceMove:
    """Acts on one remedy for one VM; the job goes on with it at once. ``choice`` none: as planned again.

    Raises :class:`MoveUnderWay`, :class:`MoveOver`, :class:`HostNeeded`, :class:`HostNotChoosable` and ``JobOver``.
    """
    with transaction.atomic():
        job = jobs.locked_live(move.maintenance_id)
        row = MaintenanceMove.objects.select_for_update(of=("self",)).select_related("vm__host").get(pk=move.pk)
        if row.status in UNDER_WAY:
            raise MoveUnderWay(f"{row.vm.name} is {row.get_status_display().lower()}.")
        if row.status in {MoveStatus.GONE, MoveStatus.MOVED}:
            raise MoveOver(f"{row.vm.name}: {row.get_status_display().lower()}.")
        if choice == Choice.HOST:
            _demand_choosable(row, host)
        chosen = choice_of(row).plus(choice, host.pk if host is not None else None)
        if job.mode == Mode.RETURN and chosen.main == Choice.NONE:
            chosen = chosen.plus(Choice.HOST, home_in(job, row))
        _reset(row, by=by, now=now)
        row.choice, row.choice_host_id, row.relaxed = chosen.main, chosen.host_id, sorted(chosen.relaxed)
        row.save(update_fields=["choice", "choice_host", "relaxed"])
        if chosen.main != Choice.SKIP:
            rolling.empty_again(job, host_id=row.vm.host_id, by=by, now=now)
        events.record(
            "maintenance.chosen",
            by=by,
            now=now,
            subject=row.vm,
            severity="notice",
            reason=Choice(choice).label + (f": {host.name}" if host is not None and choice == Choice.HOST else ""),
            data={"maintenance": str(job.pk), "choice": choice, "host": str(host.pk) if host is not None else ""},
        )
        _go_on(job, now=now)
    return row


def home_in(job: Maintenance, row: MaintenanceMove) -> UUID:
    """Where the VM lived before the maintenance that this job brings it home from."""
    before = MaintenanceMove.objects.filter(maintenance=job.origin_id, vm=row.vm_id).first()
    return before.source_id if before is not None else row.source_id


def _demand_choosable(row: MaintenanceMove, host: Host | None) -> None:
    if host is None:
        raise HostNeeded
    if host.pk == row.vm.host_id:
        raise HostNotChoosable(f"{row.vm.name} is on {host.name} already.")
    if host.connection != Connection.UP:
        raise HostNotChoosable(f"{host.name} cannot be reached.")
    busy = MaintenanceHost.objects.filter(host=host).exclude(status=MaintenanceHostStatus.RELEASED)
    if (other := busy.select_related("maintenance").first()) is not None:
        raise HostNotChoosable(
            f"{host.name} is part of “{other.maintenance.title}”.", maintenance=str(other.maintenance_id)
        )


def retry(job: Maintenance, *, move: MaintenanceMove | None = None, by: Actor, now: datetime) -> int:
    """Tries blocked VMs (or the one) again at once, with every host; returns how many.

    A VM that could not be stopped is left as it is: whoever may have it powered off chooses that again. Raises
    ``JobOver`` and, when that VM is the one, :class:`StopNotRepeated`.
    """
    with transaction.atomic():
        job = jobs.locked_live(job.pk)
        rows = job.moves.select_for_update(of=("self",)).filter(status=MoveStatus.BLOCKED).select_related("vm")
        if move is not None:
            rows = rows.filter(pk=move.pk)
        found = [row for row in rows if not _in_vain(row)]
        if move is not None and not found and (row := rows.first()) is not None:
            raise StopNotRepeated(f"{row.vm.name}: {row.reason}")
        for row in found:
            _reset(row, by=by, now=now)
        if move is None:
            refused = job.hosts.filter(platform=Platform.REFUSED).select_related("host__endpoint")
            for host in refused.exclude(status=MaintenanceHostStatus.RELEASED):
                platform.ask(host, by=by, now=now)
        data = {"vms": len(found)}
        events.record("maintenance.retried", by=by, now=now, subject=job, data=data)
        _go_on(job, now=now)
    return len(found)


def ask_again(move: MaintenanceMove, *, by: Actor, now: datetime) -> MaintenanceMove:
    """A VM that did not shut down when it was asked is asked once more, not powered off.

    Raises :class:`MoveOver` when that is not what happened to it, and as :func:`choose` does.
    """
    with transaction.atomic():
        in_vain = MaintenanceMove.objects.filter(
            pk=move.pk, status=MoveStatus.BLOCKED, reason_code=words.STOP_FAILED, maintenance=move.maintenance_id
        )
        if not in_vain.update(operation=None):  # what was tried decides whether it is asked or powered off
            raise MoveOver(f"{move.vm.name} is not one that was asked to shut down in vain.")
        return choose(move, choice=Choice.STOP, by=by, now=now)


def _in_vain(row: MaintenanceMove) -> bool:
    return row.choice == Choice.STOP or row.reason_code == words.STOP_FAILED


def _reset(row: MaintenanceMove, *, by: Actor, now: datetime) -> None:
    """As if it had never been tried."""
    fields: dict[str, Any] = {**FRESH, "reason_code": "", "reason": "", "remedy": "", "remedies": []}
    if row.status == MoveStatus.WAITING:
        update(row, **fields)
    else:
        shift(row, to=MoveStatus.WAITING, by=by, now=now, **fields)


def _go_on(job: Maintenance, *, now: datetime) -> None:
    Maintenance.objects.filter(pk=job.pk).update(planned_at=None)
    job.planned_at = None
    jobs.tell(job)
    jobs.wake(job, now=now)
