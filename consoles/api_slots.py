"""The API of slots: how many are in use, who asks for one, and which connections came from outside."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.accounts.rights import Right, has
from cloudops.core.filters import Filters, Flag, Uuid
from cloudops.core.rest import ApiViewSet, Lists, Retrieves
from cloudops.core.schema import ProblemSerializer
from cloudops.inventory import access
from cloudops.inventory.models import Host
from consoles import foreign, limits, release
from consoles.models import ConsoleSession, ForeignConnection, ReleaseRequest
from consoles.serializers import (
    ForeignConnectionSerializer,
    ReleaseAnswerBody,
    ReleaseRequestSerializer,
    SessionSerializer,
    UsageSerializer,
    UsageSummarySerializer,
)


@extend_schema(tags=["console-usage"])
class UsageViewSet(ApiViewSet):
    """Console slots."""

    queryset = ConsoleSession.objects.all()
    serializer_class = UsageSerializer
    pagination_class = None
    rights = {"of_host": "fleet.view"}

    @extend_schema(summary="Console slots: mine, and every host's", responses=UsageSummarySerializer)
    def summary(self, request: Request) -> Response:
        hosts: list[dict[str, Any]] = []
        if has(self.me, Right.FLEET_VIEW):
            usages = limits.usage_by_host(None, now=self.now)
            rows = Host.objects.only("name").order_by("name", "id")
            hosts = [{"host": host, "usage": usages[host.pk]} for host in rows if host.pk in usages]
        mine = limits.usage_of_user(self.me, now=self.now)
        return self.shown({"mine": mine, "hosts": hosts}, serializer=UsageSummarySerializer)

    @extend_schema(summary="A host's console slots")
    def of_host(self, request: Request, host_id: str) -> Response:
        return self.shown(limits.usage_of_host(get_object_or_404(Host, pk=host_id), now=self.now))

    @extend_schema(summary="A VM's console slots")
    def of_vm(self, request: Request, vm_id: str) -> Response:
        return self.shown(limits.usage_of_vm(access.vm_for(request.user, vm_id), now=self.now))


@extend_schema(tags=["console-sessions"])
class HostSessionViewSet(ApiViewSet):
    """The console sessions of one host."""

    queryset = ConsoleSession.objects.all()
    serializer_class = SessionSerializer
    ordering = ("-created_at", "id")
    rights = {"*": "fleet.view"}

    @extend_schema(summary="List the consoles that are there now on a host, newest first")
    def list(self, request: Request, host_id: str) -> Response:
        host = get_object_or_404(Host, pk=host_id)
        rows = ConsoleSession.objects.filter(host=host).current(self.now).for_display()
        return self.page(self.filter_queryset(rows))


class ForeignConnectionFilters(Filters):
    """What may narrow the foreign connections."""

    host = Uuid("host_id")
    vm = Uuid("vm_id")

    class Meta:
        model = ForeignConnection
        fields: list[str] = []


@extend_schema_view(list=extend_schema(summary="List connections that were not made through CloudOps"))
class ForeignConnectionViewSet(Lists, ApiViewSet):
    """Connections that take slots and are no consoles of ours: made past CloudOps, or left over (`is_ghost`)."""

    queryset = ForeignConnection.objects.select_related("vm", "host__endpoint")
    serializer_class = ForeignConnectionSerializer
    filterset_class = ForeignConnectionFilters
    ordering = ("first_seen_at", "id")
    lookup_value_converter = "rowid"
    rights = {"destroy": "consoles.manage", "*": "fleet.view"}
    scopes = {"destroy": "console"}

    @extend_schema(
        summary="End a connection that was not made through CloudOps",
        description=(
            "Where the platform can end one and keep the others: vSphere from 7.0.1. Elsewhere 409 `not-supported` or "
            "`connection-unnamed` with the way out."
        ),
        responses={204: None, 502: OpenApiResponse(ProblemSerializer, description="The hypervisor failed.")},
    )
    def destroy(self, request: Request, pk: int) -> Response:
        foreign.drop(connection=self.get_object(), by=self.by, now=self.now)
        return Response(status=204)


class ReleaseFilters(Filters):
    """What may narrow the requests."""

    asked_of_me = Flag(method="by_side", help_text="True: asked of me. False: asked by me.")
    open = Flag("answered_at", "isnull", help_text="Whether there is no answer yet.")

    class Meta:
        model = ReleaseRequest
        fields: list[str] = []

    def by_side(self, rows: QuerySet[ReleaseRequest], name: str, value: bool) -> QuerySet[ReleaseRequest]:
        """Requests to the person who asks here, or from them."""
        me: Any = self.request.user.pk
        return rows.filter(session__user_id=me) if value else rows.filter(requested_by_id=me)


@extend_schema_view(
    list=extend_schema(summary="List requests to release a console, mine and to me"),
    retrieve=extend_schema(summary="Read one request"),
)
class ReleaseRequestViewSet(Lists, Retrieves, ApiViewSet):
    """Requests to release a console, to oneself and from oneself."""

    queryset = ReleaseRequest.objects.all()
    serializer_class = ReleaseRequestSerializer
    filterset_class = ReleaseFilters
    ordering = ("-created_at", "id")
    scopes = {"answer": "console"}
    asker_names: Mapping[UUID, str] = MappingProxyType({})

    def prepare(self, rows: list[Any]) -> None:
        self.asker_names = release.shown_askers(rows, self.me)

    def get_queryset(self) -> QuerySet[ReleaseRequest]:
        me = self.me.pk
        rows = ReleaseRequest.objects.select_related("session__vm", "session__user", "requested_by")
        return rows.filter(Q(session__user_id=me) | Q(requested_by_id=me))

    @extend_schema(
        summary="Answer a request to release a console", request=ReleaseAnswerBody, responses=ReleaseRequestSerializer
    )
    @action(detail=True, methods=["post"])
    def answer(self, request: Request, pk: str) -> Response:
        asked = self.get_object()
        release.answer(request=asked, user=self.me, **self.body(ReleaseAnswerBody), by=self.by, now=self.now)
        return self.shown(self.get_object())
