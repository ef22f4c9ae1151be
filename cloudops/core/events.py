"""The audit trail's one writer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, TypedDict, Unpack
from uuid import UUID

from django.db import models

from cloudops.core.actors import Actor
from cloudops.core.models import Event, subject_of


class Details(TypedDict, total=False):
    """What an event may tell besides what, who and when."""

    subject: models.Model | None
    project_id: UUID | None
    from_state: str
    to_state: str
    reason: str
    severity: str
    data: dict[str, Any] | None


def line(kind: str, *, by: Actor, now: datetime, **details: Unpack[Details]) -> Event:
    """One event that is not written yet, for :func:`record_many`."""
    subject, project_id = details.get("subject"), details.get("project_id")
    return Event(
        at=now,
        kind=kind,
        severity=details.get("severity", Event.Severity.INFO),
        actor_kind=by.kind,
        actor_name=by.name[:200],
        actor_user_id=by.user_id,
        address=by.address,
        request_id=by.request_id,
        project_id=project_id if project_id is not None else getattr(subject, "project_id", None),
        from_state=details.get("from_state", ""),
        to_state=details.get("to_state", ""),
        reason=details.get("reason", ""),
        data=details.get("data") or {},
        **(subject_of(subject) if subject is not None else {}),
    )


def record(kind: str, *, by: Actor, now: datetime, **details: Unpack[Details]) -> Event:
    """Writes one event in the caller's transaction, so that it exists exactly if the change does."""
    event = line(kind, by=by, now=now, **details)
    event.save(force_insert=True)
    return event


INSIDE: Final[list[str]] = []
"""How the kinds begin that tell of the fleet's inside, to be read by people who see the fleet only."""


def keep_inside(*prefixes: str) -> None:
    """From now on events whose kind begins so are not shown to outsiders; apps say so when they are ready."""
    INSIDE.extend(prefix for prefix in prefixes if prefix not in INSIDE)


def readable_outside(rows: models.QuerySet[Event]) -> models.QuerySet[Event]:
    """Those that people may read who do not see the fleet."""
    for prefix in INSIDE:
        rows = rows.exclude(kind__startswith=prefix)
    return rows


def record_many(lines: Iterable[Event]) -> None:
    """Writes events made by :func:`line` in the caller's transaction, in as few statements as the database allows."""
    Event.objects.bulk_create(lines)
