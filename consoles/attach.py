"""A browser's socket becomes a session's: by its one-time secret, or by its resume secret after the line dropped."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from cloudops.accounts import rights
from cloudops.accounts.models import User
from cloudops.accounts.rights import VmRight
from cloudops.core import crypto, live, runtime
from cloudops.core.actors import Actor, ActorKind, system
from cloudops.core.deadlocks import without_deadlock
from cloudops.core.errors import TransitionConflict
from cloudops.core.models import RuntimeSettings
from cloudops.core.state import transition
from cloudops.inventory.models import Host, Vm
from cloudops.managers.processes import SKEW_SECONDS
from consoles import limits, sessions
from consoles.errors import ConsoleOver, NotTaking, RightRefused, SecretRefused
from consoles.limits import Usage
from consoles.models import ATTACHED, ConsoleSession, Status
from consoles.reasons import ClosedReason


@dataclass(frozen=True, slots=True)
class Attached:
    """A session that belongs to one socket now, numbered ``session.attachment``; ``usage`` is the host's."""

    session: ConsoleSession
    resume_secret: str
    settings: RuntimeSettings
    usage: Usage

    @property
    def vm(self) -> Vm:
        return self.session.vm

    @property
    def host(self) -> Host:
        return self.session.vm.host


def redeem(*, secret: str, process_id: uuid.UUID, user: User | None, address: str, now: datetime) -> Attached:
    """Uses a one-time secret: pending becomes connecting, for this process.

    ``user`` is who is signed in at the socket, None for a script that only has the secret. Raises
    :class:`SecretRefused`, :class:`RightRefused`, :class:`ConsoleOver`, and :class:`ConsoleLimit` when the VM moved to
    a host that is full.
    """
    session = _find(secret_sha256=crypto.digest(secret))
    _demand_same_user(session, user)
    never_used = session.connected_at is None and session.closed_reason != ClosedReason.EXPIRED
    if session.status == Status.CLOSED and never_used:
        raise _about(ConsoleOver(), session)
    # The slot is reserved for a moment longer than the secret can be used: no commit comes too late.
    usable = now + timedelta(seconds=SKEW_SECONDS)
    if session.status != Status.PENDING or session.redeem_by <= usable:
        raise _about(SecretRefused(), session)
    _demand_right(session, now)
    resume_secret = crypto.new_secret()
    extra = {"resume_sha256": crypto.digest(resume_secret)}
    moved = session.host_id != session.vm.host_id
    try:
        _attach(
            session, process_id, address, now, Q(redeem_by__gt=usable), take=moved, kind="console.redeemed", **extra
        )
    except TransitionConflict as error:
        raise _about(SecretRefused(), session) from error
    return _attached(session, resume_secret, now)


def resume(*, resume_secret: str, process_id: uuid.UUID, user: User | None, address: str, now: datetime) -> Attached:
    """Takes a session up again: its slot is taken anew on the host where the VM is now, and its old socket, if there
    still is one, is closed. Raises like :func:`redeem`, and :class:`NotTaking` when another try of the same page was
    carried out in this moment: it may come again."""
    first: int | None = None
    while True:
        session = _find(resume_sha256=crypto.digest(resume_secret))
        _demand_same_user(session, user)
        if not _resumable(session, runtime.current(), now):
            raise _about(ConsoleOver(), session)
        _demand_right(session, now)
        if first is not None and session.attachment != first:
            raise _about(NotTaking("Another try to resume this console was quicker."), session)
        first = session.attachment
        old = (session.process_id, first) if session.status in ATTACHED else None
        same = Q(attachment=first)
        try:
            _attach(session, process_id, address, now, same, take=True, kind="console.resumed", detached_reason="")
        except TransitionConflict:  # a page may be here before the end of its old socket is written down: look again
            continue
        if old is not None and old[0] is not None:
            sessions.tell_relay(old[0], session, old[1], ClosedReason.TAKEN_OVER)
        return _attached(session, resume_secret, now)


def activate(*, session: ConsoleSession, relay_address: tuple[str, int] | None, now: datetime) -> None:
    """The VM's display answered: connecting becomes active. Raises TransitionConflict when the session was ended or
    taken over meanwhile."""
    host, port = relay_address or ("", None)
    fields: dict[str, Any] = {"relay_host": host[:64], "relay_port": port}
    if session.connected_at is None:
        fields |= {"connected_at": now, "last_input_at": now}
    same = Q(attachment=session.attachment)
    by = actor_of_session(session)
    transition(session, to=Status.ACTIVE, by=by, now=now, where=same, kind="console.connected", **fields)
    live.publish(*sessions.topics(session))


def actor_of_session(session: ConsoleSession) -> Actor:
    """The session's user at its browser's address."""
    return Actor(ActorKind.USER, session.user.get_username(), session.user_id, session.client_address)


def _find(**key: str) -> ConsoleSession:
    rows = ConsoleSession.objects.select_related("vm__host__endpoint", "vm__project", "host", "user", "process")
    session = rows.filter(**key).first()
    if session is None:
        raise SecretRefused
    return session


def _demand_same_user(session: ConsoleSession, user: User | None) -> None:
    if user is not None and user.pk != session.user_id:
        raise _about(RightRefused(), session)


def _demand_right(session: ConsoleSession, now: datetime) -> None:
    """The right to the console, as it is now; a session without it ends."""
    if rights.on_project(session.user, VmRight.CONSOLE, session.vm.project_id):
        return
    sessions.close(session=session, reason=ClosedReason.RIGHT_REVOKED, by=system("console gateway"), now=now)
    raise _about(RightRefused(ClosedReason.RIGHT_REVOKED.text), session)


def _resumable(session: ConsoleSession, settings: RuntimeSettings, now: datetime) -> bool:
    if session.status == Status.DETACHED:
        return session.resume_until is not None and session.resume_until > now
    if session.status not in ATTACHED or session.process is None:
        return False
    return session.process.lease_until + timedelta(seconds=settings.console_resume_seconds) > now


def _attach(
    session: ConsoleSession,
    process_id: uuid.UUID,
    address: str,
    now: datetime,
    where: Q,
    *,
    take: bool,
    kind: str,
    **extra: Any,
) -> None:
    fields = {
        "process_id": process_id,
        "attachment": session.attachment + 1,
        "client_address": address,
        "host_id": session.vm.host_id,
        **extra,
    }
    by = Actor(ActorKind.USER, session.user.get_username(), session.user_id, address)
    left = session.host_id

    def step() -> None:
        transition(session, to=Status.CONNECTING, by=by, now=now, where=where, kind=kind, **fields)
        live.publish(*sessions.topics(session), f"host:{left}")

    def take_and_step() -> None:
        sessions.take_slots(vm=session.vm, user=session.user, now=now, besides=session)
        step()

    if take:
        without_deadlock(take_and_step)
    else:
        step()


def _attached(session: ConsoleSession, resume_secret: str, now: datetime) -> Attached:
    settings = runtime.current()
    return Attached(session, resume_secret, settings, limits.usage_now(session.vm.host, settings, now=now))


def _about(refusal: Any, session: ConsoleSession) -> Any:
    """Lets the audit trail name the session that a refusal is about."""
    refusal.session = session
    return refusal
