"""Writing a move's row: its status by compare-and-set with an audit event, its other columns plainly."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cloudops.core import live
from cloudops.core.actors import Actor
from cloudops.core.models import Event
from cloudops.core.state import transition
from placement.models import MaintenanceMove


def update(move: MaintenanceMove, **fields: Any) -> None:
    """Writes columns other than the status, and brings ``move`` up to date."""
    MaintenanceMove.objects.filter(pk=move.pk).update(**fields)
    for name, value in fields.items():
        setattr(move, name, value)


def shift(
    move: MaintenanceMove,
    *,
    to: str,
    by: Actor,
    now: datetime,
    severity: str = Event.Severity.INFO,
    **fields: Any,
) -> None:
    """Moves the row to ``to`` and writes ``fields``; its ``reason`` is the audit event's, too. In the caller's
    transaction."""
    told = fields.pop("reason", None)
    reason = told if told is not None else move.reason
    transition(move, to=to, by=by, now=now, reason=reason, severity=severity, updated_at=now, **fields)
    if told is not None and told != move.reason:
        update(move, reason=told)
    live.publish(f"vm:{move.vm_id}")
