"""The platform's own maintenance mode (vSphere has one): asked for when our drain has emptied a host, left at its end.

A host's row says how far that is; whoever follows it asks again, which is harmless, so that nothing is lost with a
worker. What others asked for is left to them. Without one of its own the drained host is all there is to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.db import transaction

from cloudops.core import events
from cloudops.core.actors import Actor
from cloudops.core.errors import Unavailable
from cloudops.core.queue import enqueue
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import Hypervisor, HypervisorError, NotSupported
from cloudops.inventory import endpoints, maintenance_mode
from cloudops.inventory.models import Host
from cloudops.inventory.sync import CredentialUnreadable
from placement.maintenance import jobs, words
from placement.models import MaintenanceHost, Platform

Clock = Callable[[], datetime]
TASK: Final = "placement.tasks.follow_platform"
UNDER_WAY: Final = (Platform.ENTERING, Platform.LEAVING)
OURS: Final = (Platform.ENTERING, Platform.ENTERED, Platform.REFUSED)
"""What is undone when the host is used again, once it was asked for."""
LOOK_SECONDS: Final = 2.0
SETTLED_SECONDS: Final = 10.0
HANDED_OUT_SECONDS: Final = 15.0
FIRST_BACK_OFF_SECONDS: Final = 5.0
LONGEST_BACK_OFF_SECONDS: Final = 300.0


class HostNotListed(HypervisorError):
    code = "host-not-reported"
    title = "Its management service no longer lists this host."
    remedy = "Look at the management service; if the host was taken away for good, remove it here."
    retryable = True


def has_mode(host: Host) -> bool:
    """Whether its platform has one. Needs ``select_related("endpoint")``."""
    return registry.has_maintenance_mode(host.endpoint.kind, host.endpoint.uri)


def ask(row: MaintenanceHost, *, by: Actor, now: datetime) -> None:
    """The host is empty: its platform is to put it into its own mode. In the caller's transaction."""
    _to(row, Platform.ENTERING, by=by, now=now, detail=words.entering(row.host, now), platform_asked_at=None)
    _queue(row, now)


def withdraw(rows: Iterable[MaintenanceHost], *, by: Actor, now: datetime) -> None:
    """These hosts are used again, or emptied again: what was asked for is undone. In the caller's transaction."""
    for row in rows:
        if row.platform in OURS and row.platform_asked_at is not None:
            _to(row, Platform.LEAVING, by=by, now=now, detail=words.leaving(row.host))
            _queue(row, now)
        elif row.platform not in {Platform.NONE, Platform.LEAVING, Platform.LEFT}:
            _to(row, Platform.NONE, by=by, now=now)


def do_without(row: MaintenanceHost, names: Sequence[str], *, by: Actor, now: datetime) -> None:
    """VMs run on there by choice: the platform would wait for them, or move them. In the caller's transaction."""
    withdraw([row], by=by, now=now)
    if row.platform != Platform.LEAVING:
        _to(row, Platform.SKIPPED, by=by, now=now, detail=words.not_asked(row.host, names))


def look_after(row: MaintenanceHost, *, now: datetime) -> None:
    """Of a held host: somebody may have ended the platform's mode meanwhile, which is said and left at that."""
    if row.platform != Platform.ENTERED or row.platform_since is None or row.host.synced_at is None:
        return
    if row.host.synced_at < row.platform_since + timedelta(seconds=SETTLED_SECONDS):
        return  # what was read before says nothing
    told = words.entered(row.host) if row.host.platform_maintenance else words.ended_outside(row.host)
    if row.platform_detail == told:
        return
    _write(row, platform_detail=told)
    if not row.host.platform_maintenance:
        _record(row, "maintenance.platform_ended_outside", now, told, severity="warning")


