"""Clusters, management endpoints, hosts, VMs, offerings and tags."""

from __future__ import annotations

import uuid

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from cloudops.accounts.models import Project
from cloudops.hypervisors.port import Kind, PowerState
from cloudops.inventory import offering_rules

validate_tag = RegexValidator(
    r"^[a-z0-9][a-z0-9._-]{0,62}$", "Use lower-case letters, digits, dots, hyphens and underscores."
)


class Tag(models.Model):
    """A word that hosts carry and that offerings and templates ask for."""

    name = models.CharField(max_length=63, unique=True, validators=[validate_tag])

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Cluster(models.Model):
    """Hosts among which VMs may move freely."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    position = models.PositiveIntegerField(default=0, help_text="Order on the screens.")
    description = models.TextField(blank=True)
    taken_from = models.ForeignKey(
        "Endpoint",
        null=True,
        blank=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="clusters_taken",
        help_text="The endpoint whose own cluster this is: its hosts come and go as they do there.",
    )
    platform_name = models.CharField(
        max_length=200, blank=True, editable=False, help_text="What it is called there, whatever its name here."
    )

    class Meta:
        ordering = ["position", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["taken_from", "platform_name"],
                condition=Q(taken_from__isnull=False),
                name="cluster_taken_once",
            )
        ]

    def __str__(self) -> str:
        return self.name


class Endpoint(models.Model):
    """A management endpoint: one libvirt daemon, or one vCenter with many hosts. Its secret is encrypted."""

    KINDS = [(Kind.LIBVIRT, "KVM (libvirt)"), (Kind.VSPHERE, "VMware (vSphere)"), (Kind.SIMULATED, "Simulated")]

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=16, choices=KINDS)
    uri = models.CharField("URI", max_length=500, unique=True)
    username = models.CharField(max_length=200, blank=True)
    secret_encrypted = models.TextField(blank=True, editable=False)
    certificate_sha256 = models.CharField(max_length=95, blank=True)
    certificate_pinned_at = models.DateTimeField(
        null=True, blank=True, help_text="Since when only this certificate is accepted."
    )
    offered_certificate = models.JSONField(
        null=True,
        blank=True,
        editable=False,
        help_text="Another certificate that it presented: fingerprints and since when. Null: the pinned one.",
    )
    takes_clusters_over = models.BooleanField(
        "Take clusters over",
        default=False,
        help_text="Its hosts are in the clusters that the platform has them in, by name, and follow changes there.",
    )
    cluster = models.ForeignKey(
        Cluster,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="endpoints",
        help_text="Where its hosts go that are in no cluster of the platform, or all of them.",
    )
    timeout_seconds = models.PositiveSmallIntegerField(
        default=10, validators=[MinValueValidator(1), MaxValueValidator(120)], help_text="Deadline of every call."
    )
    synced_at = models.DateTimeField(null=True, blank=True)
    watched_by = models.CharField(
        max_length=100, blank=True, help_text="The watcher process that listens for its events."
    )
    watch_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["uri"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["libvirt", "vsphere", "simulated"]), name="endpoint_kind_known"
            )
        ]

    def __str__(self) -> str:
        return self.uri


class Connection(models.TextChoices):
    """Whether CloudOps reaches a host (observed, never set by people)."""

    UP = "up", "Up"
    UNREACHABLE = "unreachable", "Unreachable"
    UNKNOWN = "unknown", "Not seen yet"


class HostTag(models.Model):
    """That a host carries a tag, and by whose word: the operator's (``own``), the platform's, or both's."""

    host = models.ForeignKey("Host", on_delete=models.CASCADE, related_name="host_tags")
    tag = models.ForeignKey(Tag, on_delete=models.CASCADE, related_name="host_tags")
    own = models.BooleanField(default=True)
    platform = models.BooleanField(default=False)

    class Meta:
        ordering = ["tag__name"]
        constraints = [
            models.UniqueConstraint(fields=["host", "tag"], name="host_tag_once"),
            models.CheckConstraint(condition=Q(own=True) | Q(platform=True), name="host_tag_has_origin"),
        ]

    def __str__(self) -> str:
        return f"{self.host_id} {self.tag_id}"


