"""What a person who meets a limit is told: which one, the numbers, what could be let go, and when to try again."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from cloudops.accounts import rights
from cloudops.accounts.models import Membership, User
from cloudops.accounts.rights import Right
from cloudops.core import metrics
from cloudops.inventory.models import Host, Vm
from consoles.errors import ConsoleLimit
from consoles.limits import Taken, Usage
from consoles.models import ConsoleSession, SessionQuerySet, Status

IDLE_CANDIDATE_SECONDS: Final = 60
MAX_CANDIDATES: Final = 20
RETRY_DEFAULT_SECONDS: Final = 30


def limit_refusal(full: Usage, taken: Taken, *, user: User, now: datetime) -> ConsoleLimit:
    """The refusal for a scope that is full; two or three queries, only ever on the way out."""
    holders = _holders(full.scope, taken.host, taken.vm, user, now)
    sessions = list(holders.select_related("vm", "user", "process"))
    metrics.CONSOLES_REFUSED.labels(scope=full.scope).inc()
    names = {"host": taken.host.name, "vm": taken.vm.name, "user": user.get_username(), "project": taken.vm.project}
    return ConsoleLimit(
        scope=full.scope,
        scope_name=str(names[full.scope]),
        limit=full.limit,
        in_use=full.in_use,
        foreign=full.foreign,
        idle_candidates=_candidates(sessions, user, now),
        retry_after_seconds=_retry_after(sessions, taken, now),
    )


def _holders(scope: str, host: Host, vm: Vm, user: User, now: datetime) -> SessionQuerySet:
    holders = ConsoleSession.objects.holding_slots(now)
    of: dict[str, dict[str, Any]] = {
        "host": {"host_id": host.pk},
        "vm": {"vm_id": vm.pk},
        "user": {"user_id": user.pk},
        "project": {"vm__project_id": vm.project_id},
    }
    return holders.filter(**of[scope])


def _candidates(sessions: list[ConsoleSession], user: User, now: datetime) -> list[dict[str, Any]]:
    """Own consoles whatever they do, and other people's idle ones: the longest idle first.

    When nobody else is idle, those at work may be asked all the same: a limit must leave somebody to turn to.
    """
    others = [session for session in sessions if session.user_id != user.pk and session.is_attached(now)]
    idle = [session for session in others if session.idle_seconds(now) >= IDLE_CANDIDATE_SECONDS]
    found = [session for session in sessions if session.user_id == user.pk] + (idle or others)
    found.sort(key=lambda session: -session.idle_seconds(now))
    seen = _visible(user)
    return [_candidate(session, user, now, seen) for session in found[:MAX_CANDIDATES]]


def _visible(user: User) -> set[UUID] | None:
    """The projects whose sessions the user may see; None for all."""
    if rights.has(user, Right.FLEET_VIEW):
        return None
    return set(Membership.objects.filter(user_id=user.pk).values_list("project_id", flat=True))


def _candidate(session: ConsoleSession, user: User, now: datetime, seen: set[UUID] | None) -> dict[str, Any]:
    mine = session.user_id == user.pk
    shown = mine or seen is None or session.vm.project_id in seen
    return {
        "id": str(session.pk),
        "vm": session.vm.name if shown else None,
        "vm_id": str(session.vm_id) if shown else None,
        "user": session.user.get_username() if shown else None,
        "idle_seconds": session.idle_seconds(now),
        "mine": mine,
    }


def _retry_after(sessions: list[ConsoleSession], taken: Taken, now: datetime) -> int:
    """When the first slot may come back by itself: a link that expires, or a console that idles out."""
    idle_limit = timedelta(seconds=taken.settings.console_idle_disconnect_seconds)
    ends = [session.redeem_by for session in sessions if session.status == Status.PENDING]
    ends += [session.last_input_at + idle_limit for session in sessions if session.last_input_at is not None]
    if not ends:
        return RETRY_DEFAULT_SECONDS
    return max(1, math.ceil((min(ends) - now).total_seconds()))
