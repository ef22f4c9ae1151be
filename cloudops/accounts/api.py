"""The API of one's own account and tokens, and of people, projects and memberships."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.accounts import people, quotas, tokens
from cloudops.accounts.models import ApiToken, Membership, Project, Role, User
from cloudops.accounts.permissions import demand_own_scopes
from cloudops.accounts.quotas import QuotaUse
from cloudops.accounts.serializers import (
    MeChange,
    MembershipChange,
    MembershipCreate,
    MembershipSerializer,
    MeSerializer,
    PasswordBody,
    ProjectBody,
    ProjectSerializer,
    TokenCreate,
    TokenCreated,
    TokenSerializer,
    UserChange,
    UserCreate,
    UserSerializer,
)
from cloudops.core.filters import Choice, Filters, Flag, RowId, Text, Uuid
from cloudops.core.rest import ApiViewSet, Lists, Retrieves
from cloudops.core.schema import ProblemSerializer
from cloudops.core.throttling import TokenCreationThrottle


class MeViewSet(ApiViewSet):
    """The person or token that asks."""

    queryset = User.objects.prefetch_related("memberships__project")
    serializer_class = MeSerializer
    pagination_class = None

    @extend_schema(summary="Who am I, and what may I do?")
    def retrieve(self, request: Request) -> Response:
        return self.shown(self.get_queryset().get(pk=self.me.pk))

    @extend_schema(
        summary="Choose the project to look at",
        description="What the project switcher does: my VMs, my consoles and my activity show that project's only. "
        "It changes no right and narrows no list of the API.",
        request=MeChange,
        responses={
            200: MeSerializer,
            404: OpenApiResponse(ProblemSerializer, description="The project is not one of yours."),
        },
    )
    def partial_update(self, request: Request) -> Response:
        changes = self.body(MeChange)
        if "current_project" in changes:
            people.choose_project(self.me, project=changes["current_project"])
        return self.retrieve(request)


class UserFilters(Filters):
    """What may narrow the people."""

    search = Text(method="matching", max_length=100, help_text="In user name, names or e-mail.")
    role = Choice(choices=Role.choices)
    is_active = Flag()
    project = Uuid("memberships__project_id", help_text="Members of this project.")

    class Meta:
        model = User
        fields: list[str] = []

    def matching(self, rows: QuerySet[User], name: str, value: str) -> QuerySet[User]:
        """People whose names or address hold ``value``."""
        where = Q(username__icontains=value) | Q(email__icontains=value)
        return rows.filter(where | Q(first_name__icontains=value) | Q(last_name__icontains=value))


@extend_schema_view(list=extend_schema(summary="List people"), retrieve=extend_schema(summary="Read one person"))
class UserViewSet(Lists, Retrieves, ApiViewSet):
    """People. Needs `users.manage`."""

    queryset = User.objects.all()
    serializer_class = UserSerializer
    filterset_class = UserFilters
    ordering = ("username",)
    rights = {"*": "users.manage"}
    lookup_value_converter = "rowid"

    @extend_schema(summary="Add a person", request=UserCreate, responses={201: UserSerializer})
    def create(self, request: Request) -> Response:
        return self.shown(people.create_user(**self.body(UserCreate), by=self.by, now=self.now), status=201)

    @extend_schema(summary="Change a person", request=UserChange)
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self.body(UserChange, partial=True)
        return self.shown(people.change_user(self.get_object(), by=self.by, now=self.now, **changes))

    @extend_schema(summary="Set a person's password", request=PasswordBody, responses={204: None})
    @action(detail=True, methods=["post"], url_path="set-password")
    def set_password(self, request: Request, pk: str) -> Response:
        people.set_password(self.get_object(), **self.body(PasswordBody), by=self.by, now=self.now)
        return Response(status=204)

    @extend_schema(
        summary="Deactivate a person", description="Ends their tokens, web sessions and consoles.", request=None
    )
    @action(detail=True, methods=["post"])
    def deactivate(self, request: Request, pk: str) -> Response:
        user = self.get_object()
        people.deactivate(user, by=self.by, now=self.now)
        return self.shown(user)

    @extend_schema(summary="Reactivate a person", request=None)
    @action(detail=True, methods=["post"])
    def reactivate(self, request: Request, pk: str) -> Response:
        user = self.get_object()
        people.reactivate(user, by=self.by, now=self.now)
        return self.shown(user)


class ProjectFilters(Filters):
    """What may narrow the projects."""

    search = Text("name", "icontains", max_length=100, help_text="In the name.")

    class Meta:
        model = Project
        fields: list[str] = []


@extend_schema_view(list=extend_schema(summary="List projects"), retrieve=extend_schema(summary="Read one project"))
class ProjectViewSet(Lists, Retrieves, ApiViewSet):
    """Projects (tenants). Everybody sees their own; changing them needs `users.manage`."""

    queryset = Project.objects.all()
    serializer_class = ProjectSerializer
    filterset_class = ProjectFilters
    ordering = ("name",)
    rights = {"create": "users.manage", "partial_update": "users.manage", "destroy": "users.manage"}
    _uses: dict[UUID, list[QuotaUse]] | None = None

    def get_queryset(self) -> QuerySet[Project]:
        return Project.objects.all() if self.me.sees_fleet else Project.objects.filter(members=self.me)

    def prepare(self, rows: list[Any]) -> None:
        self._uses = quotas.use_of(rows, now=self.now)

    def use_of(self, project: Project) -> list[QuotaUse]:
        """What the project uses of its quotas; a page's projects are counted together."""
        return (self._uses or quotas.use_of([project], now=self.now))[project.pk]

    @extend_schema(summary="Create a project", request=ProjectBody, responses={201: ProjectSerializer})
    def create(self, request: Request) -> Response:
        return self.shown(people.create_project(**self.body(ProjectBody), by=self.by, now=self.now), status=201)

    @extend_schema(
        summary="Change a project",
        description="A quota that is lower than what is in use takes nothing away; it allows no more. Null: no quota.",
        request=ProjectBody,
    )
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self.body(ProjectBody, partial=True)
        return self.shown(people.change_project(self.get_object(), by=self.by, now=self.now, **changes))

    @extend_schema(summary="Delete a project", description="Refused while it has VMs.")
    def destroy(self, request: Request, pk: str) -> Response:
        people.delete_project(self.get_object(), by=self.by, now=self.now)
        return Response(status=204)


