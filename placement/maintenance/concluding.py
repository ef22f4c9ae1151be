"""What a job's rows add up to: which hosts are empty or blocked, whose turn is next, where the job stands, and when it
is to be looked at again. Called with the job's row locked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from cloudops.core.actors import Actor
from cloudops.core.state import transition
from placement.maintenance import jobs, platform, rolling, words
from placement.maintenance.judging import ALIVE
from placement.maintenance.looking import Look
from placement.maintenance.options import Mode
from placement.models import (
    Hold,
    Maintenance,
    MaintenanceHost,
    MaintenanceHostStatus,
    MaintenanceMove,
    MaintenanceStatus,
    MoveStatus,
    Platform,
)

HostStatus = MaintenanceHostStatus
UNDER_WAY: Final = (MoveStatus.MOVING, MoveStatus.STOPPING)
OPEN: Final = (MoveStatus.WAITING, MoveStatus.BLOCKED, *UNDER_WAY)
SOON_SECONDS: Final = 2.0
CALM_SECONDS: Final = 5.0


def conclude(seen: Look, *, by: Actor, now: datetime) -> bool:
    """True when the next hosts' turn has begun, so that there is more to do at once."""
    job = seen.job
    if job.status in jobs.OVER:
        under_way = any(move.status in UNDER_WAY for move in seen.moves)
        _wake_later(job, now + timedelta(seconds=SOON_SECONDS) if under_way else None)
        return False
    if job.mode == Mode.RETURN:
        _conclude_return(seen, by=by, now=now)
        return False
    for row in seen.hosts:
        if row.status in jobs.ACTIVE:
            _conclude_host(seen, row, by=by, now=now)
    begun = _next_turns(seen, by=by, now=now)
    _conclude_job(seen, by=by, now=now)
    return begun


def _on(seen: Look, row: MaintenanceHost) -> list[MaintenanceMove]:
    """The moves whose VM is on this host and has to leave it."""
    return [move for move in seen.moves if move.vm.host_id == row.host_id and move.status in OPEN]


def _conclude_host(seen: Look, row: MaintenanceHost, *, by: Actor, now: datetime) -> None:
    left = _on(seen, row)
    if not left and row.host_id not in seen.arriving:
        _conclude_empty(seen, row, by=by, now=now)
        return
    if row.platform not in {Platform.NONE, Platform.ENTERED, Platform.FOUND}:  # asked for again once it is empty again
        platform.withdraw([row], by=by, now=now)
    blocked = [move for move in left if move.status == MoveStatus.BLOCKED]
    reason = words.host_blocked(row.host.name, [(move.vm.name, move.reason) for move in blocked]) if blocked else ""
    stuck = bool(blocked) and len(blocked) == len(left)
    if row.status in {HostStatus.HELD, HostStatus.ENTERING}:
        _to(row, HostStatus.DRAINING, by=by, now=now, blocked_reason=reason, emptied_at=None)
        rolling.set_hold(row, Hold.DRAINING, now=now)
    wanted = HostStatus.BLOCKED if stuck else HostStatus.DRAINING
    if row.status != wanted:
        _to(row, wanted, by=by, now=now, reason=reason, severity="warning" if stuck else "info", blocked_reason=reason)
    elif row.blocked_reason != reason:
        MaintenanceHost.objects.filter(pk=row.pk).update(blocked_reason=reason)
        row.blocked_reason = reason


def _conclude_empty(seen: Look, row: MaintenanceHost, *, by: Actor, now: datetime) -> None:
    """What is asked of the platform once a host is empty, and what its answer makes of the host."""
    if seen.job.mode == Mode.DRAIN:
        _hold(row, by=by, now=now)
        rolling.end_turns([row], by=by, now=now)
        return
    if not platform.has_mode(row.host):
        _hold(row, by=by, now=now)
        return
    staying = [move.vm.name for move in seen.moves if move.vm.host_id == row.host_id and move.vm.power_state in ALIVE]
    if staying:
        if row.platform not in {Platform.SKIPPED, Platform.FOUND, Platform.ABSENT}:
            platform.do_without(row, staying, by=by, now=now)
        _hold(row, by=by, now=now)
        return
    if row.platform in {Platform.NONE, Platform.LEFT, Platform.SKIPPED}:
        platform.ask(row, by=by, now=now)
    if row.platform in {Platform.ENTERING, Platform.LEAVING}:
        if row.status != HostStatus.ENTERING:
            _to(row, HostStatus.ENTERING, by=by, now=now, emptied_at=now, blocked_reason="")
    elif row.platform == Platform.REFUSED:
        _refused(row, by=by, now=now)
    else:
        _hold(row, by=by, now=now)


def _hold(row: MaintenanceHost, *, by: Actor, now: datetime) -> None:
    if row.status != HostStatus.HELD:
        _to(row, HostStatus.HELD, by=by, now=now, emptied_at=row.emptied_at or now, blocked_reason="")
        rolling.set_hold(row, Hold.MAINTENANCE, now=now)
    platform.look_after(row, now=now)


