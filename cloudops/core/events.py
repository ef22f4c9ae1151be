"""The audit trail's one writer."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models

from cloudops.core.actors import Actor
from cloudops.core.models import Event, subject_of


def record(
    kind: str,
    *,
    by: Actor,
    now: datetime,
    subject: models.Model | None = None,
    project_id: UUID | None = None,
    from_state: str = "",
    to_state: str = "",
    reason: str = "",
    severity: str = Event.Severity.INFO,
    data: dict[str, Any] | None = None,
) -> Event:
    """Writes one event in the caller's transaction, so that it exists exactly if the change does."""
    return Event.objects.create(
        at=now,
        kind=kind,
        severity=severity,
        actor_kind=by.kind,
        actor_name=by.name[:200],
        actor_user_id=by.user_id,
        address=by.address,
        request_id=by.request_id,
        project_id=project_id if project_id is not None else getattr(subject, "project_id", None),
        from_state=from_state,
        to_state=to_state,
        reason=reason,
        data=data or {},
        **(subject_of(subject) if subject is not None else {}),
    )