def due(*, now: datetime) -> list[int]:
    """The rows that are to be followed now, each told to one caller only; for the tick."""
    found = []
    rows = MaintenanceHost.objects.filter(platform_wake_at__lte=now).order_by("platform_wake_at")
    for pk, wake_at in rows.values_list("pk", "platform_wake_at"):
        later = now + timedelta(seconds=HANDED_OUT_SECONDS)
        if MaintenanceHost.objects.filter(pk=pk, platform_wake_at=wake_at).update(platform_wake_at=later):
            found.append(pk)
    return found


def follow(row_id: int, *, clock: Clock) -> str:
    """One look at one host's way into its platform's mode or out of it; returns where that is then.

    Asks the hypervisor outside of any transaction; what changed meanwhile stays as it was changed.
    """
    rows = MaintenanceHost.objects.select_related("host__endpoint", "maintenance")
    row = rows.filter(pk=row_id).first()
    if row is None or row.platform not in UNDER_WAY:
        MaintenanceHost.objects.filter(pk=row_id).exclude(platform__in=UNDER_WAY).update(platform_wake_at=None)
        return "" if row is None else str(row.platform)
    try:
        if row.platform == Platform.LEAVING:
            _leave(row, clock)
        elif _leaves_by_another(row):
            _later(row, LOOK_SECONDS, clock(), attempts=0, detail=words.leaves_first(row.host))
        else:
            inside = _call(row, _look(row.host.ref))
            _note_inside(row, inside, clock())
            _enter(row, inside, clock)
    except NotSupported:
        done = Platform.ABSENT if row.platform == Platform.ENTERING else Platform.LEFT
        _end(row, done, words.no_mode(row.host), clock())
    except HypervisorError as error:
        _failed(row, error, clock())
    return str(row.platform)


def _leaves_by_another(row: MaintenanceHost) -> bool:
    """An earlier maintenance still takes it out: what is seen meanwhile is neither ours nor others'."""
    rows = MaintenanceHost.objects.filter(host=row.host_id, platform=Platform.LEAVING)
    return rows.exclude(pk=row.pk).exists()


def _enter(row: MaintenanceHost, inside: bool, clock: Clock) -> None:
    if inside:
        found = row.platform_asked_at is None
        done = Platform.FOUND if found else Platform.ENTERED
        _end(row, done, words.found(row.host) if found else words.entered(row.host), clock())
        return
    asked_at = row.platform_asked_at or clock()
    # Written before it is asked for: whoever comes after us knows that it is ours to undo.
    if row.platform_asked_at is None and not _write(row, platform_asked_at=asked_at):
        return
    _call(row, lambda hypervisor: hypervisor.enter_maintenance(row.host.ref))
    inside = _call(row, _look(row.host.ref))
    _note_inside(row, inside, clock())
    if inside:
        _end(row, Platform.ENTERED, words.entered(row.host), clock())
    else:
        _later(row, LOOK_SECONDS, clock(), attempts=0, detail=words.entering(row.host, asked_at))


def _leave(row: MaintenanceHost, clock: Clock) -> None:
    """Also when it was not inside: it may be on its way there, and arrive just before that is ended."""
    _call(row, lambda hypervisor: hypervisor.leave_maintenance(row.host.ref))
    inside = _call(row, _look(row.host.ref))
    _note_inside(row, inside, clock())
    if inside:
        _later(row, LOOK_SECONDS, clock(), attempts=0, detail=words.leaving(row.host))
    else:
        _end(row, Platform.LEFT, "", clock())


def _look(ref: str) -> Callable[[Hypervisor], bool]:
    def inside(hypervisor: Hypervisor) -> bool:
        found = next((one for one in hypervisor.hosts() if one.ref == ref), None)
        if found is None:
            raise HostNotListed
        return found.in_maintenance

    return inside


def _call(row: MaintenanceHost, function: Callable[[Hypervisor], Any]) -> Any:
    endpoint = row.host.endpoint
    try:
        return endpoints.call(endpoint, "maintenance", function)
    except Unavailable as error:
        raise CredentialUnreadable(error.detail) from error


