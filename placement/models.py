"""Capacity and claims, decisions, affinity groups, migrations and maintenance."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from cloudops.core.models import Operation
from cloudops.inventory.models import Cluster, Host, Vm


class ClusterPolicy(models.Model):
    """How one cluster differs from the installation's placement settings; empty columns follow them."""

    cluster = models.OneToOneField(Cluster, primary_key=True, on_delete=models.CASCADE, related_name="policy")
    allocator = models.CharField(max_length=16, blank=True, help_text="Empty: the installation's allocator.")
    weights = models.JSONField(
        default=dict, blank=True, help_text="Weigher name to multiplier, for the allocator “weights”."
    )
    cpu_ratio = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.1), MaxValueValidator(64)])
    memory_ratio = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.1), MaxValueValidator(8)])
    cpu_reserve_threads = models.PositiveIntegerField(null=True, blank=True, help_text="Per host, never promised.")
    memory_reserve_mib = models.PositiveIntegerField(null=True, blank=True, help_text="Per host, never promised.")
    cpu_threshold_percent = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )
    memory_threshold_percent = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )

    def __str__(self) -> str:
        return f"Policy of {self.cluster}"


class Hold(models.TextChoices):
    """Why nothing is placed on a host although its operator would allow it."""

    NONE = "", "None"
    DRAINING = "draining", "Being drained"
    MAINTENANCE = "maintenance", "In maintenance"
    FENCED = "fenced", "Fenced"


class HostCapacity(models.Model):
    """What a host may promise and has promised. The row that claims are taken on, apart from the wide ``Host``.

    ``*_capacity`` is (total - reserved) x ratio; ``*_claimed`` the sum of the host's claims, changed only together
    with them. ``version`` is that of the transaction that changed the row last, so that schedulers read differences
    only; ``structure`` stands for what the row does not hold: cluster, tags, networks, storage.
    """

    host = models.OneToOneField(Host, primary_key=True, on_delete=models.CASCADE, related_name="capacity")
    vcpu_capacity = models.PositiveIntegerField(default=0)
    memory_capacity_mib = models.PositiveIntegerField(default=0)
    vcpu_claimed = models.PositiveIntegerField(default=0)
    memory_claimed_mib = models.PositiveIntegerField(default=0)
    open = models.BooleanField(
        default=False, help_text="Schedulable and reachable, as of the last refresh; a claim checks it again."
    )
    hold = models.CharField(max_length=16, choices=Hold, default=Hold.NONE, blank=True)
    version = models.BigIntegerField(default=0, db_index=True)
    structure = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "host capacities"
        constraints = [
            models.CheckConstraint(
                condition=Q(hold__in=["", "draining", "maintenance", "fenced"]), name="host_capacity_hold_known"
            )
        ]

    def __str__(self) -> str:
        return f"Capacity of {self.host_id}"


class ClaimKind(models.TextChoices):
    """What a claim is for: a running VM, a VM on its way here, or what a resize adds."""

    VM = "vm", "VM"
    INCOMING = "incoming", "Arriving VM"
    RESIZE = "resize", "Resize"


