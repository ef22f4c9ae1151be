"""A session's life: open, close, detach. Every change is compare-and-set with an event, and pages hear of it.

The database decides; the relay that holds a console's socket is told to close it, and finds out by itself within its
next renewal when the message is lost.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings as django_settings
from django.db import transaction

from cloudops.accounts.models import User
from cloudops.core import crypto, events, live, metrics, runtime
from cloudops.core.actors import Actor
from cloudops.core.deadlocks import without_deadlock
from cloudops.core.errors import Conflict, NotFound
from cloudops.core.models import Event, subject_of
from cloudops.core.state import transition
from cloudops.hypervisors.port import PowerState
from cloudops.inventory.models import Connection, Host, Vm
from consoles import limits
from consoles.errors import HostUnreachable, VmMissing, VmNotRunning, VmWithoutConsole
from consoles.limits import Usage
from consoles.models import ATTACHED, ConsoleSession, ReleaseRequest, SessionQuerySet, Status
from consoles.reasons import ClosedReason
from consoles.refusals import limit_refusal

CLOSE_BATCH: Final = 500
MAY_PASS: Final = frozenset(
    {
        ClosedReason.HOST_LOST,
        ClosedReason.GUEST_UNREACHABLE,
        ClosedReason.GUEST_REFUSED,
        ClosedReason.TICKET_REFUSED,
        ClosedReason.PLATFORM_LIMIT,
    }
)
"""Why a display cannot be had for a moment, for example while its host is busy with the VMs that come to it: a console
that comes back may try again as long as its time lasts."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session. ``secret`` (in ``url``'s fragment too) is never seen again; ``usage`` is the host's, with this."""

    session: ConsoleSession
    secret: str
    url: str
    websocket_url: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the relay knows of a console when it ends."""

    last_input_at: datetime | None
    bytes_to_browser: int
    bytes_from_browser: int


def open_session(*, vm: Vm, user: User, view_only: bool = False, by: Actor, now: datetime) -> Opened:
    """Takes a slot of the VM's host, the VM and the user, and makes a one-time link to the console.

    ``vm`` has its host joined; the caller has checked the right. Raises :class:`ConsoleLimit`, :class:`VmNotRunning`,
    :class:`VmMissing`, :class:`VmWithoutConsole`, :class:`HostUnreachable`.
    """
    _demand_console(vm)
    secret = crypto.new_secret()
    session, usage = without_deadlock(lambda: _take_and_create(vm, user, view_only, secret, by, now))
    metrics.CONSOLES_OPENED.inc()
    base = django_settings.CONSOLE_BASE_URL
    return Opened(session, secret, f"{base}/console/{session.pk}/#s={secret}", websocket_url(base), usage)


def websocket_url(base: str) -> str:
    """The console socket below a base URL: ``wss`` for ``https``."""
    return f"{base.replace('http', 'ws', 1)}/ws/console/"


def _demand_console(vm: Vm) -> None:
    if vm.missing_since is not None:
        raise VmMissing(f"{vm.name} was last seen on {vm.host.name}.", missing_since=vm.missing_since.isoformat())
    if vm.power_state in {PowerState.OFF, PowerState.CRASHED}:
        raise VmNotRunning(f"{vm.name} is {vm.get_power_state_display().lower()}.", power_state=vm.power_state)
    if not vm.has_console:
        raise VmWithoutConsole(f"{vm.name} has no VNC display.")
    if vm.host.connection == Connection.UNREACHABLE:
        raise HostUnreachable(f"{vm.host.name}, the host of {vm.name}, cannot be reached.", retry_after_seconds=10)


def _take_and_create(
    vm: Vm, user: User, view_only: bool, secret: str, by: Actor, now: datetime
) -> tuple[ConsoleSession, Usage]:
    taken = take_slots(vm=vm, user=user, now=now)
    session = ConsoleSession(
        vm=vm,
        host=vm.host,
        user=user,
        view_only=view_only,
        secret_sha256=crypto.digest(secret),
        redeem_by=now + timedelta(seconds=taken.settings.console_redeem_seconds),
        created_at=now,
        client_address=by.address,
    )
    session.save(force_insert=True)
    events.record(
        "console.opened", by=by, now=now, subject=session, to_state=Status.PENDING, data={"view_only": view_only}
    )
    live.publish(*topics(session))
    host = taken.usages[0]
    return session, replace(host, pending=host.pending + 1)


def take_slots(*, vm: Vm, user: User, now: datetime, besides: ConsoleSession | None = None) -> limits.Taken:
    """Locks and counts for a console on ``vm``; inside a transaction. Raises :class:`ConsoleLimit` when one is full."""
    try:
        taken = limits.take(host_id=vm.host_id, vm_id=vm.pk, user_id=user.pk, now=now, besides=besides)
    except (Host.DoesNotExist, Vm.DoesNotExist, User.DoesNotExist) as error:
        raise NotFound("This VM, its host or the user was removed meanwhile.") from error
    if taken.vm.host_id != vm.host_id:
        raise Conflict(f"{vm.name} is moving to another host.", retry_after_seconds=1)
    if (full := taken.full) is not None:
        raise limit_refusal(full, taken, user=user, now=now)
    return taken


def close(
    *, session: ConsoleSession, reason: ClosedReason = ClosedReason.DISCONNECTED, by: Actor, now: datetime
) -> bool:
    """Ends a session, whatever it does; its slot is free at once. False when it had ended already."""
    with transaction.atomic():
        fresh = _locked(session.pk)
        if fresh is None or fresh.status == Status.CLOSED:
            return False
        _close(fresh, reason, by, now)
    session.refresh_from_db()
    return True


def finish(
    *, session_id: uuid.UUID, attachment: int, reason: ClosedReason, traffic: Traffic, by: Actor, now: datetime
) -> bool:
    """The relay's word that a console's socket is gone: closed for good, or detached when the page may come back.

    False when that socket is not the session's any more (closed, or taken over), and nothing is changed.
    """
    fields: dict[str, Any] = {
        "bytes_to_browser": traffic.bytes_to_browser,
        "bytes_from_browser": traffic.bytes_from_browser,
        **({"last_input_at": traffic.last_input_at} if traffic.last_input_at else {}),
    }
    with transaction.atomic():
        session = _locked(session_id)
        if session is None or session.attachment != attachment or session.status not in ATTACHED:
            return False
        if _was_coming_back(session) and reason in MAY_PASS:
            # Its tries do not make its time longer.
            until = session.resume_until if session.resume_until and session.resume_until > now else None
            _detach(session, reason, by, now, until=until, **fields)
        elif reason.resumable:
            _detach(session, reason, by, now, **fields)
        else:
            _close(session, reason, by, now, **fields)
    return True


def why_gone(session_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, ClosedReason]:
    """For sockets that are not their sessions' any more: how the session ended, or TAKEN_OVER when another has it."""
    ids = list(session_ids)
    rows = ConsoleSession.objects.filter(pk__in=ids).only("status", "closed_reason", "detached_reason")
    return dict.fromkeys(ids, ClosedReason.DISCONNECTED) | {row.pk: _end_of(row) for row in rows}


