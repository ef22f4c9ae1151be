"""People, projects (tenants), who belongs where, and API tokens."""

from __future__ import annotations

import uuid

from django.contrib.auth.models import AbstractUser
from django.core.validators import MaxValueValidator
from django.db import models

MOST_QUOTA = 1_000_000_000


class Role(models.TextChoices):
    """What a person is in this installation. Tenants have rights only through their memberships."""

    ADMIN = "admin", "Administrator"
    OPERATOR = "operator", "Operator"
    TENANT = "tenant", "Tenant"


class User(AbstractUser):
    """A person. ``can_console`` lets an operator open consoles of any VM; administrators always may."""

    role = models.CharField(max_length=16, choices=Role, default=Role.TENANT)
    can_console = models.BooleanField(
        "May open every console",
        default=False,
        help_text="For operators: the right to open consoles of all VMs. Tenants get it per project.",
    )
    current_project = models.ForeignKey("Project", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    class Meta(AbstractUser.Meta):
        constraints = [
            models.CheckConstraint(condition=models.Q(role__in=["admin", "operator", "tenant"]), name="user_role_known")
        ]

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN

    @property
    def sees_fleet(self) -> bool:
        """Whether this person works with hosts and everybody's VMs rather than with projects' own."""
        return self.role in {Role.ADMIN, Role.OPERATOR}


class Project(models.Model):
    """A tenant: VMs belong to it, people are members of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    description = models.TextField(blank=True)
    members: models.ManyToManyField[User, Membership] = models.ManyToManyField(
        User, through="Membership", related_name="projects"
    )
    quota_vcpus = models.PositiveIntegerField(
        "vCPU quota",
        null=True,
        blank=True,
        validators=[MaxValueValidator(MOST_QUOTA)],
        help_text="How many vCPUs its VMs may have together. Empty: no quota.",
    )
    quota_memory_mib = models.PositiveIntegerField(
        "Memory quota",
        null=True,
        blank=True,
        validators=[MaxValueValidator(MOST_QUOTA)],
        help_text="How much memory its VMs may have together. Empty: no quota.",
    )
    quota_consoles = models.PositiveIntegerField(
        "Console quota",
        null=True,
        blank=True,
        validators=[MaxValueValidator(MOST_QUOTA)],
        help_text="How many consoles of its VMs may be open together. Empty: no quota.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def project_id(self) -> uuid.UUID:
        """So that events about a project are found with the project's other events."""
        return self.pk


class Membership(models.Model):
    """A person in a project; "console" and "power" are rights of their own."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    can_console = models.BooleanField("Console", default=True, help_text="May open consoles of the project's VMs.")
    can_power = models.BooleanField("Power", default=True, help_text="May start, stop and restart the project's VMs.")
    can_scale = models.BooleanField("Scale", default=True, help_text="May resize the project's VMs.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["project__name", "user__username"]
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="membership_once")]

    def __str__(self) -> str:
        return f"{self.user} in {self.project}"


class ApiToken(models.Model):
    """A person's key for automation. Only its SHA-256 is stored; it is shown once."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    label = models.CharField(max_length=100, help_text="What uses it.")
    prefix = models.CharField(max_length=16, help_text="Its first characters, to recognise it by.")
    secret_sha256 = models.CharField(max_length=64, unique=True)
    scopes = models.JSONField(default=list, help_text="What it may do.")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["user", "-created_at"], name="api_token_user")]

    def __str__(self) -> str:
        return self.label
