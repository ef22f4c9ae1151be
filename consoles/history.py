"""How many consoles were open over time, per host, from the sessions' own rows."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q

from cloudops.accounts.models import User
from cloudops.inventory.models import Host
from consoles.models import ConsoleSession
from consoles.reasons import ClosedReason

_SEEN_BY_OTHERS = {
    ClosedReason.USER_CLOSED: "Closed by its user.",
    ClosedReason.DISCONNECTED: "Disconnected.",
    ClosedReason.RIGHT_REVOKED: "The right to it was withdrawn.",
    ClosedReason.LINE_LOST: "The line to the browser was lost.",
    ClosedReason.BROWSER_SILENT: "The browser stopped answering.",
}
STEP_SECONDS = 300
MAX_HOSTS = 5
MAX_SESSIONS = 50_000


def why_ended(session: ConsoleSession, viewer: User) -> str:
    """One sentence for ``viewer``: its user is spoken to, others read about them."""
    reason = ClosedReason(session.closed_reason)
    return reason.text if session.user_id == viewer.pk else _SEEN_BY_OTHERS.get(reason, reason.text)


def open_per_host(*, now: datetime, hours: int = 24, host: Host | None = None) -> dict[str, Any]:
    """Open consoles at every five minutes of the last ``hours``: ``{"x": [unix s], "series": [{"label", "values"}]}``.

    The busiest hosts have a line each, the others are summed; with ``host``, only that one. Sessions that were purged
    (the retention setting) are not in it. Two queries.
    """
    end = int(now.timestamp())
    ticks = list(range(end - hours * 3600, end + 1, STEP_SECONDS))
    changes = _changes(now=now, hours=hours, ticks=ticks, host=host)
    lines = {host_id: _running_sum(steps) for host_id, steps in changes.items()}
    busiest = sorted(lines, key=lambda host_id: -max(lines[host_id]))
    names = dict(Host.objects.filter(pk__in=busiest[:MAX_HOSTS]).values_list("pk", "name"))
    series = [{"label": names.get(key, "removed"), "values": lines[key]} for key in busiest[:MAX_HOSTS]]
    if rest := busiest[MAX_HOSTS:]:
        summed = [sum(values) for values in zip(*(lines[key] for key in rest), strict=True)]
        series.append({"label": f"{len(rest)} other hosts", "values": summed})
    if not series:
        series = [{"label": host.name if host else "no consoles", "values": [0] * len(ticks)}]
    return {"x": ticks, "series": series}


def _changes(*, now: datetime, hours: int, ticks: list[int], host: Host | None) -> dict[UUID, list[int]]:
    since = now - timedelta(hours=hours)
    rows = ConsoleSession.objects.filter(Q(ended_at__isnull=True) | Q(ended_at__gt=since), connected_at__isnull=False)
    if host is not None:
        rows = rows.filter(host=host)
    changes: dict[UUID, list[int]] = defaultdict(lambda: [0] * len(ticks))
    spans = rows.order_by("-connected_at").values_list("host_id", "connected_at", "ended_at")[:MAX_SESSIONS]
    for host_id, start, stop in spans:
        if start is None:
            continue
        first = _index(start, ticks)
        last = _index(stop, ticks) if stop else len(ticks)
        if first < len(ticks) and last > first:
            changes[host_id][first] += 1
            if last < len(ticks):
                changes[host_id][last] -= 1
    return changes


def _index(at: datetime, ticks: list[int]) -> int:
    """The first tick at or after ``at``."""
    return max(0, -(-(int(at.timestamp()) - ticks[0]) // STEP_SECONDS))


def _running_sum(steps: list[int]) -> list[int]:
    total, values = 0, []
    for step in steps:
        total += step
        values.append(total)
    return values