def _end_of(session: ConsoleSession) -> ClosedReason:
    if session.status == Status.CLOSED:
        return ClosedReason(session.closed_reason)
    if session.status == Status.DETACHED:
        return ClosedReason(session.detached_reason or ClosedReason.LINE_LOST)
    return ClosedReason.TAKEN_OVER


def detach(*, session: ConsoleSession, reason: ClosedReason, by: Actor, now: datetime, text: str = "") -> bool:
    """Gives the slot of an open console back, but lets its page come back; ``text`` tells the page more than the
    reason's own words. False when it was not open, or has come back on another socket since ``session`` was read."""
    with transaction.atomic():
        fresh = _locked(session.pk)
        if fresh is None or fresh.status not in ATTACHED or fresh.attachment != session.attachment:
            return False
        _detach(fresh, reason, by, now, text=text)
    return True


def _locked(session_id: uuid.UUID) -> ConsoleSession | None:
    rows = ConsoleSession.objects.select_for_update(no_key=True, of=("self",)).select_related("vm")
    return rows.filter(pk=session_id).first()


def _close(session: ConsoleSession, reason: ClosedReason, by: Actor, now: datetime, **fields: Any) -> None:
    holder = session.process_id if session.status in ATTACHED else None
    fields |= {"ended_at": now, "closed_reason": reason.value, "closed_by": by.name[:200], "detached_reason": ""}
    transition(session, to=Status.CLOSED, by=by, now=now, reason=reason.value, kind="console.closed", **fields)
    _end_requests([session.pk], now)
    _count_closed(session, now)
    if holder is not None:
        tell_relay(holder, session, session.attachment, reason)
    live.publish(*topics(session))


def _was_coming_back(session: ConsoleSession) -> bool:
    """It was let go before, and its present socket never got to the display."""
    return session.status == Status.CONNECTING and session.attachment > 1