class MembershipFilters(Filters):
    """What may narrow the memberships."""

    project = Uuid("project_id")
    user = RowId("user_id")

    class Meta:
        model = Membership
        fields: list[str] = []


@extend_schema_view(
    list=extend_schema(summary="List memberships"), retrieve=extend_schema(summary="Read one membership")
)
class MembershipViewSet(Lists, Retrieves, ApiViewSet):
    """Who belongs to which project. Everybody sees their own memberships; changing them needs `users.manage`."""

    queryset = Membership.objects.all()
    serializer_class = MembershipSerializer
    filterset_class = MembershipFilters
    ordering = ("project__name", "user__username")
    rights = {"create": "users.manage", "partial_update": "users.manage", "destroy": "users.manage"}
    lookup_value_converter = "rowid"

    def get_queryset(self) -> QuerySet[Membership]:
        rows = Membership.objects.select_related("project", "user")
        return rows if self.me.sees_fleet else rows.filter(user=self.me)

    @extend_schema(summary="Add a member", request=MembershipCreate, responses={201: MembershipSerializer})
    def create(self, request: Request) -> Response:
        wanted = self.body(MembershipCreate)
        return self.shown(people.add_member(wanted.pop("project"), **wanted, by=self.by, now=self.now), status=201)

    @extend_schema(summary="Change a member's rights", request=MembershipChange)
    def partial_update(self, request: Request, pk: str) -> Response:
        membership = self.get_object()
        people.change_member(membership, by=self.by, now=self.now, **self.body(MembershipChange, partial=True))
        return self.shown(membership)

    @extend_schema(summary="Remove a member", description="Their consoles of the project's VMs end.")
    def destroy(self, request: Request, pk: str) -> Response:
        people.remove_member(self.get_object(), by=self.by, now=self.now)
        return Response(status=204)


@extend_schema_view(
    list=extend_schema(summary="List my API tokens"), retrieve=extend_schema(summary="Read one of my API tokens")
)
class TokenViewSet(Lists, Retrieves, ApiViewSet):
    """One's own API tokens."""

    queryset = ApiToken.objects.all()
    serializer_class = TokenSerializer
    ordering = ("-created_at", "id")

    def get_queryset(self) -> QuerySet[ApiToken]:
        return ApiToken.objects.filter(user_id=self.me.pk)

    def get_throttles(self) -> list[Any]:
        throttles = super().get_throttles()
        if self.action == "create":
            throttles.append(TokenCreationThrottle())
        return throttles

    @extend_schema(
        summary="Create an API token",
        description="The secret is in this answer only. A token can make tokens with its own scopes at most.",
        request=TokenCreate,
        responses={201: TokenCreated},
    )
    def create(self, request: Request) -> Response:
        wanted = self.body(TokenCreate)
        demand_own_scopes(request, wanted["scopes"])
        token, secret = tokens.create(user=self.me, **wanted, by=self.by, now=self.now)
        token.secret = secret  # type: ignore[attr-defined]
        return self.shown(token, status=201, serializer=TokenCreated)

    @extend_schema(summary="Revoke an API token")
    def destroy(self, request: Request, pk: str) -> Response:
        tokens.revoke(self.get_object(), by=self.by, now=self.now)
        return Response(status=204)
