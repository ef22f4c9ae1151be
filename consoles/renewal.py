"""The database side of a lease's renewal: one visit, a handful of statements, however many consoles are open."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db.models import BigIntegerField, Case, DateTimeField, Field, Value, When

from cloudops.core import live, runtime
from cloudops.core.actors import system
from cloudops.core.models import RuntimeSettings
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess
from consoles import limits, sessions
from consoles.limits import Usage
from consoles.models import ATTACHED, ConsoleSession, Status
from consoles.reasons import ClosedReason
from consoles.sessions import Traffic
from consoles.sockets import Socket

WRITE_BATCH: Final = 200
_FIELDS: Final[dict[str, Field[Any, Any]]] = {
    "last_input_at": DateTimeField(),
    "bytes_to_browser": BigIntegerField(),
    "bytes_from_browser": BigIntegerField(),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a process has: the sockets (session → number), whose traffic to write down, and their hosts."""

    held: dict[UUID, int]
    hosts: set[UUID]
    traffic: dict[UUID, Traffic]
    woken: list[str]


@dataclass(frozen=True, slots=True)
class Gone:
    """A socket whose session is not this process' any more, and why."""

    session_id: UUID
    attachment: int
    reason: ClosedReason


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal found out."""

    draining: bool
    mine: dict[UUID, int]
    settings: RuntimeSettings
    gone: list[Gone] = field(default_factory=list)
    usages: dict[UUID, Usage] = field(default_factory=dict)


def report_of(sockets: Iterable[Socket], now: datetime) -> Report:
    """Taken on the event loop, so that the thread touches no socket."""
    held, hosts, traffic, woken = {}, set(), {}, []
    for socket in sockets:
        held[socket.session_id] = socket.attachment
        hosts.add(socket.host_id)
        if (news := socket.unwritten_traffic()) is not None:
            traffic[socket.session_id] = news
        if socket.was_idle_until_now():
            woken += ["consoles", "hosts", f"host:{socket.host_id}"]
    return Report(held, hosts, traffic, woken)


def renew(*, process: ServerProcess, report: Report, now: datetime) -> Renewed | None:
    """Moves the lease on, then reads and writes what goes with it. None: the lease is over."""
    if not processes.renew(process=process, now=now):
        return None
    mine = dict(
        ConsoleSession.objects.filter(process_id=process.pk, status__in=ATTACHED).values_list("pk", "attachment")
    )
    draining = ServerProcess.objects.filter(pk=process.pk).values_list("draining", flat=True).first()
    _write(process.pk, report.traffic)
    live.publish(*report.woken)
    lost = {pk: number for pk, number in report.held.items() if mine.get(pk) != number}
    usages = limits.usage_by_host(report.hosts, now=now) if report.hosts else {}
    return Renewed(bool(draining), mine, runtime.current(), _why(lost) if lost else [], usages)


def _write(process_id: UUID, traffic: dict[UUID, Traffic]) -> None:
    ids = list(traffic)
    for start in range(0, len(ids), WRITE_BATCH):
        batch = ids[start : start + WRITE_BATCH]
        values = {
            name: Case(
                *(When(pk=pk, then=Value(getattr(traffic[pk], name))) for pk in batch if getattr(traffic[pk], name)),
                default=name,
                output_field=_FIELDS[name],
            )
            for name in _FIELDS
            if any(getattr(traffic[pk], name) for pk in batch)
        }
        if values:
            ConsoleSession.objects.filter(pk__in=batch, process_id=process_id, status=Status.ACTIVE).update(**values)


def _why(lost: dict[UUID, int]) -> list[Gone]:
    why = sessions.why_gone(lost)
    return [Gone(pk, number, why[pk]) for pk, number in lost.items()]


def end_stray(session_id: UUID, attachment: int, now: datetime) -> Callable[[], bool]:
    """Gives back the slot of a session that has no socket."""
    nothing = Traffic(None, 0, 0)

    def finish() -> bool:
        return sessions.finish(
            session_id=session_id,
            attachment=attachment,
            reason=ClosedReason.LINE_LOST,
            traffic=nothing,
            by=system("lease"),
            now=now,
        )

    return finish
