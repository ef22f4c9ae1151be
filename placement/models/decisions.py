"""Placement decisions and the fleets that they were made on."""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Q

from cloudops.core.models import Operation
from cloudops.inventory.models import Host, Vm


class StoredJSONField(models.JSONField):
    """JSON that is written often, read as a whole and never searched: kept as text, for a fraction of what making
    ``jsonb`` of it costs PostgreSQL."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "text"

    def from_db_value(self, value: str | None, *_: Any) -> Any:
        return None if value is None else json.loads(value)

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))


class FleetSnapshot(models.Model):
    """The fleet's columns at one moment, compressed: what decisions were made on, shared by many of them.

    With a ``base``, ``data`` is only what differs from that, which is whole.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    taken_at = models.DateTimeField(db_index=True)
    hosts = models.PositiveIntegerField()
    data = models.BinaryField()
    base = models.ForeignKey(
        "self", null=True, blank=True, db_constraint=False, on_delete=models.PROTECT, related_name="+"
    )

    def __str__(self) -> str:
        return f"{self.hosts} hosts at {self.taken_at}"


class Decision(models.Model):
    """One placement decision: what was asked, what was chosen, and everything needed to tell why, host by host.

    ``snapshot`` and ``changes`` (what differed from it) are the fleet that was decided on: the decision can be made
    again, with every host's verdict. ``summary`` tells the gist without that.

    Every placement writes such a row, so its indexes are as few as its readers need, and the database does not check
    its VM, host and snapshot: the claim that is written with it has the same VM and host, and is checked; and
    snapshots are kept an hour longer than they are used.
    """

    class Outcome(models.TextChoices):
        PLACED = "placed", "Placed"
        REFUSED = "refused", "Refused"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    at = models.DateTimeField(db_index=True)
    purpose = models.CharField(max_length=16, help_text="start, migrate, drain, deploy or dry-run.")
    outcome = models.CharField(max_length=16, choices=Outcome)
    vm = models.ForeignKey(
        Vm,
        null=True,
        blank=True,
        db_index=False,
        db_constraint=False,
        on_delete=models.SET_NULL,
        related_name="decisions",
    )
    vm_name = models.CharField(max_length=255, blank=True)
    project_id = models.UUIDField(null=True, blank=True)
    host = models.ForeignKey(
        Host, null=True, blank=True, db_constraint=False, on_delete=models.SET_NULL, related_name="decisions"
    )
    host_name = models.CharField(max_length=200, blank=True)
    requested_by_id = models.BigIntegerField(null=True, blank=True)
    requested_by_name = models.CharField(max_length=200)
    operation = models.ForeignKey(
        Operation, null=True, blank=True, db_index=False, on_delete=models.SET_NULL, related_name="decisions"
    )
    allocator = models.CharField(max_length=16)
    engine = models.PositiveSmallIntegerField(help_text="The version of the rules it was made by.")
    hosts_considered = models.PositiveIntegerField()
    hosts_fit = models.PositiveIntegerField()
    spec = StoredJSONField()
    summary = StoredJSONField(help_text="Losses per filter, best hosts with scores, nearest miss.")
    snapshot = models.ForeignKey(
        FleetSnapshot,
        null=True,
        blank=True,
        db_index=False,
        db_constraint=False,
        on_delete=models.PROTECT,
        related_name="+",
    )
    changes = models.BinaryField(default=bytes)

    class Meta:
        ordering = ["-at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(outcome__in=["placed", "refused"]), name="decision_outcome_known")
        ]
        indexes = [
            models.Index(fields=["vm", "-at"], name="decision_vm"),
            models.Index(fields=["operation"], condition=Q(operation__isnull=False), name="decision_operation"),
            models.Index(fields=["-at"], condition=Q(outcome="refused"), name="decision_refused"),
        ]

    def __str__(self) -> str:
        return f"{self.vm_name or 'A VM'}: {self.host_name or 'no host'}"