def _detach(
    session: ConsoleSession,
    reason: ClosedReason,
    by: Actor,
    now: datetime,
    *,
    text: str = "",
    until: datetime | None = None,
    **fields: Any,
) -> None:
    holder = session.process_id
    until = until or now + timedelta(seconds=runtime.current().console_resume_seconds)
    fields |= {"detached_reason": reason.value, "resume_until": until}
    transition(session, to=Status.DETACHED, by=by, now=now, reason=reason.value, kind="console.detached", **fields)
    if holder is not None:
        tell_relay(holder, session, session.attachment, reason, text)
    live.publish(*topics(session))


def close_many(
    *,
    sessions: SessionQuerySet,
    reason: ClosedReason = ClosedReason.DISCONNECTED,
    by: Actor,
    now: datetime,
) -> int:
    """Ends many sessions, a few statements per 500 of them; returns how many.

    ``sessions`` is neither sliced nor distinct; each is closed only if it still matches when it is locked.
    """
    ids = sorted(sessions.live().order_by().values_list("pk", flat=True))
    batches = [ids[start : start + CLOSE_BATCH] for start in range(0, len(ids), CLOSE_BATCH)]
    return sum(_close_batch(sessions.live().filter(pk__in=batch), reason, by, now) for batch in batches)


def _close_batch(matching: SessionQuerySet, reason: ClosedReason, by: Actor, now: datetime) -> int:
    with transaction.atomic():
        locked = matching.select_for_update(no_key=True, of=("self",)).select_related("vm")
        rows = list(locked.order_by("pk"))
        before = [(row, row.status) for row in rows]
        keys = [row.pk for row in rows]
        ConsoleSession.objects.filter(pk__in=keys).update(
            status=Status.CLOSED, ended_at=now, closed_reason=reason, closed_by=by.name[:200], detached_reason=""
        )
        Event.objects.bulk_create([_closed_event(row, status, reason, by, now) for row, status in before])
        _end_requests(keys, now)
        for row, status in before:
            row.ended_at, row.closed_reason = now, reason.value
            _count_closed(row, now)
            if status in ATTACHED and row.process_id is not None:
                tell_relay(row.process_id, row, row.attachment, reason)
        live.publish(*dict.fromkeys(topic for row in rows for topic in topics(row)))
    return len(rows)


def _closed_event(session: ConsoleSession, status: str, reason: ClosedReason, by: Actor, now: datetime) -> Event:
    return Event(
        at=now,
        kind="console.closed",
        actor_kind=by.kind,
        actor_name=by.name[:200],
        actor_user_id=by.user_id,
        address=by.address,
        request_id=by.request_id,
        project_id=session.project_id,
        from_state=status,
        to_state=Status.CLOSED,
        reason=reason.value,
        **subject_of(session),
    )


def _end_requests(session_ids: Iterable[uuid.UUID], now: datetime) -> None:
    """Whoever asked for one of these slots learns that it is free."""
    waiting = ReleaseRequest.objects.filter(session_id__in=list(session_ids), answered_at__isnull=True)
    askers = list(waiting.order_by().values_list("requested_by_id", flat=True))
    if askers:
        waiting.update(answered_at=now, answer=ReleaseRequest.Answer.RELEASED)
        live.publish(*(f"user:{asker}" for asker in askers))


def _count_closed(session: ConsoleSession, now: datetime) -> None:
    metrics.CONSOLES_CLOSED.labels(reason=session.closed_reason).inc()
    if session.connected_at is not None:
        metrics.CONSOLE_SECONDS.observe(session.duration_seconds(now))


def relay_group(process_id: uuid.UUID) -> str:
    """The channel-layer group on which a web process hears about its consoles."""
    return f"relay.{process_id}"


def tell_relay(
    process_id: uuid.UUID, session: ConsoleSession, attachment: int, reason: ClosedReason, text: str = ""
) -> None:
    """Asks the process that has a console's socket to close it; a hint, sent after commit."""
    message = {"type": "relay.close", "session": str(session.pk), "attachment": attachment, "reason": reason.value}
    live.send(relay_group(process_id), message | ({"text": text} if text else {}))


def topics(session: ConsoleSession) -> list[str]:
    """Who wants to know of any change of a session; needs ``vm`` joined."""
    names = ["consoles", "hosts", f"host:{session.host_id}", f"vm:{session.vm_id}", f"user:{session.user_id}"]
    return [*names, f"project:{session.vm.project_id}"] if session.vm.project_id else names
