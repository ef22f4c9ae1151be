"""Ask to release: who met a limit asks the holder of a console for its slot; the holder's page shows it at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from cloudops.accounts import rights
from cloudops.accounts.models import Membership, User
from cloudops.accounts.rights import Right, VmRight
from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict, Invalid, NotFound
from cloudops.inventory import access
from consoles import sessions
from consoles.errors import ReleaseAlreadyAsked, ReleaseNotAllowed, ReleaseOwn, ReleaseTooOften, SessionEnded
from consoles.models import ConsoleSession, ReleaseRequest, Status
from consoles.reasons import ClosedReason

MESSAGE_CHARACTERS: Final = 200
WINDOW_SECONDS: Final = 600
ASKS_PER_USER: Final = 10
ASKS_PER_SESSION: Final = 5
STRANGER: Final = "Another user"


def ask(*, session: ConsoleSession, user: User, message: str = "", by: Actor, now: datetime) -> ReleaseRequest:
    """Asks the holder of ``session`` for its slot.

    Allowed to whoever could be refused because of it: those who may open a console on some VM of its host or of its
    project, and people who manage consoles. Raises :class:`ReleaseNotAllowed`, :class:`ReleaseOwn`,
    :class:`ReleaseAlreadyAsked`, :class:`ReleaseTooOften`, :class:`SessionEnded`, :class:`Invalid`.
    """
    _demand_asker(session, user)
    held = ConsoleSession.objects.holding_slots(now).select_related("vm", "user").filter(pk=session.pk).first()
    if held is None:
        raise SessionEnded("Its slot is free already.", remedy="Open your console now.")
    if len(message) > MESSAGE_CHARACTERS:
        raise Invalid("The message is too long.", fields={"message": [f"At most {MESSAGE_CHARACTERS} characters."]})
    _demand_patience(held, user, now)
    try:
        with transaction.atomic():
            request = ReleaseRequest.objects.create(
                session=held, requested_by=user, message=message.strip(), created_at=now
            )
            events.record("console.release_asked", by=by, now=now, subject=held, data={"request": str(request.pk)})
            _deliver(request, held)
    except IntegrityError as error:
        raise ReleaseAlreadyAsked from error
    return request


def answer(*, request: ReleaseRequest, user: User, release: bool, by: Actor, now: datetime) -> ReleaseRequest:
    """The holder lets go (the console is closed) or keeps it. Raises :class:`NotFound` for anybody else, and
    :class:`Conflict` when it was answered already."""
    session = ConsoleSession.objects.select_related("vm").filter(pk=request.session_id, user_id=user.pk).first()
    if session is None:
        raise NotFound("There is no such request, or it is not yours to answer.")
    choice = ReleaseRequest.Answer.RELEASED if release else ReleaseRequest.Answer.KEPT
    with transaction.atomic():
        open_one = ReleaseRequest.objects.filter(pk=request.pk, answered_at__isnull=True)
        if not open_one.update(answered_at=now, answer=choice):
            raise Conflict("This request was answered already.")
        events.record("console.release_answered", by=by, now=now, subject=session, to_state=choice)
        if release:
            sessions.close(session=session, reason=ClosedReason.USER_CLOSED, by=by, now=now)
        live.publish(f"user:{request.requested_by_id}", f"user:{user.pk}")
    request.answered_at, request.answer = now, choice
    return request


def open_requests_for(user: User, *, now: datetime) -> QuerySet[ReleaseRequest]:
    """What this holder is asked for and has not answered, as long as the console holds its slot."""
    held = ConsoleSession.objects.holding_slots(now).filter(user_id=user.pk).values("pk")
    waiting = ReleaseRequest.objects.filter(session_id__in=held, answered_at__isnull=True)
    return waiting.select_related("session__vm", "session__user", "requested_by")


def asked_by(user: User, *, now: datetime) -> QuerySet[ReleaseRequest]:
    """What this user asked for lately, with the answers."""
    since = now - timedelta(seconds=WINDOW_SECONDS)
    return ReleaseRequest.objects.filter(requested_by_id=user.pk, created_at__gt=since).select_related("session__vm")


def shown_asker(request: ReleaseRequest, holder: User) -> str:
    """The asker's name where they know each other: through a common project, or as people who work with the fleet."""
    return shown_askers([request], holder)[request.pk]


def shown_askers(requests: Sequence[ReleaseRequest], holder: User) -> dict[UUID, str]:
    """:func:`shown_asker` of many requests (with ``requested_by`` joined), by their ids, in one query."""
    mine = Membership.objects.filter(user_id=holder.pk).values("project_id")
    askers = {request.requested_by_id for request in requests}
    known = Membership.objects.filter(project_id__in=mine, user_id__in=askers).values_list("user_id", flat=True)
    fellows = set() if holder.sees_fleet else set(known)
    return {
        request.pk: request.requested_by.get_username()
        if holder.sees_fleet or request.requested_by.sees_fleet or request.requested_by_id in fellows
        else STRANGER
        for request in requests
    }


def _demand_asker(session: ConsoleSession, user: User) -> None:
    if session.user_id == user.pk:
        raise ReleaseOwn
    if rights.has(user, Right.CONSOLES_MANAGE):
        return
    near = Q(host_id=session.host_id)
    if session.vm.project_id is not None:
        near |= Q(project_id=session.vm.project_id)
    if not access.visible_vms(user, VmRight.CONSOLE).filter(near).exists():
        raise ReleaseNotAllowed


def _demand_patience(session: ConsoleSession, user: User, now: datetime) -> None:
    since = now - timedelta(seconds=WINDOW_SECONDS)
    recent = ReleaseRequest.objects.filter(created_at__gt=since)
    for asked, most in (
        (recent.filter(requested_by_id=user.pk), ASKS_PER_USER),
        (recent.filter(session_id=session.pk), ASKS_PER_SESSION),
    ):
        times = list(asked.order_by("created_at").values_list("created_at", flat=True))
        if len(times) >= most:
            wait = max(1, int((times[-most] - since).total_seconds()) + 1)
            raise ReleaseTooOften(
                f"{len(times)} requests in the last {WINDOW_SECONDS // 60} minutes; at most {most}.",
                retry_after_seconds=wait,
                asked=len(times),
                limit=most,
            )


def _deliver(request: ReleaseRequest, session: ConsoleSession) -> None:
    """To the console's page through its relay, and to the holder's other pages."""
    live.publish(f"user:{session.user_id}")
    if session.process_id is None or session.status == Status.PENDING:
        return
    message = {
        "type": "release-request",
        "id": str(request.pk),
        "from": shown_asker(request, session.user),
        "message": request.message,
    }
    group = sessions.relay_group(session.process_id)
    live.send(group, {"type": "relay.control", "session": str(session.pk), "message": message})
