"""Headroom, resizes, sizes that wait for the next start, and the sizes that VMs had."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from cloudops.core.models import Operation
from cloudops.inventory.models import Cluster, Offering, Vm


class Headroom(models.Model):
    """How far VMs can grow while they run; empty columns follow the cluster, then the installation's settings."""

    memory_factor = models.FloatField(
        "Memory headroom",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(16)],
        help_text="How many times its offering's memory.",
    )
    vcpu_factor = models.FloatField(
        "vCPU headroom",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(16)],
        help_text="How many times its offering's vCPUs.",
    )
    max_memory_mib = models.PositiveIntegerField(
        "Memory headroom, absolute",
        null=True,
        blank=True,
        validators=[MinValueValidator(16), MaxValueValidator(16_777_216)],
        help_text="Instead of the multiple.",
    )
    max_vcpus = models.PositiveIntegerField(
        "vCPU headroom, absolute",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1_024)],
        help_text="Instead of the multiple.",
    )

    class Meta:
        abstract = True


class ClusterHeadroom(Headroom):
    """One cluster's own headroom."""

    cluster = models.OneToOneField(Cluster, primary_key=True, on_delete=models.CASCADE, related_name="headroom")

    def __str__(self) -> str:
        return f"Headroom in {self.cluster}"


class VmHeadroom(Headroom):
    """One VM's own headroom."""

    vm = models.OneToOneField(Vm, primary_key=True, on_delete=models.CASCADE, related_name="headroom")

    def __str__(self) -> str:
        return f"Headroom of {self.vm}"


class VmSize(models.Model):
    """What a VM was given: the size that somebody chose for it, beside what its hypervisor reports (``Vm``).

    ``next_*``: what it gets when it is started next, already in its definition; empty when nothing waits.
    """

    vm = models.OneToOneField(Vm, primary_key=True, on_delete=models.CASCADE, related_name="size")
    vcpus = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField()
    cpu_mhz = models.PositiveIntegerField(default=0, help_text="MHz per vCPU. 0: no share is set.")
    cpu_cap = models.BooleanField(default=False)
    virtio_mem_seen = models.BooleanField(
        default=False, help_text="Its guest has taken memory from a virtio-mem device before."
    )
    next_size = models.JSONField(null=True, blank=True, help_text="vCPUs, memory, CPU speed and limit.")
    next_offering = models.ForeignKey(Offering, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    next_offering_version = models.PositiveIntegerField(null=True, blank=True)
    next_headroom = models.BooleanField(
        default=False, help_text="Its definition has the headroom that it gets with its next start."
    )
    next_by_name = models.CharField(max_length=200, blank=True)
    next_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.vcpus} vCPUs, {self.memory_mib} MiB for {self.vm_id}"


class Resize(models.Model):
    """One change of one VM's size: what its operation does, in rows that survive any worker."""

    class Mode(models.TextChoices):
        LIVE = "live", "Live"
        MOVE = "move", "Live, after a move"
        RESTART = "restart", "With a restart"
        NOW = "now", "While it is off"

    class Phase(models.TextChoices):
        PREPARING = "preparing", "Preparing"
        MOVING = "moving", "Moving"
        STOPPING = "stopping", "Shutting down"
        DEFINING = "defining", "Changing the definition"
        STARTING = "starting", "Starting"
        CHANGING = "changing", "Changing"
        CONFIRMING = "confirming", "Asking the guest"
        ENDED = "ended", "Ended"

    class Outcome(models.TextChoices):
        NONE = "", "Not yet known"
        APPLIED = "applied", "Applied"
        UNCONFIRMED = "unconfirmed", "Applied; the guest does not tell"
        PARTLY = "partly", "Partly applied"
        NOTHING = "nothing", "Nothing was changed"

    operation = models.OneToOneField(Operation, primary_key=True, on_delete=models.CASCADE, related_name="resize")
    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="resizes")
    offering = models.ForeignKey(Offering, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    offering_name = models.CharField(max_length=100, blank=True)
    offering_version = models.PositiveIntegerField(null=True, blank=True)
    from_offering = models.ForeignKey(Offering, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    from_offering_version = models.PositiveIntegerField(null=True, blank=True)
    mode = models.CharField(max_length=16, choices=Mode)
    moves = models.BooleanField(default=False, help_text="It goes to another host first.")
    phase = models.CharField(max_length=16, choices=Phase, default=Phase.PREPARING)
    outcome = models.CharField(max_length=16, choices=Outcome, default=Outcome.NONE, blank=True)
    from_size = models.JSONField(help_text="vCPUs, memory, CPU speed and limit before.")
    to_size = models.JSONField(help_text="What was asked for.")
    given_size = models.JSONField(help_text="What is given: asked for, rounded up to the VM's steps.")
    steps = models.JSONField(default=list, help_text="The live changes in their order, and which are done.")
    shape = models.JSONField(default=dict, help_text="What the VM is started as.")
    plan = models.JSONField(default=dict, help_text="The verdicts and numbers that it was started with.")
    seen = models.JSONField(default=dict, help_text="What hypervisor and guest said last.")
    progress = models.JSONField(default=dict, help_text="What its runners have begun, and what went wrong.")
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_by = models.CharField(max_length=200, blank=True)
    runner = models.CharField(max_length=64, blank=True, help_text="The worker that has it in hand.")
    runner_until = models.DateTimeField(null=True, blank=True, help_text="When another may take it up.")
    phase_since = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["vm"], condition=Q(ended_at__isnull=True), name="resize_one_live_per_vm"),
        ]
        indexes = [
            models.Index(fields=["vm", "-created_at"], name="resize_of_vm"),
            models.Index(fields=["-ended_at"], condition=Q(ended_at__isnull=False), name="resize_ended"),
        ]

    def __str__(self) -> str:
        return f"{self.vm_id}: {self.get_mode_display()}"


class SizeSample(models.Model):
    """A VM's size from one moment on, until its next sample: wanted, real, and what the guest had of it."""

    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="size_samples")
    at = models.DateTimeField()
    wanted_vcpus = models.PositiveIntegerField()
    wanted_memory_mib = models.PositiveIntegerField()
    vcpus = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField()
    guest_memory_mib = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        ordering = ["vm", "at"]
        indexes = [models.Index(fields=["vm", "-at"], name="size_sample_of_vm")]

    def __str__(self) -> str:
        return f"{self.vm_id} at {self.at}"
