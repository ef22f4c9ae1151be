"""The management servers' processes: who is alive, and which relays hold consoles."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import models
from django.db.models import Q


class ServerProcess(models.Model):
    """One process of a management server. A web process' row is the lease by which its relay holds consoles."""

    class Role(models.TextChoices):
        WEB = "web", "Web and console relay"
        WORKER = "worker", "Worker"
        WATCHER = "watcher", "Watcher"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    role = models.CharField(max_length=16, choices=Role)
    server_name = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    version = models.CharField(max_length=50)
    started_at = models.DateTimeField()
    renewed_at = models.DateTimeField()
    lease_until = models.DateTimeField(db_index=True)
    draining = models.BooleanField(default=False, help_text="Takes no new consoles.")
    stopped_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["server_name", "role", "started_at"]
        verbose_name_plural = "server processes"
        constraints = [
            models.CheckConstraint(condition=Q(role__in=["web", "worker", "watcher"]), name="server_process_role_known")
        ]

    def __str__(self) -> str:
        return f"{self.server_name} {self.role} {self.pid}"

    def is_alive(self, now: datetime) -> bool:
        """Whether its lease still holds."""
        return self.lease_until > now
