"""Operations: start a long-running job, tell how far it is, end it. One live operation per subject, by constraint."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, models, transaction

from cloudops.core import events, live, operations_view
from cloudops.core.actors import Actor, system
from cloudops.core.errors import Conflict
from cloudops.core.models import Operation, subject_of
from cloudops.core.state import transition

STALE_SECONDS = 120


class OperationRunning(Conflict):
    code = "operation-running"
    title = "Another operation is at work on this."
    remedy = "Wait until it ends, or cancel it."


def start(
    *,
    kind: str,
    title: str,
    subject: models.Model,
    steps: list[str],
    by: Actor,
    now: datetime,
    params: dict[str, Any] | None = None,
    resumable: bool = False,
) -> Operation:
    """Creates a pending operation; a ``resumable`` one is never failed for its worker's silence.

    Raises :class:`OperationRunning` when ``subject`` has a live one already."""
    try:
        with transaction.atomic():
            operation = Operation.objects.create(
                kind=kind,
                title=title,
                project_id=getattr(subject, "project_id", None),
                requested_by_id=by.user_id,
                requested_by_name=by.name,
                steps=[{"name": name, "status": "pending", "detail": "", "at": None} for name in steps],
                params=params or {},
                resumable=resumable,
                created_at=now,
                **subject_of(subject),
            )
            events.record(f"operation.{kind}", by=by, now=now, subject=subject, data={"operation": str(operation.pk)})
    except IntegrityError as error:
        running = Operation.objects.filter(
            **{k: v for k, v in subject_of(subject).items() if k != "subject_name"}, status__in=["pending", "running"]
        ).first()
        if running is None:
            raise
        raise OperationRunning(operations_view.at_work(running), operation=str(running.pk)) from error
    _tell(operation)
    return operation


def begin(operation: Operation, *, by: Actor, now: datetime) -> None:
    """A worker takes the operation up. Raises TransitionConflict when another has."""
    transition(operation, to=Operation.Status.RUNNING, by=by, now=now, started_at=now, heartbeat_at=now)
    _tell(operation)


def step(
    operation: Operation, index: int, status: str, *, now: datetime, detail: str = "", percent: int | None = None
) -> None:
    """Notes how one step goes; also the operation's heartbeat."""
    operation.steps[index].update(status=status, detail=detail, at=now.isoformat())
    if percent is None:
        done = sum(1 for item in operation.steps if item["status"] == "done")
        percent = round(100 * done / max(1, len(operation.steps)))
    operation.progress_percent = percent
    operation.heartbeat_at = now
    operation.save(update_fields=["steps", "progress_percent", "heartbeat_at"])
    _tell(operation)


def succeed(operation: Operation, *, by: Actor, now: datetime, result: dict[str, Any] | None = None) -> None:
    """Ends it well."""
    transition(
        operation,
        to=Operation.Status.SUCCEEDED,
        by=by,
        now=now,
        ended_at=now,
        progress_percent=100,
        result=result or {},
    )
    _tell(operation)


def fail(operation: Operation, *, by: Actor, now: datetime, code: str, detail: str, remedy: str) -> None:
    """Ends it badly, in words."""
    transition(
        operation,
        to=Operation.Status.FAILED,
        by=by,
        now=now,
        reason=detail,
        severity="warning",
        ended_at=now,
        error_code=code,
        error_detail=detail,
        error_remedy=remedy,
    )
    _tell(operation)


def cancel(operation: Operation, *, by: Actor, now: datetime, code: str, detail: str, remedy: str) -> None:
    """Ends it because somebody asked for that, in words."""
    transition(
        operation,
        to=Operation.Status.CANCELLED,
        by=by,
        now=now,
        reason=detail,
        ended_at=now,
        error_code=code,
        error_detail=detail,
        error_remedy=remedy,
    )
    _tell(operation)


def visible_to(user: Any) -> models.QuerySet[Operation]:
    """Everybody's for people who work with the fleet; else one's own and those of one's projects."""
    if user.sees_fleet:
        return Operation.objects.all()
    mine = user.memberships.values("project_id")
    return Operation.objects.filter(models.Q(requested_by_id=user.pk) | models.Q(project_id__in=mine))


def mark_read(operation: Operation, *, now: datetime) -> None:
    """Somebody has seen how it ended; it need not be shown any more. Once read it stays read."""
    if Operation.objects.filter(pk=operation.pk, read_at__isnull=True).update(read_at=now):
        operation.read_at = now
        _tell(operation)


def fail_stale(*, now: datetime) -> int:
    """Fails operations whose worker went silent, saying so; returns how many."""
    stale = Operation.objects.filter(resumable=False).filter(
        models.Q(status=Operation.Status.RUNNING, heartbeat_at__lt=now - timedelta(seconds=STALE_SECONDS))
        | models.Q(status=Operation.Status.PENDING, created_at__lt=now - timedelta(seconds=STALE_SECONDS))
    )
    count = 0
    for operation in stale:
        fail(
            operation,
            by=system("reaper"),
            now=now,
            code="worker-lost",
            detail="The worker that did this went silent.",
            remedy="Look at the present state, then start it again if it is still needed.",
        )
        count += 1
    return count


def _tell(operation: Operation) -> None:
    topics = ["operations", f"operation:{operation.pk}"]
    if operation.requested_by_id is not None:
        topics.append(f"user:{operation.requested_by_id}")
    live.publish(*topics)