def _note_inside(row: MaintenanceHost, inside: bool, now: datetime) -> None:
    if row.host.platform_maintenance != inside:
        maintenance_mode.note(row.host, inside, now=now)


def _failed(row: MaintenanceHost, error: HypervisorError, now: datetime) -> None:
    """What passes by itself is tried again; a refusal is somebody's to mend. Leaving is tried for ever."""
    detail = (error.detail or error.title).rstrip(".") + "."
    if row.platform == Platform.ENTERING and not error.retryable:
        told = words.refused(row.host, detail)
        _end(row, Platform.REFUSED, told, now, severity="warning", platform_remedy=error.remedy)
        return
    attempts = row.platform_attempts + 1
    pause = min(LONGEST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2 ** min(attempts - 1, 10))
    told = words.platform_silent(row.host, detail, leaving=row.platform == Platform.LEAVING)
    if attempts == 1:
        _record(row, "maintenance.platform_failed", now, told, severity="warning")
    _later(row, pause, now, attempts=attempts, detail=told, remedy=error.remedy)


def _later(
    row: MaintenanceHost, seconds: float, now: datetime, *, attempts: int, detail: str, remedy: str = ""
) -> None:
    told = row.platform_detail != detail
    changed = _write(
        row,
        platform_detail=detail,
        platform_remedy=remedy,
        platform_attempts=attempts,
        platform_wake_at=now + timedelta(seconds=seconds),
    )
    if changed and told:
        jobs.tell(row.maintenance, [row.host_id])


def _end(
    row: MaintenanceHost, state: str, detail: str, now: datetime, *, severity: str = "info", **fields: Any
) -> None:
    """Where it got to, in one transaction with the audit event; the job goes on from there."""
    with transaction.atomic():
        values = {"platform_detail": detail, "platform_remedy": "", "platform_attempts": 0, **fields}
        if not _write(row, platform=state, platform_since=now, platform_wake_at=None, **values):
            return
        _record(row, f"maintenance.platform_{state}", now, detail, severity=severity)
        jobs.tell(row.maintenance, [row.host_id])
        if row.maintenance.status not in jobs.OVER:
            jobs.wake(row.maintenance, now=now)


def _write(row: MaintenanceHost, **fields: Any) -> bool:
    """Compare-and-set on where it was; False when somebody changed that meanwhile, who is right."""
    mine = MaintenanceHost.objects.filter(pk=row.pk, platform=row.platform, platform_since=row.platform_since)
    if not mine.update(**fields):
        row.refresh_from_db()
        return False
    for name, value in fields.items():
        setattr(row, name, value)
    return True


def _to(row: MaintenanceHost, state: str, *, by: Actor, now: datetime, detail: str = "", **fields: Any) -> None:
    values = {"platform": state, "platform_detail": detail, "platform_remedy": "", "platform_since": now}
    values |= {"platform_attempts": 0, "platform_wake_at": None, **fields}
    MaintenanceHost.objects.filter(pk=row.pk).update(**values)
    for name, value in values.items():
        setattr(row, name, value)
    if state:
        events.record(f"maintenance.platform_{state}", by=by, now=now, subject=row.maintenance, reason=detail,
                      data={"host": row.host.name})  # fmt: skip


def _record(row: MaintenanceHost, kind: str, now: datetime, reason: str, *, severity: str) -> None:
    by = jobs.acting_for(row.maintenance)
    data = {"host": row.host.name}
    events.record(kind, by=by, now=now, subject=row.maintenance, reason=reason, severity=severity, data=data)


def _queue(row: MaintenanceHost, now: datetime) -> None:
    """Followed as soon as a worker is free; should the queue not be reachable, at the next tick."""
    MaintenanceHost.objects.filter(pk=row.pk).update(platform_wake_at=now)
    row.platform_wake_at = now
    transaction.on_commit(partial(enqueue, TASK, str(row.pk)), robust=True)
