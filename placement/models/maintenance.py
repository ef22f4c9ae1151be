"""Maintenance jobs, their hosts and their VMs."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q

from cloudops.core.models import Operation
from cloudops.inventory.models import Host, Vm


class MaintenanceStatus(models.TextChoices):
    PLANNING = "planning", "Planning"
    DRAINING = "draining", "Moving VMs"
    BLOCKED = "blocked", "Blocked"
    HOLDING = "holding", "In maintenance"
    COMPLETED = "completed", "Completed"
    CANCELLED = "cancelled", "Cancelled"


class Maintenance(models.Model):
    """A job that empties hosts. ``maintenance`` holds them empty until somebody completes it, ``drain`` does not hold
    them, ``return`` brings the VMs of an earlier job home."""

    class Mode(models.TextChoices):
        MAINTENANCE = "maintenance", "Maintenance"
        DRAIN = "drain", "Drain"
        RETURN = "return", "Bring home"

    TRANSITIONS: ClassVar[dict[str, set[str]]] = {
        MaintenanceStatus.PLANNING: {
            MaintenanceStatus.DRAINING,
            MaintenanceStatus.BLOCKED,
            MaintenanceStatus.CANCELLED,
        },
        MaintenanceStatus.DRAINING: {
            MaintenanceStatus.BLOCKED,
            MaintenanceStatus.HOLDING,
            MaintenanceStatus.COMPLETED,
            MaintenanceStatus.CANCELLED,
        },
        MaintenanceStatus.BLOCKED: {
            MaintenanceStatus.DRAINING,
            MaintenanceStatus.HOLDING,
            MaintenanceStatus.COMPLETED,
            MaintenanceStatus.CANCELLED,
        },
        MaintenanceStatus.HOLDING: {
            MaintenanceStatus.DRAINING,
            MaintenanceStatus.COMPLETED,
            MaintenanceStatus.CANCELLED,
        },
        MaintenanceStatus.COMPLETED: set(),
        MaintenanceStatus.CANCELLED: set(),
    }

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    mode = models.CharField(max_length=16, choices=Mode, default=Mode.MAINTENANCE)
    status = models.CharField(max_length=16, choices=MaintenanceStatus, default=MaintenanceStatus.PLANNING)
    title = models.CharField(max_length=200)
    reason = models.TextField(blank=True, help_text="Why, for the people who read it later.")
    origin = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="returns", help_text="Whose VMs return."
    )
    across_clusters = models.BooleanField(default=True)
    move_powered_off = models.BooleanField(default=False, help_text="VMs that are off are moved too.")
    hosts_at_once = models.PositiveSmallIntegerField(
        default=1, help_text="Of several hosts, at most so many at a time."
    )
    host_parallel = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Migrations per host at once. Empty: the installation's limit."
    )
    requested_by_id = models.BigIntegerField(null=True, blank=True)
    requested_by_name = models.CharField(max_length=200)
    blocked_reason = models.TextField(blank=True)
    plan = models.JSONField(default=dict, blank=True, help_text="The last plan's gist: moves, seconds, proof.")
    planned_at = models.DateTimeField(null=True, blank=True)
    wake_at = models.DateTimeField(null=True, blank=True, db_index=True, help_text="When it is looked at again.")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    emptied_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["planning", "draining", "blocked", "holding", "completed", "cancelled"]),
                name="maintenance_status_known",
            ),
            models.CheckConstraint(
                condition=Q(mode__in=["maintenance", "drain", "return"]), name="maintenance_mode_known"
            ),
        ]
        indexes = [models.Index(fields=["status", "-created_at"], name="maintenance_status")]

    def __str__(self) -> str:
        return self.title


class MaintenanceHostStatus(models.TextChoices):
    WAITING = "waiting", "Waiting for its turn"
    DRAINING = "draining", "Moving VMs"
    ENTERING = "entering", "Entering maintenance mode"
    BLOCKED = "blocked", "Blocked"
    HELD = "held", "In maintenance"
    RELEASED = "released", "Back in use"


class Platform(models.TextChoices):
    """How far the platform's own maintenance mode is with a host (vSphere has one). ``FOUND``: the host was in it
    already, by others. ``SKIPPED``: not asked for, as VMs run on there by choice. ``ABSENT``: the platform says that it
    has none."""

    NONE = "", "Not asked for"
    ENTERING = "entering", "Entering"
    ENTERED = "entered", "Entered"
    FOUND = "found", "Found in it"
    REFUSED = "refused", "Refused"
    SKIPPED = "skipped", "Not asked for, by choice"
    ABSENT = "absent", "Has none"
    LEAVING = "leaving", "Leaving"
    LEFT = "left", "Left"


class MaintenanceHost(models.Model):
    """A host of a maintenance job. At most one live job per host, by constraint.

    ``platform_*``: the platform's own maintenance mode, which has no part in ``status`` once the host is given back.
    """

    TRANSITIONS: ClassVar[dict[str, set[str]]] = {
        MaintenanceHostStatus.WAITING: {MaintenanceHostStatus.DRAINING, MaintenanceHostStatus.RELEASED},
        MaintenanceHostStatus.DRAINING: {
            MaintenanceHostStatus.BLOCKED,
            MaintenanceHostStatus.ENTERING,
            MaintenanceHostStatus.HELD,
            MaintenanceHostStatus.RELEASED,
        },
        MaintenanceHostStatus.ENTERING: {
            MaintenanceHostStatus.DRAINING,
            MaintenanceHostStatus.BLOCKED,
            MaintenanceHostStatus.HELD,
            MaintenanceHostStatus.RELEASED,
        },
        MaintenanceHostStatus.BLOCKED: {
            MaintenanceHostStatus.DRAINING,
            MaintenanceHostStatus.ENTERING,
            MaintenanceHostStatus.HELD,
            MaintenanceHostStatus.RELEASED,
        },
        MaintenanceHostStatus.HELD: {MaintenanceHostStatus.DRAINING, MaintenanceHostStatus.RELEASED},
        MaintenanceHostStatus.RELEASED: set(),
    }

    maintenance = models.ForeignKey(Maintenance, on_delete=models.CASCADE, related_name="hosts")
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="maintenances")
    position = models.PositiveIntegerField(default=0)
    status = models.CharField(max_length=16, choices=MaintenanceHostStatus, default=MaintenanceHostStatus.WAITING)
    was_schedulable = models.BooleanField(default=True)
    blocked_reason = models.TextField(blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    emptied_at = models.DateTimeField(null=True, blank=True)
    released_at = models.DateTimeField(null=True, blank=True)
    platform = models.CharField(max_length=16, choices=Platform, default=Platform.NONE, blank=True)
    platform_detail = models.TextField(blank=True)
    platform_remedy = models.TextField(blank=True)
    platform_attempts = models.PositiveSmallIntegerField(default=0)
    platform_since = models.DateTimeField(null=True, blank=True)
    platform_asked_at = models.DateTimeField(
        null=True, blank=True, help_text="When it was first asked for: from then on it is ours to end."
    )
    platform_wake_at = models.DateTimeField(null=True, blank=True, db_index=True)

    class Meta:
        ordering = ["position", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["waiting", "draining", "entering", "blocked", "held", "released"]),
                name="maintenance_host_status_known",
            ),
            models.CheckConstraint(
                condition=Q(
                    platform__in=[
                        "",
                        "entering",
                        "entered",
                        "found",
                        "refused",
                        "skipped",
                        "absent",
                        "leaving",
                        "left",
                    ]
                ),
                name="maintenance_host_platform_known",
            ),
            models.UniqueConstraint(fields=["maintenance", "host"], name="maintenance_host_once_per_job"),
            models.UniqueConstraint(
                fields=["host"], condition=~Q(status="released"), name="maintenance_one_live_per_host"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.host} ({self.get_status_display().lower()})"


class MoveStatus(models.TextChoices):
    WAITING = "waiting", "Waiting"
    MOVING = "moving", "Moving"
    MOVED = "moved", "Moved"
    BLOCKED = "blocked", "Blocked"
    SKIPPED = "skipped", "Stays, by choice"
    STOPPING = "stopping", "Stopping, by choice"
    STOPPED = "stopped", "Stopped, by choice"
    GONE = "gone", "Not there any more"


class MaintenanceMove(models.Model):
    """One VM that a maintenance job has to deal with: where it is, where it shall go, what was chosen for it."""

    class Choice(models.TextChoices):
        """What an administrator chose for this one VM, instead of what the plan would do."""

        NONE = "", "As planned"
        HOST = "host", "To this host"
        ACROSS = "across", "Across clusters"
        DROP_SOFT_TAGS = "drop-soft-tags", "Without its soft tags"
        COPY_STORAGE = "copy-storage", "With its local disks"
        MOVE_PINNED = "move-pinned", "Although it is pinned"
        SKIP = "skip", "Leave it there"
        STOP = "stop", "Stop it"

    TRANSITIONS: ClassVar[dict[str, set[str]]] = {
        MoveStatus.WAITING: {
            MoveStatus.MOVING,
            MoveStatus.MOVED,
            MoveStatus.BLOCKED,
            MoveStatus.SKIPPED,
            MoveStatus.STOPPING,
            MoveStatus.STOPPED,
            MoveStatus.GONE,
        },
        MoveStatus.MOVING: {
            MoveStatus.WAITING,
            MoveStatus.MOVED,
            MoveStatus.BLOCKED,
            MoveStatus.SKIPPED,
            MoveStatus.STOPPED,
            MoveStatus.GONE,
        },
        MoveStatus.BLOCKED: {
            MoveStatus.WAITING,
            MoveStatus.MOVED,
            MoveStatus.SKIPPED,
            MoveStatus.STOPPED,
            MoveStatus.GONE,
        },
        MoveStatus.SKIPPED: {
            MoveStatus.WAITING,
            MoveStatus.MOVED,
            MoveStatus.BLOCKED,
            MoveStatus.STOPPED,
            MoveStatus.GONE,
        },
        MoveStatus.STOPPING: {MoveStatus.STOPPED, MoveStatus.BLOCKED, MoveStatus.MOVED, MoveStatus.GONE},
        MoveStatus.STOPPED: {
            MoveStatus.WAITING,
            MoveStatus.MOVED,
            MoveStatus.BLOCKED,
            MoveStatus.SKIPPED,
            MoveStatus.GONE,
        },
        MoveStatus.MOVED: {
            MoveStatus.WAITING,
            MoveStatus.BLOCKED,
            MoveStatus.SKIPPED,
            MoveStatus.STOPPED,
            MoveStatus.GONE,
        },
        MoveStatus.GONE: {
            MoveStatus.WAITING,
            MoveStatus.MOVED,
            MoveStatus.BLOCKED,
            MoveStatus.SKIPPED,
            MoveStatus.STOPPED,
        },
    }

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    maintenance = models.ForeignKey(Maintenance, on_delete=models.CASCADE, related_name="moves")
    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="maintenance_moves")
    source = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="+", help_text="Where it was, its home.")
    leaves = models.ForeignKey(
        Host,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The host it leaves to make room or to go home. Empty: whichever of the job's hosts it is on.",
    )
    target = models.ForeignKey(
        Host, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", help_text="Where the plan sends it."
    )
    resident = models.BooleanField(
        default=False, help_text="On no host of this job: it moves to make room for another."
    )
    status = models.CharField(max_length=16, choices=MoveStatus, default=MoveStatus.WAITING)
    choice = models.CharField(max_length=16, choices=Choice, default=Choice.NONE, blank=True)
    choice_host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    relaxed = models.JSONField(
        default=list, blank=True, help_text="Choices that hold beside that: across, copy-storage and so on."
    )
    position = models.PositiveIntegerField(default=0, help_text="Its place in the plan's order.")
    after = models.JSONField(default=list, blank=True, help_text="VMs whose moves must have ended before, by id.")
    expected_seconds = models.FloatField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0)
    tried_hosts = models.JSONField(default=list, blank=True, help_text="Hosts on which it failed, with the reason.")
    reason_code = models.CharField(max_length=64, blank=True)
    reason = models.TextField(blank=True)
    remedy = models.TextField(blank=True)
    remedies = models.JSONField(
        default=list, blank=True, help_text="What one click can do about it: choice, label, host_id, host_name."
    )
    retry_at = models.DateTimeField(null=True, blank=True)
    operation = models.ForeignKey(Operation, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ["position", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    status__in=["waiting", "moving", "moved", "blocked", "skipped", "stopping", "stopped", "gone"]
                ),
                name="maintenance_move_status_known",
            ),
            models.UniqueConstraint(fields=["maintenance", "vm"], name="maintenance_move_once_per_job"),
        ]

    def __str__(self) -> str:
        return f"{self.vm} ({self.get_status_display().lower()})"