class Claim(models.Model):
    """Capacity taken on a host. No time-out: it ends in the transaction that ends its owner.

    A ``vm`` claim is owned by the VM as long as it runs; ``incoming`` and ``resize`` claims by a live operation.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.ForeignKey(HostCapacity, on_delete=models.CASCADE, related_name="claims")
    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="claims")
    kind = models.CharField(max_length=16, choices=ClaimKind)
    operation = models.ForeignKey(Operation, null=True, blank=True, on_delete=models.CASCADE, related_name="claims")
    vcpus = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField()
    adopted = models.BooleanField(
        default=False, help_text="Taken because the VM runs there already, whether or not there was room."
    )
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=["vm", "incoming", "resize"]), name="claim_kind_known"),
            models.CheckConstraint(
                condition=Q(kind="vm") | Q(operation__isnull=False), name="claim_other_than_vm_has_operation"
            ),
            models.UniqueConstraint(fields=["vm", "kind"], name="claim_once_per_vm_and_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.vcpus} vCPUs, {self.memory_mib} MiB for {self.vm_id}"


class AffinityGroup(models.Model):
    """VMs that belong together on one host, or apart on different ones."""

    class Kind(models.TextChoices):
        TOGETHER = "together", "Keep together"
        APART = "apart", "Keep apart"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=16, choices=Kind)
    strict = models.BooleanField(default=True, help_text="Off: a preference, never a reason to refuse.")
    vms = models.ManyToManyField(Vm, blank=True, related_name="affinity_groups")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=["together", "apart"]), name="affinity_group_kind_known")
        ]

    def __str__(self) -> str:
        return self.name


class FleetSnapshot(models.Model):
    """The fleet's columns at one moment, compressed: what decisions were made on, shared by many of them."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    taken_at = models.DateTimeField(db_index=True)
    hosts = models.PositiveIntegerField()
    data = models.BinaryField()

    def __str__(self) -> str:
        return f"{self.hosts} hosts at {self.taken_at}"


class Decision(models.Model):
    """One placement decision: what was asked, what was chosen, and everything needed to tell why, host by host.

    ``snapshot`` and ``changes`` (what differed from it) are the fleet that was decided on: the decision can be made
    again, with every host's verdict. ``summary`` tells the gist without that.
    """

    class Outcome(models.TextChoices):
        PLACED = "placed", "Placed"
        REFUSED = "refused", "Refused"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    at = models.DateTimeField(db_index=True)
    purpose = models.CharField(max_length=16, help_text="start, migrate, drain, deploy or dry-run.")
    outcome = models.CharField(max_length=16, choices=Outcome)
    vm = models.ForeignKey(Vm, null=True, blank=True, on_delete=models.SET_NULL, related_name="decisions")
    vm_name = models.CharField(max_length=255, blank=True)
    project_id = models.UUIDField(null=True, blank=True)
    host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.SET_NULL, related_name="decisions")
    host_name = models.CharField(max_length=200, blank=True)
    requested_by_id = models.BigIntegerField(null=True, blank=True)
    requested_by_name = models.CharField(max_length=200)
    operation = models.ForeignKey(Operation, null=True, blank=True, on_delete=models.SET_NULL, related_name="decisions")
    allocator = models.CharField(max_length=16)
    engine = models.PositiveSmallIntegerField(help_text="The version of the rules it was made by.")
    hosts_considered = models.PositiveIntegerField()
    hosts_fit = models.PositiveIntegerField()
    spec = models.JSONField()
    summary = models.JSONField(help_text="Losses per filter, best hosts with scores, nearest miss.")
    snapshot = models.ForeignKey(FleetSnapshot, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    changes = models.BinaryField(default=bytes)

    class Meta:
        ordering = ["-at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(outcome__in=["placed", "refused"]), name="decision_outcome_known")
        ]
        indexes = [
            models.Index(fields=["vm", "-at"], name="decision_vm"),
            models.Index(fields=["outcome", "-at"], name="decision_outcome"),
        ]

    def __str__(self) -> str:
        return f"{self.vm_name or 'A VM'}: {self.host_name or 'no host'}"


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
    BLOCKED = "blocked", "Blocked"
    HELD = "held", "In maintenance"
    RELEASED = "released", "Back in use"


class MaintenanceHost(models.Model):
    """A host of a maintenance job. At most one live job per host, by constraint."""

    TRANSITIONS: ClassVar[dict[str, set[str]]] = {
        MaintenanceHostStatus.WAITING: {MaintenanceHostStatus.DRAINING, MaintenanceHostStatus.RELEASED},
        MaintenanceHostStatus.DRAINING: {
            MaintenanceHostStatus.BLOCKED,
            MaintenanceHostStatus.HELD,
            MaintenanceHostStatus.RELEASED,
        },
        MaintenanceHostStatus.BLOCKED: {
            MaintenanceHostStatus.DRAINING,
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

    class Meta:
        ordering = ["position", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["waiting", "draining", "blocked", "held", "released"]),
                name="maintenance_host_status_known",
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
