"""Core's tables: the audit trail, run-time settings, long-running operations, interval ticks and idempotency keys."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import models

from cloudops.core.runtime_settings import RuntimeSettings

__all__ = [
    "Event",
    "IdempotencyKey",
    "Operation",
    "RuntimeSettings",
    "Tick",
    "subject_of",
]


class Event(models.Model):
    """One line of the audit trail. Never changed; ``subject`` outlives the object that it names."""

    class Severity(models.TextChoices):
        INFO = "info", "Info"
        NOTICE = "notice", "Notice"
        WARNING = "warning", "Warning"

    at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=64, help_text="What happened, for example `console.opened`.")
    severity = models.CharField(max_length=8, choices=Severity, default=Severity.INFO)
    actor_kind = models.CharField(max_length=16)
    actor_name = models.CharField(max_length=200)
    actor_user_id = models.BigIntegerField(null=True, blank=True)
    address = models.CharField(max_length=64, blank=True, help_text="The client's address.")
    request_id = models.CharField(max_length=64, blank=True)
    subject_type = models.CharField(max_length=64, blank=True)
    subject_id = models.CharField(max_length=64, blank=True)
    subject_name = models.CharField(max_length=255, blank=True)
    project_id = models.UUIDField(null=True, blank=True)
    from_state = models.CharField(max_length=64, blank=True)
    to_state = models.CharField(max_length=64, blank=True)
    reason = models.TextField(blank=True)
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["kind", "-id"], name="event_kind"),
            models.Index(fields=["actor_user_id", "-id"], name="event_actor"),
            models.Index(fields=["subject_type", "subject_id", "-id"], name="event_subject"),
            models.Index(fields=["project_id", "-id"], name="event_project"),
            models.Index(fields=["severity", "-id"], name="event_severity"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.kind} {self.subject_name}"


class Operation(models.Model):
    """A long-running job: the one shape for every async act, with steps that a page can show.

    ``steps`` is a list of ``{"name", "status": pending|running|done|failed, "detail", "at"}``.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    TRANSITIONS: ClassVar[dict[str, set[str]]] = {
        Status.PENDING: {Status.RUNNING, Status.FAILED, Status.CANCELLED},
        Status.RUNNING: {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED},
        Status.SUCCEEDED: set(),
        Status.FAILED: set(),
        Status.CANCELLED: set(),
    }

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=64)
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    title = models.CharField(max_length=200, help_text="What it does, for people.")
    subject_type = models.CharField(max_length=64)
    subject_id = models.CharField(max_length=64)
    subject_name = models.CharField(max_length=255)
    project_id = models.UUIDField(null=True, blank=True)
    requested_by_id = models.BigIntegerField(null=True, blank=True)
    requested_by_name = models.CharField(max_length=200)
    progress_percent = models.PositiveSmallIntegerField(default=0)
    steps = models.JSONField(default=list)
    params = models.JSONField(default=dict)
    result = models.JSONField(default=dict)
    resumable = models.BooleanField(
        default=False, help_text="Its own reconciler goes on with it when a worker dies; nobody fails it as stale."
    )
    error_code = models.CharField(max_length=64, blank=True)
    error_detail = models.TextField(blank=True)
    error_remedy = models.TextField(blank=True)
    read_at = models.DateTimeField(null=True, blank=True, help_text="When its failure was acknowledged.")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=["pending", "running", "succeeded", "failed", "cancelled"]),
                name="operation_status_known",
            ),
            models.CheckConstraint(
                condition=models.Q(progress_percent__lte=100), name="operation_progress_at_most_100"
            ),
            models.UniqueConstraint(
                fields=["subject_type", "subject_id"],
                condition=models.Q(status__in=["pending", "running"]),
                name="operation_one_live_per_subject",
            ),
        ]
        indexes = [
            models.Index(fields=["status", "heartbeat_at"], name="operation_status"),
            models.Index(fields=["requested_by_id", "-created_at"], name="operation_requester"),
            models.Index(fields=["project_id", "-created_at"], name="operation_project"),
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.status})"


class Tick(models.Model):
    """When an interval job last ran, so that any number of beats and workers run it once an interval."""

    name = models.CharField(max_length=64, primary_key=True)
    last_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class IdempotencyKey(models.Model):
    """The stored answer to a POST that carried an Idempotency-Key; kept for a day."""

    actor = models.CharField(max_length=64)
    key = models.CharField(max_length=128)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of method, path and body.")
    status = models.PositiveSmallIntegerField(default=0, help_text="0 while the first request is still at work.")
    body_encrypted = models.BinaryField(default=bytes, help_text="The answer, encrypted: it may hold a secret.")
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["actor", "key"], name="idempotency_key_once")]

    def __str__(self) -> str:
        return f"{self.actor} {self.key}"


def subject_of(obj: models.Model) -> dict[str, Any]:
    """The three columns by which events and operations name an object."""
    return {
        "subject_type": obj._meta.label_lower,
        "subject_id": str(obj.pk),
        "subject_name": str(obj)[:255],
    }