class Host(models.Model):
    """A hypervisor host. Will (`schedulable`) and observation (`connection`) are separate fields.

    Capacity columns come from the host; ``*_override`` columns are the operator's and win.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="hosts")
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="hosts")
    ref = models.CharField(max_length=200, help_text="The host's stable name within its endpoint.")
    name = models.CharField(max_length=200)
    tags = models.ManyToManyField(Tag, through=HostTag, blank=True, related_name="hosts")
    platform_cluster = models.CharField(
        max_length=200, blank=True, help_text="The platform's own cluster that it is in (vSphere)."
    )
    platform_name = models.CharField(
        max_length=200, blank=True, editable=False, help_text="What it is called there, whatever its name here."
    )
    platform_maintenance = models.BooleanField(
        default=False, help_text="It is in the platform's own maintenance mode (vSphere)."
    )
    simulator = models.BooleanField(
        default=False, help_text="What reports it says of itself that it only simulates its platform."
    )

    management_address = models.CharField(
        max_length=255,
        blank=True,
        help_text="Where the console proxy reaches this host (OpenStack: `vncserver_proxyclient_address`). "
        "Empty: the address in the URI.",
    )
    vnc_listen_address = models.CharField(
        max_length=255,
        blank=True,
        default="0.0.0.0",  # noqa: S104 - what a guest's VNC server listens on, so that live migration works
        help_text="Where guests' VNC servers listen (OpenStack: `vncserver_listen`). "
        "0.0.0.0 lets VMs move between hosts.",
    )

    migration_uri = models.CharField(
        "Migration URI",
        max_length=500,
        blank=True,
        help_text="Where other hosts' libvirt reaches this one to send it VMs, for example qemu+tls://kvm-02/system. "
        "Empty: this host's own URI, if it is one that works from elsewhere.",
    )
    networks = models.JSONField(default=list, blank=True, help_text="Names of networks and bridges it has.")
    datastores = models.JSONField(default=list, blank=True, help_text="Shared storage it reaches, by stable name.")

    schedulable = models.BooleanField(default=True, help_text="Off: no new VMs are placed here (cordon).")
    connection = models.CharField(max_length=16, choices=Connection, default=Connection.UNKNOWN)
    connection_changed_at = models.DateTimeField(null=True, blank=True)
    error_code = models.CharField(max_length=64, blank=True)
    error_detail = models.TextField(blank=True)
    error_remedy = models.TextField(blank=True)

    cpu_threads = models.PositiveIntegerField(default=0)
    cpu_mhz = models.PositiveIntegerField(default=0)
    cpu_model = models.CharField(max_length=200, blank=True)
    cpu_percent = models.FloatField(null=True, blank=True)
    memory_mib = models.PositiveIntegerField(default=0)
    memory_free_mib = models.PositiveIntegerField(default=0)
    hypervisor_version = models.CharField(max_length=100, blank=True)
    cpu_threads_override = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    memory_mib_override = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    console_limit_override = models.PositiveIntegerField(
        "Console limit",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="How many consoles may be open on this host. Empty: the installation's limit.",
    )
    synced_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["cluster__position", "cluster__name", "name", "id"]
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "ref"], name="host_once_per_endpoint"),
            models.CheckConstraint(
                condition=Q(connection__in=["up", "unreachable", "unknown"]), name="host_connection_known"
            ),
        ]
        indexes = [
            models.Index(fields=["connection"], name="host_connection"),
            models.Index(fields=["name"], name="host_name"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def total_cpu_threads(self) -> int:
        return self.cpu_threads_override or self.cpu_threads

    @property
    def total_memory_mib(self) -> int:
        return self.memory_mib_override or self.memory_mib

    @property
    def is_simulated(self) -> bool:
        """Needs ``select_related("endpoint")``."""
        return self.endpoint.kind == Kind.SIMULATED or self.simulator


class Template(models.Model):
    """What a VM was made from, as far as placement cares: the tags that its hosts must, or should, carry."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    description = models.TextField(blank=True)
    host_tags = models.ManyToManyField(
        Tag, blank=True, related_name="templates", help_text="A host must carry all of these."
    )
    soft_host_tags = models.ManyToManyField(
        Tag, blank=True, related_name="soft_templates", help_text="A host that carries these is preferred."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name


class OfferingKind(models.TextChoices):
    """Whether the size is the offering's or chosen for each VM."""

    FIXED = "fixed", "Fixed"
    CUSTOM = "custom", "Custom within bounds"
    UNCONSTRAINED = "unconstrained", "Custom, unconstrained"


class Offering(models.Model):
    """What a VM may be: CPU, memory, tags, and whether a running VM may be resized into it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    description = models.TextField(blank=True)
    kind = models.CharField(
        max_length=16,
        choices=OfferingKind,
        default=OfferingKind.FIXED,
        help_text="Fixed: one size. Custom: any size within bounds. Unconstrained: any size at all.",
    )
    vcpus = models.PositiveIntegerField(
        "vCPUs",
        validators=[MinValueValidator(1), MaxValueValidator(1_024)],
        help_text="Custom: the fewest. Unconstrained: what is suggested.",
    )
    max_vcpus = models.PositiveIntegerField(
        "Most vCPUs",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1_024)],
        help_text="For custom offerings only.",
    )
    cpu_mhz = models.PositiveIntegerField(
        "CPU speed",
        null=True,
        blank=True,
        validators=[MinValueValidator(100), MaxValueValidator(10_000)],
        help_text="MHz per vCPU. Empty: no share is set.",
    )
    cpu_cap = models.BooleanField(
        "Never more CPU than that",
        default=False,
        help_text="A hard limit at the CPU speed, also when the host is idle. Needs a CPU speed.",
    )
    memory_mib = models.PositiveIntegerField(
        "Memory",
        validators=[MinValueValidator(16), MaxValueValidator(16_777_216)],
        help_text="Custom: the least. Unconstrained: what is suggested.",
    )
    max_memory_mib = models.PositiveIntegerField(
        "Most memory",
        null=True,
        blank=True,
        validators=[MinValueValidator(16), MaxValueValidator(16_777_216)],
        help_text="For custom offerings only.",
    )
    version = models.PositiveIntegerField(
        default=1, editable=False, help_text="Counts changes of what a VM gets; VMs keep what they were given."
    )
    dynamic_scaling = models.BooleanField(
        "Dynamic scaling", default=False, help_text="Running VMs may be resized to this offering."
    )
    host_tags = models.ManyToManyField(
        Tag, blank=True, related_name="offerings", help_text="A host must carry all of these."
    )
    soft_host_tags = models.ManyToManyField(
        Tag, blank=True, related_name="soft_offerings", help_text="A host that carries these is preferred."
    )
    enabled = models.BooleanField(
        default=True, help_text="Off: nobody can choose it any more; VMs that have it keep it."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["vcpus", "memory_mib", "name", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["fixed", "custom", "unconstrained"]), name="offering_kind_known"
            ),
            models.CheckConstraint(
                condition=Q(kind="custom", max_vcpus__isnull=False, max_memory_mib__isnull=False)
                & Q(max_vcpus__gte=models.F("vcpus"), max_memory_mib__gte=models.F("memory_mib"))
                | ~Q(kind="custom") & Q(max_vcpus__isnull=True, max_memory_mib__isnull=True),
                name="offering_bounds_of_custom",
                violation_error_message="A custom offering needs a largest size that is not below its smallest; "
                "other offerings have none.",
            ),
            models.CheckConstraint(
                condition=Q(cpu_cap=False) | Q(cpu_mhz__isnull=False),
                name="offering_cap_needs_speed",
                violation_error_message="A hard CPU limit needs a CPU speed.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if problems := offering_rules.problems(self):
            raise ValidationError(dict(problems))

    @property
    def words(self) -> offering_rules.Words:
        """Its sizes for people."""
        return offering_rules.words({name: getattr(self, name) for name in offering_rules.SIZE_FIELDS})


class OfferingVersion(models.Model):
    """What an offering gave at one time. Never changed."""

    offering = models.ForeignKey(Offering, on_delete=models.CASCADE, related_name="versions")
    version = models.PositiveIntegerField()
    values = models.JSONField(help_text="Kind, vCPUs, memory, CPU speed, limit, dynamic scaling and tags.")
    by_name = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-version"]
        constraints = [models.UniqueConstraint(fields=["offering", "version"], name="offering_version_once")]

    def __str__(self) -> str:
        return f"{self.offering_id} version {self.version}"


class Vm(models.Model):
    """A VM as its hypervisor last reported it, and the project that it belongs to."""

    POWER_STATES = [
        (PowerState.RUNNING, "Running"),
        (PowerState.PAUSED, "Paused"),
        (PowerState.OFF, "Off"),
        (PowerState.CRASHED, "Crashed"),
        (PowerState.UNKNOWN, "Unknown"),
    ]

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    ref = models.CharField(max_length=200, help_text="The VM's stable name on its hypervisor.")
    name = models.CharField(max_length=255)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="vms")
    project = models.ForeignKey(Project, null=True, blank=True, on_delete=models.SET_NULL, related_name="vms")
    offering = models.ForeignKey(Offering, null=True, blank=True, on_delete=models.SET_NULL, related_name="vms")
    offering_version = models.PositiveIntegerField(
        null=True, blank=True, help_text="The offering's version that it was given."
    )
    dynamic_scaling = models.BooleanField(
        "Live scaling", default=True, help_text="Off: its size is never changed while it runs."
    )
    template = models.ForeignKey(Template, null=True, blank=True, on_delete=models.SET_NULL, related_name="vms")
    pinned = models.BooleanField(
        default=False, help_text="Never moved by CloudOps itself: somebody wants it on just this host."
    )
    networks = models.JSONField(default=list, blank=True, help_text="Networks and bridges it is connected to.")
    disks = models.JSONField(
        default=list, blank=True, help_text="Its disks: target, source, storage (shared, local or unknown), datastore."
    )
    cpu_model = models.CharField(
        max_length=200, blank=True, help_text="The CPU its guest was given. Empty: the hypervisor's default."
    )
    power_state = models.CharField(max_length=16, choices=POWER_STATES, default=PowerState.UNKNOWN)
    vcpus = models.PositiveIntegerField(default=0)
    memory_mib = models.PositiveIntegerField(default=0)
    max_vcpus = models.PositiveIntegerField(null=True, blank=True)
    max_memory_mib = models.PositiveIntegerField(null=True, blank=True)
    scaling = models.JSONField(
        null=True, blank=True, help_text="The means by which it can be resized, as its hypervisor last told."
    )
    guest_os = models.CharField(max_length=200, blank=True)
    has_console = models.BooleanField(default=True)
    max_consoles = models.PositiveIntegerField(
        null=True, blank=True, help_text="The platform's own limit, where it has one."
    )
    console_connections = models.PositiveIntegerField(
        null=True, blank=True, help_text="Display connections that the platform counted last, where it counts them."
    )
    missing_since = models.DateTimeField(null=True, blank=True, help_text="When its hypervisor stopped reporting it.")
    synced_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "VM"
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(fields=["host", "ref"], name="vm_once_per_host"),
            models.CheckConstraint(
                condition=Q(power_state__in=["running", "paused", "off", "crashed", "unknown"]), name="vm_power_known"
            ),
        ]
        indexes = [
            models.Index(fields=["name", "id"], name="vm_name"),
            models.Index(fields=["project", "name"], name="vm_project"),
            models.Index(fields=["power_state", "name"], name="vm_power"),
            models.Index(fields=["ref"], name="vm_ref"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_running(self) -> bool:
        return self.power_state == PowerState.RUNNING

    @property
    def ceiling_vcpus(self) -> int | None:
        """How far its vCPUs grow live where it is now: no VM has more than its host has threads. Needs
        ``select_related("host")``."""
        threads = self.host.total_cpu_threads
        return self.max_vcpus and max(self.vcpus, min(self.max_vcpus, threads or self.max_vcpus))
