"""Tidies up what ended by itself. Slots never wait for it: they are counted by time and lease, not by rows' words.

Safe with any number of workers: every step is compare-and-set, and what somebody else has done is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Q

from cloudops.core import metrics, runtime
from cloudops.core.actors import system
from cloudops.managers import processes
from consoles import changes, sessions
from consoles.models import ATTACHED, ConsoleSession, SessionQuerySet, Status
from consoles.reasons import ClosedReason

REAPER: Final = system("reaper")
PURGE_BATCH: Final = 1000
KEEP_PROCESSES_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Reaped:
    """How many sessions ended and were removed, and how many old processes were removed."""

    expired: int
    lapsed: int
    detached: int
    revoked: int
    purged: int
    processes: int


def reap(*, now: datetime) -> Reaped:
    """Ends what is over and removes what is past its retention."""
    settings = runtime.current()
    open_rows = ConsoleSession.objects.live()
    expired = _close(open_rows.filter(status=Status.PENDING, redeem_by__lte=now), ClosedReason.EXPIRED, now)
    resumable = now - timedelta(seconds=settings.console_resume_seconds)
    forsaken = Q(process__isnull=True) | Q(process__lease_until__lte=resumable)
    lapsed = _close(open_rows.filter(forsaken, status__in=ATTACHED), ClosedReason.LEASE_LAPSED, now)
    detached = _close_detached(open_rows.filter(status=Status.DETACHED, resume_until__lte=now), now)
    revoked = changes.revoke_lost_rights(now=now, by=REAPER)
    metrics.REAPER_REAPED.inc(expired + lapsed + detached + revoked)
    purged = _purge(now - timedelta(seconds=settings.console_retention_seconds))
    removed = processes.purge(now=now, keep_seconds=KEEP_PROCESSES_SECONDS)
    return Reaped(expired, lapsed, detached, revoked, purged, removed)


def _close(over: SessionQuerySet, reason: ClosedReason, now: datetime) -> int:
    return sessions.close_many(sessions=over, reason=reason, by=REAPER, now=now)


def _close_detached(over: SessionQuerySet, now: datetime) -> int:
    """Each ends with the reason for which its line dropped."""
    reasons = set(over.order_by().values_list("detached_reason", flat=True))
    return sum(
        _close(over.filter(detached_reason=reason), ClosedReason(reason or ClosedReason.LINE_LOST), now)
        for reason in reasons
    )


def _purge(before: datetime) -> int:
    """In small transactions, so that nobody waits for a large one."""
    total = 0
    while True:
        over = ConsoleSession.objects.filter(status=Status.CLOSED, ended_at__lt=before).order_by("ended_at")
        ids = list(over.values_list("pk", flat=True)[:PURGE_BATCH])
        if not ids:
            return total
        ConsoleSession.objects.filter(pk__in=ids).delete()
        total += len(ids)
