"""Console sessions, requests to release one, and the display connections that a platform has: ours and foreign ones."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from cloudops.accounts import rights
from cloudops.accounts.models import Membership
from cloudops.accounts.rights import AnyUser, Right
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
    Status.CONNECTING: {Status.ACTIVE, Status.CONNECTING, Status.DETACHED, Status.CLOSED},
    Status.ACTIVE: {Status.DETACHED, Status.CONNECTING, Status.CLOSED},
    Status.DETACHED: {Status.CONNECTING, Status.CLOSED},
    Status.CLOSED: set(),
}


ATTACHED = (Status.CONNECTING, Status.ACTIVE)
"""A relay process has the session; it counts as long as that process' lease does."""


class SessionQuerySet(models.QuerySet["ConsoleSession"]):
    """Questions about sessions, answered for ``now`` without waiting for any reaper."""

    def holding_slots(self, now: datetime) -> SessionQuerySet:
        """Sessions that take a slot now: no reaper is needed for a lapsed one to stop counting."""
        return self.filter(
            Q(status=Status.PENDING, redeem_by__gt=now) | Q(status__in=ATTACHED, process__lease_until__gt=now)
        )

    def live(self) -> SessionQuerySet:
        """Sessions that have not ended yet, lapsed ones included."""
        return self.exclude(status=Status.CLOSED)

    def attached(self, now: datetime) -> SessionQuerySet:
        """Sessions whose console is open, or just opening, in a process that is alive."""
        return self.filter(status__in=ATTACHED, process__lease_until__gt=now)

    def current(self, now: datetime) -> SessionQuerySet:
        """What people should see as there now: the holders of slots, and dropped ones that may still come back."""
        return self.filter(
            Q(status=Status.PENDING, redeem_by__gt=now)
            | Q(status__in=ATTACHED, process__lease_until__gt=now)
            | Q(status=Status.DETACHED, resume_until__gt=now)
        )

    def idle(self, now: datetime, idle_seconds: float) -> SessionQuerySet:
        """Open consoles without input for at least ``idle_seconds``."""
        return self.attached(now).filter(last_input_at__lte=now - timedelta(seconds=idle_seconds))

    def visible_to(self, user: AnyUser) -> SessionQuerySet:
        """Everybody's for people who see the fleet; else one's own and those on VMs of one's projects."""
        if rights.has(user, Right.FLEET_VIEW) or rights.has(user, Right.CONSOLES_MANAGE):
            return self
        if not user.is_authenticated or not user.is_active:
            return self.none()
        mine = Membership.objects.filter(user_id=user.pk).values("project_id")
        return self.filter(Q(user_id=user.pk) | Q(vm__project_id__in=mine))

    def for_display(self) -> SessionQuerySet:
        """With everything joined that a list shows."""
        return self.select_related("vm__project", "host", "user", "process")


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
    detached_reason = models.CharField(max_length=32, blank=True, help_text="Why the line dropped, while it is.")
    attachment = models.PositiveIntegerField(
        default=0, help_text="Counts its sockets: what an earlier one does comes too late to matter."
    )
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

    def is_attached(self, now: datetime) -> bool:
        """Whether a living process has this console open. Needs ``process`` joined."""
        return self.status in ATTACHED and self.process is not None and self.process.lease_until > now

    def shown_status(self, now: datetime) -> Status:
        """The true state now: an expired link has ended, a lapsed lease is a dropped line, whatever the row says."""
        if self.status == Status.PENDING and self.redeem_by <= now:
            return Status.CLOSED
        if self.status == Status.DETACHED and (self.resume_until is None or self.resume_until <= now):
            return Status.CLOSED
        if self.status in ATTACHED and not self.is_attached(now):
            return Status.DETACHED
        return Status(self.status)

    def idle_seconds(self, now: datetime) -> int:
        """Since the last key or pointer input; 0 before the first connection."""
        until = self.ended_at or now
        return max(0, int((until - self.last_input_at).total_seconds())) if self.last_input_at else 0

    def duration_seconds(self, now: datetime) -> int:
        """Since the first connection, until the end; 0 when there never was one."""
        until = self.ended_at or now
        return max(0, int((until - self.connected_at).total_seconds())) if self.connected_at else 0

    def is_shown_idle(self, now: datetime, idle_after_seconds: float) -> bool:
        """Whether an open console had no input for that long."""
        return self.is_attached(now) and self.idle_seconds(now) >= idle_after_seconds


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


class OwnConnection(models.Model):
    """A display connection of ours under the platform's name for it, where our address does not tell (vSphere).

    It outlives its session: what is still there when the session is over, or has another socket, is a ghost. The row
    goes when the platform does not have the connection any more, so that a name that is used again is not taken for it.
    """

    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="own_connections")
    label = models.CharField(max_length=255)
    session = models.ForeignKey(
        ConsoleSession, null=True, blank=True, on_delete=models.SET_NULL, related_name="own_connections"
    )
    attachment = models.PositiveIntegerField(help_text="Which of its session's sockets it belongs to.")
    learned_at = models.DateTimeField()

    class Meta:
        ordering = ["learned_at", "id"]
        constraints = [models.UniqueConstraint(fields=["vm", "label"], name="own_connection_once")]

    def __str__(self) -> str:
        return f"{self.label} on {self.vm.name}"

    def is_live(self, now: datetime) -> bool:
        """Whether its console is open on this very connection. Needs ``session__process`` joined."""
        session = self.session
        return session is not None and session.attachment == self.attachment and session.is_attached(now)


class ConnectTurn(models.Model):
    """Whose turn it is to connect to a VM: one after the other, so that each sees which connection is its own."""

    vm = models.OneToOneField(Vm, primary_key=True, on_delete=models.CASCADE, related_name="+")
    holder = models.UUIDField()
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.holder} until {self.until:%H:%M:%S}"


class ForeignConnection(models.Model):
    """A display connection that takes a slot and is no console of ours: somebody's virt-viewer or vSphere Client, or a
    ghost, which belonged to a console that is over and could not be dropped."""

    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="foreign_connections")
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="foreign_connections")
    label = models.CharField(max_length=255)
    is_named = models.BooleanField(
        default=True, help_text="False: the platform only counts its connections, and none can be ended alone."
    )
    is_ghost = models.BooleanField(default=False, help_text="It belonged to a console that is over.")
    user_name = models.CharField(max_length=255, blank=True, help_text="Who opened it, as the platform says.")
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

    @property
    def words(self) -> str:
        """Who it is, as far as the platform tells."""
        if not self.is_named:
            return "not named by the platform"
        return " at ".join(part for part in (self.user_name, self.client_host) if part) or self.label