def _refused(row: MaintenanceHost, *, by: Actor, now: datetime) -> None:
    """It stays empty and held by us; somebody mends what the platform names and tries again, or does without it."""
    reason = f"{row.platform_detail} {row.platform_remedy} {words.WITHOUT_PLATFORM}"
    if row.status != HostStatus.BLOCKED:
        if HostStatus.BLOCKED not in MaintenanceHost.TRANSITIONS[row.status]:  # it was held, and is asked for anew
            _to(row, HostStatus.DRAINING, by=by, now=now)
        _to(row, HostStatus.BLOCKED, by=by, now=now, reason=reason, severity="warning", blocked_reason=reason)
    elif row.blocked_reason != reason:
        MaintenanceHost.objects.filter(pk=row.pk).update(blocked_reason=reason)
        row.blocked_reason = reason


def _to(row: MaintenanceHost, status: str, *, by: Actor, now: datetime, **what: Any) -> None:
    transition(row, to=status, by=by, now=now, **what)


def _next_turns(seen: Look, *, by: Actor, now: datetime) -> bool:
    """A blocked host keeps its turn: somebody has to say what is to be done about it."""
    if all(row.status != HostStatus.WAITING for row in seen.hosts):
        return False
    return bool(rolling.begin_turns(seen.job, seen.hosts, by=by, now=now))


def _conclude_job(seen: Look, *, by: Actor, now: datetime) -> None:
    job, states = seen.job, {row.status for row in seen.hosts}
    if not states:
        _conclude_without_hosts(seen, by=by, now=now)
        return
    reason = "\n".join(row.blocked_reason for row in seen.hosts if row.blocked_reason and row.status in jobs.ACTIVE)
    if states & {HostStatus.DRAINING, HostStatus.ENTERING}:
        wanted = MaintenanceStatus.DRAINING
    elif HostStatus.BLOCKED in states:
        wanted = MaintenanceStatus.BLOCKED
    elif states == {HostStatus.RELEASED}:
        wanted = MaintenanceStatus.COMPLETED
    else:
        wanted = MaintenanceStatus.HOLDING
    fields: dict[str, Any] = {"blocked_reason": reason}
    if wanted in {MaintenanceStatus.HOLDING, MaintenanceStatus.COMPLETED} and job.emptied_at is None:
        fields["emptied_at"] = now
    _move_job(job, wanted, fields, by=by, now=now)
    _wake_later(job, _next_look(job, seen.moves, now))


def _conclude_without_hosts(seen: Look, *, by: Actor, now: datetime) -> None:
    """They were removed from the inventory: nothing is left to drain, or to hold."""
    drains = seen.job.mode == Mode.DRAIN
    wanted = MaintenanceStatus.COMPLETED if drains else MaintenanceStatus.CANCELLED
    reason = "All of its hosts were removed from the inventory."
    _move_job(seen.job, wanted, {"blocked_reason": reason}, by=by, now=now)
    under_way = any(move.status in UNDER_WAY for move in seen.moves)
    _wake_later(seen.job, now + timedelta(seconds=SOON_SECONDS) if under_way else None)


def _conclude_return(seen: Look, *, by: Actor, now: datetime) -> None:
    open_ = [move for move in seen.moves if move.status in OPEN]
    blocked = [(move.vm.name, move.reason) for move in open_ if move.status == MoveStatus.BLOCKED]
    reason = f"{words.count(len(blocked), 'VM')} cannot go home. " if blocked else ""
    reason += "; ".join(f"{name}: {why}" for name, why in blocked[:3])
    if not open_:
        wanted = MaintenanceStatus.COMPLETED
    elif len(blocked) == len(open_):
        wanted = MaintenanceStatus.BLOCKED
    else:
        wanted = MaintenanceStatus.DRAINING
    _move_job(seen.job, wanted, {"blocked_reason": reason}, by=by, now=now)
    _wake_later(seen.job, _next_look(seen.job, seen.moves, now))


def _move_job(job: Maintenance, wanted: str, fields: dict[str, Any], *, by: Actor, now: datetime) -> None:
    """To the status that the rows add up to; where there is no direct way it passes through draining."""
    if job.status != wanted and wanted not in Maintenance.TRANSITIONS[job.status]:
        transition(job, to=MaintenanceStatus.DRAINING, by=by, now=now)
    if job.status != wanted:
        if wanted in jobs.OVER:
            fields["ended_at"] = now
        severity = "warning" if wanted == MaintenanceStatus.BLOCKED else "notice"
        transition(job, to=wanted, by=by, now=now, reason=fields["blocked_reason"], severity=severity, **fields)
    elif any(getattr(job, name) != value for name, value in fields.items()):
        Maintenance.objects.filter(pk=job.pk).update(**fields)
        for name, value in fields.items():
            setattr(job, name, value)


def _next_look(job: Maintenance, moves: Iterable[MaintenanceMove], now: datetime) -> datetime | None:
    """A job that waits for something looks from time to time whether it is there, as any message may be lost."""
    if job.status in jobs.OVER:
        return None
    pause = CALM_SECONDS if job.status == MaintenanceStatus.HOLDING else SOON_SECONDS
    due = now + timedelta(seconds=pause)
    sooner = [one.retry_at for one in moves if one.status == MoveStatus.WAITING and one.retry_at is not None]
    return min([due, *(at for at in sooner if at > now)])


def _wake_later(job: Maintenance, at: datetime | None) -> None:
    Maintenance.objects.filter(pk=job.pk).update(wake_at=at)
    job.wake_at = at
