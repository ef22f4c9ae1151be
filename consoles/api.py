"""The API of console sessions: open, watch, disconnect."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.accounts.rights import Right, Scope, VmRight, has
from cloudops.core.errors import Forbidden
from cloudops.core.filters import Choice, Filters, Flag, RowId, Uuid, Whole
from cloudops.core.rest import ApiViewSet, Lists, Retrieves
from cloudops.core.schema import ProblemSerializer
from cloudops.core.throttling import ConsoleOpeningThrottle
from cloudops.inventory import access
from consoles import reaper, release, sessions
from consoles.errors import ReleaseNotAllowed
from consoles.models import ConsoleSession, SessionQuerySet, Status
from consoles.serializers import (
    DisconnectBody,
    DisconnectedSerializer,
    OpenBody,
    OpenedSerializer,
    ReapedSerializer,
    ReleaseBody,
    ReleaseRequestSerializer,
    SessionSerializer,
)


class NotYourConsole(Forbidden):
    code = "not-your-console"
    title = "This console is somebody else's."
    remedy = "Ask its holder to release it."


class SessionFilters(Filters):
    """What may narrow the sessions."""

    current = Flag(method="there_now", help_text="True: open, opening, or dropped and still resumable. False: ended.")
    status = Choice(choices=Status.choices, help_text="As stored; `current` tells the truth now.")
    vm = Uuid("vm_id")
    host = Uuid("host_id")
    project = Uuid("vm__project_id")
    user = RowId("user_id")
    idle_seconds_over = Whole(
        method="idle_for", most=31_536_000, help_text="Open, and without input for at least this long."
    )

    class Meta:
        model = ConsoleSession
        fields: list[str] = []

    def there_now(self, rows: SessionQuerySet, name: str, value: bool) -> QuerySet[ConsoleSession]:
        """Sessions that are there now, or the others."""
        current = rows.current(timezone.now())
        return current if value else rows.filter(status=Status.CLOSED)

    def idle_for(self, rows: SessionQuerySet, name: str, value: Any) -> QuerySet[ConsoleSession]:
        """Open consoles without input for that long."""
        return rows.idle(timezone.now(), float(value))


@extend_schema_view(
    list=extend_schema(summary="List console sessions, newest first"),
    retrieve=extend_schema(summary="Read one console session"),
)
class SessionViewSet(Lists, Retrieves, ApiViewSet):
    """Console sessions. Tenants see their own and those on VMs of their projects."""

    queryset = ConsoleSession.objects.all()
    serializer_class = SessionSerializer
    filterset_class = SessionFilters
    ordering = ("-created_at", "id")
    rights = {"clean_up": "settings.manage"}
    scopes = {"destroy": "console", "disconnect": "console", "release_request": "console"}

    def get_queryset(self) -> QuerySet[ConsoleSession]:
        return ConsoleSession.objects.visible_to(self.request.user).for_display()

    @extend_schema(
        summary="Disconnect a console",
        description="One's own, or any with `consoles.manage`. A session that has ended already stays as it is.",
        responses={204: None},
    )
    def destroy(self, request: Request, pk: str) -> Response:
        session = self.get_object()
        if session.user_id != self.me.pk and not has(request.user, Right.CONSOLES_MANAGE):
            raise NotYourConsole(f"This console of {session.vm.name} belongs to {session.user.get_username()}.")
        sessions.close(session=session, by=self.by, now=self.now)
        return Response(status=204)

    @extend_schema(
        summary="Disconnect many consoles",
        description="Those named, or all that are idle. Without `consoles.manage` only one's own are touched.",
        request=DisconnectBody,
        responses=DisconnectedSerializer,
        filters=False,
    )
    @action(detail=False, methods=["post"], pagination_class=None)
    def disconnect(self, request: Request) -> Response:
        wanted = self.body(DisconnectBody)
        rows = ConsoleSession.objects.live()
        if wanted["mine"] or not has(request.user, Right.CONSOLES_MANAGE):
            rows = rows.filter(user_id=self.me.pk)
        if "ids" in wanted:
            rows = rows.filter(pk__in=wanted["ids"])
        else:
            rows = rows.idle(self.now, wanted["idle_seconds_over"])
            rows = rows.filter(**{f"{name}_id": wanted[name] for name in ("host", "vm") if name in wanted})
        count = sessions.close_many(sessions=rows, by=self.by, now=self.now)
        return Response({"disconnected": count})

    @extend_schema(
        summary="Ask the holder to release a console",
        description="Shown in the holder's console page at once. For people who may open a console on the same host.",
        request=ReleaseBody,
        responses={201: ReleaseRequestSerializer},
    )
    @action(detail=True, methods=["post"], url_path="release-request")
    def release_request(self, request: Request, pk: str) -> Response:
        session = get_object_or_404(ConsoleSession, pk=pk)
        try:
            asked = release.ask(session=session, user=self.me, **self.body(ReleaseBody), by=self.by, now=self.now)
        except ReleaseNotAllowed:
            self.get_object()  # a stranger does not even learn that it exists
            raise
        return self.shown(asked, status=201, serializer=ReleaseRequestSerializer)

    @extend_schema(
        summary="Clean up now",
        description="What the reaper does every interval.",
        request=None,
        responses=ReapedSerializer,
        filters=False,
    )
    @action(detail=False, methods=["post"], url_path="clean-up", pagination_class=None)
    def clean_up(self, request: Request) -> Response:
        return self.shown(reaper.reap(now=self.now), serializer=ReapedSerializer)


@extend_schema(tags=["console-sessions"])
class VmSessionViewSet(ApiViewSet):
    """The console sessions of one VM."""

    queryset = ConsoleSession.objects.all()
    serializer_class = SessionSerializer
    ordering = ("-created_at", "id")
    scopes = {"create": Scope.CONSOLE}

    def get_throttles(self) -> list[Any]:
        throttles = super().get_throttles()
        if self.action == "create":
            throttles.append(ConsoleOpeningThrottle())
        return throttles

    @extend_schema(summary="List a VM's console sessions, newest first")
    def list(self, request: Request, vm_id: str) -> Response:
        vm = access.vm_for(request.user, vm_id)
        rows = ConsoleSession.objects.visible_to(request.user).filter(vm=vm).for_display()
        return self.page(self.filter_queryset(rows))

    @extend_schema(
        summary="Open a VM's console",
        description=(
            "Takes a slot of the host, the VM and the user, and answers with a link whose one-time secret is good "
            "for a minute. At a limit: 409 `console-limit` with the numbers, idle consoles and Retry-After."
        ),
        request=OpenBody,
        responses={201: OpenedSerializer, 409: OpenApiResponse(ProblemSerializer, description="No slot is free.")},
    )
    def create(self, request: Request, vm_id: str) -> Response:
        vm = access.vm_for(request.user, vm_id, VmRight.CONSOLE)
        opened = sessions.open_session(vm=vm, user=self.me, **self.body(OpenBody), by=self.by, now=self.now)
        session = opened.session
        answer = {
            "id": session.pk,
            "url": opened.url,
            "websocket_url": opened.websocket_url,
            "secret": opened.secret,
            "expires_at": session.redeem_by,
            "view_only": session.view_only,
            "vm": vm,
            "host": {"id": vm.host_id if self.me.sees_fleet else None, "name": vm.host.name},
            "slot": opened.usage,
        }
        response = self.shown(answer, status=201, serializer=OpenedSerializer)
        response["Location"] = f"/api/v1/console-sessions/{session.pk}/"
        return response
