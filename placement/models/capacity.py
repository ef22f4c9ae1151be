"""Capacity and claims, policies of clusters, and affinity groups."""

from __future__ import annotations

import uuid

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
    vm = models.ForeignKey(Vm, db_index=False, on_delete=models.CASCADE, related_name="claims")
    kind = models.CharField(max_length=16, choices=ClaimKind)
    operation = models.ForeignKey(
        Operation, null=True, blank=True, db_index=False, on_delete=models.CASCADE, related_name="claims"
    )
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
        indexes = [models.Index(fields=["operation"], condition=Q(operation__isnull=False), name="claim_operation")]

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
