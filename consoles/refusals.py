"""What a person who meets a limit is told: which one, the numbers, what could be let go, and when to try again."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from cloudops.accounts import rights
from cloudops.accounts.models import Membership, User
from cloudops.accounts.rights import Right
from cloudops.core import metrics, runtime
from cloudops.inventory.models import Host, Vm
from consoles import limits
from consoles.errors import ConsoleLimit
from consoles.limits import Taken, Usage
from consoles.models import ConsoleSession, SessionQuerySet, Status

IDLE_CANDIDATE_SECONDS: Final = 60
MAX_CANDIDATES: Final = 20
MAX_HOLDERS: Final = 100
RETRY_DEFAULT_SECONDS: Final = 30


def limit_refusal(
    full: Usage, taken: Taken, *, user: User, now: datetime, besides: ConsoleSession | None = None
) -> ConsoleLimit:
    """The refusal for a scope that is full; a handful of queries, only ever on the way out."""
    holders = _holders(full.scope, taken.host, taken.vm, user, now)
    sessions = [
        row for row in holders.select_related("vm", "user", "process") if besides is None or row.pk != besides.pk
    ]
    seen = _visible(user)
    metrics.CONSOLES_REFUSED.labels(scope=full.scope).inc()
    names = {"host": taken.host.name, "vm": taken.vm.name, "user": user.get_username(), "project": taken.vm.project}
    return ConsoleLimit(
        scope=full.scope,
        scope_name=str(names[full.scope]),
        limit=full.limit,
        in_use=full.in_use,
        foreign=full.foreign if full.count_foreign else 0,
        by_platform=full.by_platform,
        holders=_all_holders(full, taken, sessions, user, now, seen),
        idle_candidates=_candidates(sessions, user, now, seen),
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


def _all_holders(
    full: Usage, taken: Taken, sessions: list[ConsoleSession], user: User, now: datetime, seen: set[UUID] | None
) -> list[dict[str, Any]]:
    """Everybody who has a slot, the longest first: consoles as far as the user may see whose they are, and connections
    from outside, of which only people who see the fleet learn where they come from."""
    found = [
        {"kind": "console", "since": row.connected_at or row.created_at, **_candidate(row, user, now, seen)}
        | {"state": str(row.shown_status(now))}
        for row in sessions
    ]
    if full.count_foreign and full.scope in {"host", "vm"}:
        of = {"host_id": taken.host.pk} if full.scope == "host" else {"vm_id": taken.vm.pk}
        rows = limits.fresh_foreign(taken.settings, now).filter(**of).select_related("vm")
        found += [
            {
                "kind": "ghost" if row.is_ghost else "foreign",
                "since": row.first_seen_at,
                "id": row.pk if seen is None else None,
                "vm": row.vm.name if seen is None or row.vm.project_id in seen else None,
                "user": (row.user_name or None) if seen is None else None,
                "client": (row.client_host or None) if seen is None else None,
            }
            for row in rows
        ]
    found.sort(key=lambda one: str(one["since"]))
    return [one | {"since": one["since"].isoformat()} for one in found[:MAX_HOLDERS]]


def _candidates(
    sessions: list[ConsoleSession], user: User, now: datetime, seen: set[UUID] | None
) -> list[dict[str, Any]]:
    """Own consoles whatever they do, and other people's idle ones: the longest idle first.

    When nobody else is idle, those at work may be asked all the same: a limit must leave somebody to turn to.
    """
    others = [session for session in sessions if session.user_id != user.pk and session.is_attached(now)]
    idle = [session for session in others if session.idle_seconds(now) >= IDLE_CANDIDATE_SECONDS]
    found = [session for session in sessions if session.user_id == user.pk] + (idle or others)
    found.sort(key=lambda session: -session.idle_seconds(now))
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


def platform_refusal(session: ConsoleSession, limit: int | None, *, now: datetime) -> ConsoleLimit:
    """What somebody is told whom the platform itself gave no connection, although there was a slot for them. ``limit``
    is the platform's, if it said. ``session`` has its VM, host and user joined; its own slot is left out."""
    settings = runtime.current()
    vm = session.vm
    holders = _holders("vm", vm.host, vm, session.user, now).exclude(pk=session.pk)
    pending = holders.filter(status=Status.PENDING).count()
    held = limits.Counts(holders.count() - pending, 0, pending)
    foreign = limits.fresh_foreign(settings, now).filter(vm=vm).count()
    full = Usage("vm", limit or vm.max_consoles or 0, *held, foreign, by_platform=True)
    refusal = limit_refusal(full, Taken(vm.host, vm, settings, (full,)), user=session.user, now=now, besides=session)
    if full.in_use < full.limit:
        refusal.detail = (
            f"The platform says that all {full.limit} consoles of VM {vm.name} are taken; "
            f"CloudOps knows of {full.in_use}."
        )
    return refusal
