"""The one row of what an operator tunes while CloudOps runs: a model of ``core.models``, whence it is imported."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class RuntimeSettings(models.Model):
    """What an operator tunes while CloudOps runs: one row. Form, API and docs are made from these fields.

    A field's ``help_text`` is for people and names the recommended range; the unit is in the field's name.
    """

    console_cleanup_interval_seconds = models.PositiveIntegerField(
        "Console cleanup interval",
        default=300,
        validators=[MinValueValidator(10), MaxValueValidator(86_400)],
        help_text="How often the reaper tidies up console sessions. Recommended: 5 to 10 minutes (300–600).",
    )
    console_retention_seconds = models.PositiveIntegerField(
        "Console history retention",
        default=7_200,
        validators=[MinValueValidator(60), MaxValueValidator(31_536_000)],
        help_text="How long ended console sessions are kept for the history. Recommended: 1 to 2 hours (3600–7200).",
    )
    console_idle_warning_seconds = models.PositiveIntegerField(
        "Idle warning after",
        default=600,
        validators=[MinValueValidator(10), MaxValueValidator(86_400)],
        help_text="After this long without key or pointer input the console's page warns and counts down.",
    )
    console_idle_disconnect_seconds = models.PositiveIntegerField(
        "Idle disconnect after",
        default=900,
        validators=[MinValueValidator(20), MaxValueValidator(86_400)],
        help_text="After this long without key or pointer input the console is disconnected. Longer than the warning.",
    )
    console_max_seconds = models.PositiveIntegerField(
        "Longest console session",
        default=0,
        validators=[MaxValueValidator(604_800)],
        help_text="A console is disconnected after this long, whatever its use. 0 means no such limit.",
    )
    console_redeem_seconds = models.PositiveIntegerField(
        "Console link valid for",
        default=60,
        validators=[MinValueValidator(5), MaxValueValidator(600)],
        help_text="How long the one-time secret of a console link can be used; it holds a slot meanwhile.",
    )
    console_resume_seconds = models.PositiveIntegerField(
        "Resume a dropped console within",
        default=60,
        validators=[MinValueValidator(5), MaxValueValidator(600)],
        help_text="How long a page whose line dropped may take its console up again by itself.",
    )
    console_host_limit = models.PositiveIntegerField(
        "Consoles per host",
        default=40,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="How many consoles may be open on one host, unless the host has a limit of its own.",
    )
    console_vm_limit = models.PositiveIntegerField(
        "Consoles per VM",
        default=40,
        validators=[MinValueValidator(1), MaxValueValidator(1_000)],
        help_text="How many consoles may be open on one VM. A lower limit of the platform itself wins.",
    )
    console_user_limit = models.PositiveIntegerField(
        "Consoles per user",
        default=40,
        validators=[MinValueValidator(1), MaxValueValidator(1_000)],
        help_text="How many consoles one person may have open.",
    )
    console_count_foreign = models.BooleanField(
        "Count foreign connections",
        default=True,
        help_text="Whether connections that were not made through CloudOps take slots of their host and VM.",
    )
    inventory_sync_interval_seconds = models.PositiveIntegerField(
        "Inventory synchronisation interval",
        default=60,
        validators=[MinValueValidator(5), MaxValueValidator(86_400)],
        help_text="How often every host is read again in full; events tell of changes in between.",
    )
    placement_allocator = models.CharField(
        "Allocator",
        max_length=16,
        default="spread",
        choices=[
            ("first-fit", "First fit: clusters in order, the first host that fits"),
            ("spread", "Spread: the emptiest host"),
            ("pack", "Pack: the fullest host that fits"),
            ("least-consoles", "Least consoles: the host with the most free console slots"),
            ("random", "Random among the hosts that fit"),
            ("weights", "The cluster's own weights"),
        ],
        help_text="How a host is chosen among those that fit, unless the cluster or the request says otherwise.",
    )
    placement_cluster_order = models.CharField(
        "Clusters in order of",
        max_length=16,
        default="memory",
        choices=[("memory", "Free memory"), ("cpu", "Free CPU"), ("position", "Their position")],
        help_text="Which cluster is looked at first. Every cluster is looked at.",
    )
    placement_across_clusters = models.BooleanField(
        "Migrate VMs across clusters",
        default=True,
        help_text="Whether a VM may move to a host of another cluster when its tags, networks and storage allow it.",
    )
    placement_cpu_ratio = models.FloatField(
        "CPU overcommit",
        default=4.0,
        validators=[MinValueValidator(0.1), MaxValueValidator(64)],
        help_text="How many vCPUs may be promised per CPU thread. Recommended: 1 to 4.",
    )
    placement_memory_ratio = models.FloatField(
        "Memory overcommit",
        default=1.0,
        validators=[MinValueValidator(0.1), MaxValueValidator(8)],
        help_text="How much memory may be promised per memory of the host. Recommended: 1.0.",
    )
    placement_memory_reserve_mib = models.PositiveIntegerField(
        "Memory kept for the host",
        default=1_024,
        validators=[MaxValueValidator(1_048_576)],
        help_text="Memory of each host that is never promised to VMs.",
    )
    placement_cpu_threshold_percent = models.PositiveSmallIntegerField(
        "Stop placing in a cluster at CPU",
        default=100,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="New VMs and starts go elsewhere once this share of a cluster's CPU is promised. 100: no threshold.",
    )
    placement_memory_threshold_percent = models.PositiveSmallIntegerField(
        "Stop placing in a cluster at memory",
        default=100,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="New VMs and starts go elsewhere once this share of a cluster's memory is promised. "
        "100: no threshold.",
    )
    placement_decision_retention_days = models.PositiveIntegerField(
        "Decisions kept",
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(3_650)],
        help_text="How long placement decisions are kept with every host's reasons.",
    )
    migration_timeout_seconds = models.PositiveIntegerField(
        "Longest migration",
        default=1_800,
        validators=[MinValueValidator(10), MaxValueValidator(86_400)],
        help_text="A migration that takes longer is aborted; the VM goes on where it was.",
    )
    migration_bandwidth_mib_per_second = models.PositiveIntegerField(
        "Migration bandwidth",
        default=0,
        validators=[MaxValueValidator(100_000)],
        help_text="The most one migration may send. 0: no limit.",
    )
    migration_downtime_milliseconds = models.PositiveIntegerField(
        "Longest pause of a migrating VM",
        default=300,
        validators=[MinValueValidator(1), MaxValueValidator(60_000)],
        help_text="How long the VM may stand still when it is switched over to the other host.",
    )
    migration_auto_converge = models.BooleanField(
        "Slow down busy VMs",
        default=True,
        help_text="Whether a VM that changes its memory faster than it can be sent is slowed down until it can be.",
    )
    migration_post_copy = models.BooleanField(
        "Post-copy when a migration does not converge",
        default=False,
        help_text="The VM goes on at the other host at once and fetches its memory. A cut line then costs the VM.",
    )
    migration_host_limit = models.PositiveSmallIntegerField(
        "Migrations per host",
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(64)],
        help_text="How many VMs may move into and out of one host at once. Recommended: 2.",
    )
    migration_total_limit = models.PositiveSmallIntegerField(
        "Migrations at once",
        default=16,
        validators=[MinValueValidator(1), MaxValueValidator(1_000)],
        help_text="How many VMs may move at once in the whole installation.",
    )
    scaling_enabled = models.BooleanField(
        "Live scaling",
        default=True,
        help_text="Whether the size of running VMs may be changed, where offering and VM allow it.",
    )
    scaling_memory_factor = models.FloatField(
        "Memory headroom",
        default=4.0,
        validators=[MinValueValidator(1), MaxValueValidator(16)],
        help_text="How many times its offering's memory a VM can grow to live, from its next start on. Recommended: 4.",
    )
    scaling_vcpu_factor = models.FloatField(
        "vCPU headroom",
        default=4.0,
        validators=[MinValueValidator(1), MaxValueValidator(16)],
        help_text="How many times its offering's vCPUs a VM can grow to live, from its next start on. Recommended: 4.",
    )
    scaling_max_memory_mib = models.PositiveIntegerField(
        "Memory headroom, absolute",
        default=0,
        validators=[MaxValueValidator(16_777_216)],
        help_text="Instead of the multiple: what every VM can grow to. 0: the multiple counts.",
    )
    scaling_max_vcpus = models.PositiveIntegerField(
        "vCPU headroom, absolute",
        default=0,
        validators=[MaxValueValidator(1_024)],
        help_text="Instead of the multiple: what every VM can grow to. 0: the multiple counts.",
    )
    scaling_prepare_at_start = models.BooleanField(
        "Prepare VMs for live scaling when they start",
        default=True,
        help_text="Whether CloudOps adds the headroom to a VM's definition when it starts the VM.",
    )
    scaling_guest_wait_seconds = models.PositiveIntegerField(
        "Wait for the guest",
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(3_600)],
        help_text="How long a guest may take to use new memory or CPUs before the resize is shown as not complete.",
    )
    scaling_shutdown_seconds = models.PositiveIntegerField(
        "Wait for a shutdown",
        default=120,
        validators=[MinValueValidator(10), MaxValueValidator(3_600)],
        help_text="How long a guest may take to shut down for a resize by restart. It is never powered off instead.",
    )
    scaling_history_retention_days = models.PositiveIntegerField(
        "Size history kept",
        default=90,
        validators=[MinValueValidator(1), MaxValueValidator(3_650)],
        help_text="How long the sizes that VMs had are kept.",
    )
    audit_retention_days = models.PositiveIntegerField(
        "Audit trail retention",
        default=365,
        validators=[MinValueValidator(1), MaxValueValidator(3_650)],
        help_text="How long audit events are kept.",
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "runtime settings"
        constraints = [
            models.CheckConstraint(condition=models.Q(pk=1), name="runtime_settings_single_row"),
            models.CheckConstraint(
                condition=models.Q(console_idle_disconnect_seconds__gt=models.F("console_idle_warning_seconds")),
                name="runtime_settings_idle_order",
                violation_error_message="The idle disconnect must come later than the idle warning.",
            ),
        ]

    def __str__(self) -> str:
        return "Runtime settings"
