"""How people, projects, memberships and API tokens look in the API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.accounts import tokens
from cloudops.accounts.models import ApiToken, Membership, Project, User
from cloudops.accounts.rights import Right, Scope, VmRight, everywhere, has
from cloudops.accounts.switcher import Switcher
from cloudops.core.rest import Body, Shown

SCOPES = [(scope.value, scope.value) for scope in Scope]
RIGHTS = [(right.value, right.value) for right in Right]


class ProjectRef(Shown):
    """A project by id and name."""

    class Meta:
        model = Project
        fields = ["id", "name"]


class UserRef(Shown):
    """A person by id and name."""

    class Meta:
        model = User
        fields = ["id", "username"]


class MyMembership(Shown):
    """What one may do in one of one's projects."""

    project = ProjectRef()

    class Meta:
        model = Membership
        fields = ["project", "can_console", "can_power", "can_scale"]


class MyToken(serializers.Serializer[Any]):
    """The API token that the request came with."""

    id = serializers.UUIDField()
    label = serializers.CharField()  # type: ignore[assignment]
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=SCOPES))
    expires_at = serializers.DateTimeField()


class MeSerializer(Shown):
    """Who asks, and what they may do."""

    rights = serializers.SerializerMethodField(help_text="Rights in the whole installation.")
    may_console_everything = serializers.SerializerMethodField(help_text="Whether every VM's console may be opened.")
    memberships = MyMembership(many=True)
    current_project = serializers.SerializerMethodField(
        help_text="The project that your own pages show; null for all, and for people in fewer than two. "
        "It narrows no list of the API."
    )
    token = serializers.SerializerMethodField(help_text="Null for a browser session.")

    class Meta:
        model = User
        fields = [
            "id",
            "username",
            "email",
            "first_name",
            "last_name",
            "role",
            "rights",
            "may_console_everything",
            "memberships",
            "current_project",
            "token",
        ]

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(choices=RIGHTS)))
    def get_rights(self, user: User) -> list[str]:
        return [right.value for right in Right if has(user, right)]

    def get_may_console_everything(self, user: User) -> bool:
        return everywhere(user, VmRight.CONSOLE)

    @extend_schema_field(ProjectRef(allow_null=True))
    def get_current_project(self, user: User) -> dict[str, Any] | None:
        chosen = Switcher(user).current
        return ProjectRef(chosen).data if chosen else None

    @extend_schema_field(MyToken(allow_null=True))
    def get_token(self, user: User) -> dict[str, Any] | None:
        token = self.context["request"].auth
        return MyToken(token).data if isinstance(token, ApiToken) else None


class MeChange(Body):
    """What everybody may change about themselves."""

    current_project = serializers.UUIDField(
        allow_null=True, required=False, help_text="One of your projects, or null for all of them."
    )


class UserSerializer(Shown):
    """A person."""

    class Meta:
        model = User
        fields = [
            "id",
            "username",
            "email",
            "first_name",
            "last_name",
            "role",
            "can_console",
            "is_active",
            "date_joined",
            "last_login",
        ]


class UserChange(Body, serializers.ModelSerializer[User]):
    """What of a person may be changed."""

    class Meta:
        model = User
        fields = ["email", "first_name", "last_name", "role", "can_console"]


class PasswordBody(Body):
    """A new password."""

    password = serializers.CharField(max_length=1_000, trim_whitespace=False, write_only=True)


class UserCreate(UserChange):
    """A new person."""

    password = serializers.CharField(
        max_length=1_000,
        trim_whitespace=False,
        allow_blank=True,
        default="",
        write_only=True,
        help_text="Empty: no password; the person signs in through single sign-on.",
    )

    class Meta(UserChange.Meta):
        fields = ["username", "password", *UserChange.Meta.fields]


class ProjectUse(serializers.Serializer[Any]):
    """What a project's VMs have together."""

    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    consoles = serializers.IntegerField(help_text="Open or about to be, as they count against the quota.")


class ProjectSerializer(Shown):
    """A tenant, its quotas (null: none) and what is in use of them."""

    use = serializers.SerializerMethodField()

    class Meta:
        model = Project
        fields = [
            "id",
            "name",
            "description",
            "quota_vcpus",
            "quota_memory_mib",
            "quota_consoles",
            "use",
            "created_at",
        ]

    @extend_schema_field(ProjectUse)
    def get_use(self, project: Project) -> dict[str, int]:
        return {use.name: use.used for use in self.context["view"].use_of(project)}


class ProjectBody(Body, serializers.ModelSerializer[Project]):
    """A project's own fields."""

    class Meta:
        model = Project
        fields = ["name", "description", "quota_vcpus", "quota_memory_mib", "quota_consoles"]
        extra_kwargs = {"name": {"validators": []}, "description": {"max_length": 10_000}}


class MembershipSerializer(Shown):
    """A person in a project."""

    project = ProjectRef()
    user = UserRef()

    class Meta:
        model = Membership
        fields = ["id", "project", "user", "can_console", "can_power", "can_scale", "created_at"]


class MembershipChange(Body, serializers.ModelSerializer[Membership]):
    """The rights of a membership."""

    class Meta:
        model = Membership
        fields = ["can_console", "can_power", "can_scale"]


class MembershipCreate(Body):
    """Who joins which project, with which rights there."""

    project = serializers.PrimaryKeyRelatedField(queryset=Project.objects.all(), pk_field=serializers.UUIDField())
    user = serializers.PrimaryKeyRelatedField(
        queryset=User.objects.all(), pk_field=serializers.IntegerField(min_value=1, max_value=2**63 - 1)
    )
    can_console = serializers.BooleanField(default=True, help_text="May open consoles of the project's VMs.")
    can_power = serializers.BooleanField(default=True, help_text="May start, stop and restart the project's VMs.")
    can_scale = serializers.BooleanField(default=True, help_text="May resize the project's VMs.")


class TokenSerializer(Shown):
    """An API token; its secret is not part of it."""

    scopes = serializers.ListField(child=serializers.ChoiceField(choices=SCOPES))

    class Meta:
        model = ApiToken
        fields = ["id", "label", "prefix", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at"]


class TokenCreated(TokenSerializer):
    """A new API token with its secret, shown this once."""

    secret = serializers.CharField(help_text="Keep it now: it cannot be shown again.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "secret"]


class TokenCreate(Body):
    """What a new API token is for, and what it may do."""

    label = serializers.CharField(max_length=100, help_text="What will use it.")  # type: ignore[assignment]
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=SCOPES),
        default=list,
        max_length=len(SCOPES),
        help_text="What it may do of what you may; `read` is always part of it.",
    )
    days = serializers.IntegerField(min_value=1, max_value=tokens.MAX_DAYS, default=90, help_text="Until it expires.")
