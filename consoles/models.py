"""Console sessions, requests to release one, and connections that were not made through CloudOps."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from cloudops.inventory.models import Host, Vm
from cloudops.managers.models import ServerProcess
from consoles.reasons import ClosedReason


class Status(models.TextChoices):
    """A session's life. The slot is held while pending in time, and while connecting or active under a live lease."""

    PENDING = "pending", "Waiting to be opened"
    CONNECTING = "connecting", "Connecting"
    ACTIVE = "active", "Open"
    DETACHED = "detached", "Line dropped"
    CLOSED = "closed", "Closed"


TRANSITIONS: dict[str, set[str]] = {
    Status.PENDING: {Status.CONNECTING, Status.CLOSED},
    Status.CONNECTING: {Status.ACTIVE, Status.DETACHED, Status.CLOSED},
    Status.ACTIVE: {Status.DETACHED, Status.CONNECTING, Status.CLOSED},
    Status.DETACHED: {Status.CONNECTING, Status.CLOSED},
    Status.CLOSED: set(),
}


class SessionQuerySet(models.QuerySet["ConsoleSession"]):
    """Questions about sessions that only need ``now``."""

    def holding_slots(self, now: datetime) -> SessionQuerySet:
        """Sessions that take a slot now: no reaper is needed for a lapsed one to stop counting."""
        return self.filter(
            Q(status=Status.PENDING, redeem_by__gt=now)
            | Q(status__in=[Status.CONNECTING, Status.ACTIVE], process__lease_until__gt=now)
        )

    def live(self) -> SessionQuerySet:
        """Sessions that have not ended yet, lapsed ones included."""
        return self.exclude(status=Status.CLOSED)


class ConsoleSession(models.Model):
    """One console connection from request to close. Secrets are stored as SHA-256 only."""

    TRANSITIONS: ClassVar[dict[str, set[str]]] = TRANSITIONS

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="console_sessions")
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="console_sessions")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="console_sessions")
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    view_only = models.BooleanField(default=False)

    secret_sha256 = models.CharField(max_length=64, unique=True)
    redeem_by = models.DateTimeField()
    resume_sha256 = models.CharField(max_length=64, blank=True, db_index=True)
    resume_until = models.DateTimeField(null=True, blank=True)
    process = models.ForeignKey(
        ServerProcess, null=True, blank=True, on_delete=models.SET_NULL, related_name="console_sessions"
    )

    created_at = models.DateTimeField()
    connected_at = models.DateTimeField(null=True, blank=True)
    last_input_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    closed_reason = models.CharField(max_length=32, blank=True, choices=[(r.value, r.text) for r in ClosedReason])
    closed_by = models.CharField(max_length=200, blank=True)

    client_address = models.CharField(max_length=64, blank=True)
    relay_host = models.CharField(max_length=64, blank=True, help_text="The relay's own end of the connection to VNC.")
    relay_port = models.PositiveIntegerField(null=True, blank=True)
    bytes_to_browser = models.BigIntegerField(default=0)
    bytes_from_browser = models.BigIntegerField(default=0)

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["pending", "connecting", "active", "detached", "closed"]),
                name="console_session_status_known",
            ),
            models.CheckConstraint(
                condition=Q(status="closed", ended_at__isnull=False) & ~Q(closed_reason="")
                | ~Q(status="closed") & Q(ended_at__isnull=True, closed_reason=""),
                name="console_session_closed_says_why",
            ),
        ]
        indexes = [
            models.Index(fields=["host", "status"], name="session_host"),
            models.Index(fields=["vm", "status"], name="session_vm"),
            models.Index(fields=["user", "status"], name="session_user"),
            models.Index(fields=["process", "status"], name="session_process"),
            models.Index(fields=["status", "ended_at"], name="session_ended"),
        ]

    def __str__(self) -> str:
        return f"Console of {self.vm.name}"

    @property
    def project_id(self) -> uuid.UUID | None:
        """The VM's project, so that its members find the session's events."""
        return self.vm.project_id


class ReleaseRequest(models.Model):
    """Somebody at the limit asks the holder of a session to let it go."""

    class Answer(models.TextChoices):
        RELEASED = "released", "Released"
        KEPT = "kept", "Kept"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(ConsoleSession, on_delete=models.CASCADE, related_name="release_requests")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    message = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True, blank=True)
    answer = models.CharField(max_length=16, choices=Answer, blank=True)

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["session", "requested_by"],
                condition=Q(answered_at__isnull=True),
                name="release_request_once_open",
            )
        ]

    def __str__(self) -> str:
        return f"{self.requested_by} asks for {self.session}"


class ForeignConnection(models.Model):
    """A display connection that the platform has and CloudOps did not make (virt-viewer, somebody's vSphere Client)."""

    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="foreign_connections")
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="foreign_connections")
    label = models.CharField(max_length=255)
    client_host = models.CharField(max_length=255, blank=True)
    client_port = models.PositiveIntegerField(null=True, blank=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()

    class Meta:
        ordering = ["first_seen_at", "id"]
        constraints = [models.UniqueConstraint(fields=["vm", "label"], name="foreign_connection_once")]
        indexes = [models.Index(fields=["host"], name="foreign_connection_host")]

    def __str__(self) -> str:
        return f"{self.label} on {self.vm.name}"
