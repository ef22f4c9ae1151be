"""What grows is cut back: old audit events, stored answers, sessions, rows of processes and ticks long gone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.contrib.sessions.models import Session
from django.db import models

from cloudops.core import operations, runtime
from cloudops.core.models import Event, IdempotencyKey, Operation, Tick
from cloudops.managers import processes

log = structlog.get_logger(__name__)
BATCH: Final = 5_000
KEEP_ANSWERS: Final = timedelta(days=1)
KEEP_PROCESSES_SECONDS: Final = 24 * 3_600.0
KEEP_TICKS: Final = timedelta(days=30)


def tidy(*, now: datetime) -> dict[str, int]:
    """Does everything that is due and returns how many rows each part ended or removed. A part that fails is logged
    and stops no other; what was too much for one run is left to the next."""
    parts: dict[str, Callable[[], int]] = {
        "stale_operations": lambda: operations.fail_stale(now=now),
        "audit_events": lambda: purge_audit(now=now),
        "ended_operations": lambda: purge_operations(now=now),
        "stored_answers": lambda: _delete(IdempotencyKey.objects.filter(created_at__lt=now - KEEP_ANSWERS)),
        "web_sessions": lambda: _delete(Session.objects.filter(expire_date__lt=now)),
        "processes": lambda: processes.purge(now=now, keep_seconds=KEEP_PROCESSES_SECONDS),
        "ticks": lambda: _delete(Tick.objects.filter(last_at__lt=now - KEEP_TICKS)),
    }
    done: dict[str, int] = {}
    for name, part in parts.items():
        try:
            done[name] = part()
        except Exception:
            log.exception("housekeeping_failed", part=name)
    return done


def purge_audit(*, now: datetime) -> int:
    """Removes audit events past the retention of the settings, at most :data:`BATCH` of them."""
    days = runtime.current().audit_retention_days
    return _delete(Event.objects.filter(at__lt=now - timedelta(days=days)))


def purge_operations(*, now: datetime) -> int:
    """Removes operations that ended as long ago as audit events are kept, at most :data:`BATCH` of them."""
    days = runtime.current().audit_retention_days
    return _delete(Operation.objects.filter(ended_at__lt=now - timedelta(days=days)))


def _delete(rows: models.QuerySet[models.Model]) -> int:
    """In one small transaction, so that nobody waits for a large one."""
    ids = list(rows.order_by().values_list("pk", flat=True)[:BATCH])
    return rows.model._default_manager.filter(pk__in=ids).delete()[0] if ids else 0
