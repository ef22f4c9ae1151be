"""Migrations of single VMs."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from cloudops.core.models import Operation
from cloudops.inventory.models import Host, Vm
from placement.models.decisions import Decision
from placement.models.maintenance import Maintenance


class VmMigration(models.Model):
    """One migration of one VM: what its operation does, in rows that survive any worker."""

    class Mode(models.TextChoices):
        LIVE = "live", "Live"
        OFFLINE = "offline", "Powered off"

    class Phase(models.TextChoices):
        PREPARING = "preparing", "Preparing"
        COPYING = "copying", "Copying"
        VERIFYING = "verifying", "Verifying"
        ENDED = "ended", "Ended"

    operation = models.OneToOneField(Operation, primary_key=True, on_delete=models.CASCADE, related_name="migration")
    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="migrations")
    source = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="migrations_out")
    target = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="migrations_in")
    decision = models.ForeignKey(Decision, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    maintenance = models.ForeignKey(
        Maintenance, null=True, blank=True, on_delete=models.SET_NULL, related_name="migrations"
    )
    continues = models.BooleanField(
        default=False, help_text="Its operation goes on once it has arrived: the move is part of something larger."
    )
    mode = models.CharField(max_length=16, choices=Mode)
    phase = models.CharField(max_length=16, choices=Phase, default=Phase.PREPARING)
    options = models.JSONField(default=dict, help_text="Bandwidth, longest pause, time-out, converge, post-copy, copy.")
    progress = models.JSONField(default=dict, help_text="Memory total, remaining, sent, rate, pause, elapsed.")
    abort_requested_at = models.DateTimeField(null=True, blank=True)
    abort_requested_by = models.CharField(max_length=200, blank=True)
    runner = models.CharField(max_length=64, blank=True, help_text="The worker that has it in hand.")
    runner_until = models.DateTimeField(null=True, blank=True, help_text="When another may take it up.")
    copying_since = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "VM migration"
        constraints = [
            models.CheckConstraint(condition=~Q(source=models.F("target")), name="vm_migration_goes_elsewhere"),
            models.UniqueConstraint(
                fields=["vm"], condition=Q(ended_at__isnull=True), name="vm_migration_one_live_per_vm"
            ),
        ]
        indexes = [
            models.Index(fields=["source"], condition=Q(ended_at__isnull=True), name="vm_migration_out"),
            models.Index(fields=["target"], condition=Q(ended_at__isnull=True), name="vm_migration_in"),
            models.Index(fields=["-ended_at"], condition=Q(ended_at__isnull=False), name="vm_migration_ended"),
        ]

    def __str__(self) -> str:
        return f"{self.vm_id}: {self.source_id} to {self.target_id}"
