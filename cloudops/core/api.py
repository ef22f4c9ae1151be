"""The API of the settings, the audit trail and operations."""

from __future__ import annotations

from django.db.models import Q, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.core import operations, runtime
from cloudops.core.filters import Choice, Filters, Flag, RowId, Text, Time, Uuid
from cloudops.core.models import Event, Operation, RuntimeSettings
from cloudops.core.rest import ApiViewSet, Lists, Retrieves
from cloudops.core.serializers import EventSerializer, OperationSerializer, SettingsChange, SettingsSerializer


class SettingsViewSet(ApiViewSet):
    """The run-time settings: one object, a change acts at once on every server."""

    queryset = RuntimeSettings.objects.all()
    serializer_class = SettingsSerializer
    pagination_class = None
    rights = {"retrieve": "fleet.view", "partial_update": "settings.manage"}

    @extend_schema(summary="Read the settings")
    def retrieve(self, request: Request) -> Response:
        return self.shown(runtime.current())

    @extend_schema(summary="Change settings", request=SettingsChange)
    def partial_update(self, request: Request) -> Response:
        changes = self.body(SettingsChange, partial=True)
        return self.shown(runtime.change(by=self.by, now=self.now, **changes))


class EventFilters(Filters):
    """What may narrow the audit trail."""

    kind = Text(max_length=64, help_text="Exactly this kind, for example `console.opened`.")
    kind_prefix = Text("kind", "startswith", max_length=64, help_text="For example `console.`.")
    severity = Choice(choices=Event.Severity.choices)
    actor_user_id = RowId()
    subject_type = Text(max_length=64, help_text="For example `inventory.vm`.")
    subject_id = Text(max_length=64)
    project_id = Uuid()
    address = Text(max_length=64)
    since = Time("at", "gte", help_text="Not before this time.")
    until = Time("at", "lt", help_text="Before this time.")
    search = Text(method="matching", max_length=100, help_text="In actor, subject or reason.")

    class Meta:
        model = Event
        fields: list[str] = []

    def matching(self, rows: QuerySet[Event], name: str, value: str) -> QuerySet[Event]:
        """Events whose actor, subject or reason holds ``value``."""
        where = Q(actor_name__icontains=value) | Q(subject_name__icontains=value) | Q(reason__icontains=value)
        return rows.filter(where)


@extend_schema_view(
    list=extend_schema(summary="List audit events, newest first"),
    retrieve=extend_schema(summary="Read one audit event"),
)
class EventViewSet(Lists, Retrieves, ApiViewSet):
    """The audit trail. It needs `audit.view`; everybody else reads what they did themselves."""

    queryset = Event.objects.all()
    serializer_class = EventSerializer
    filterset_class = EventFilters
    ordering = ("-id",)
    lookup_value_converter = "rowid"

    def get_queryset(self) -> QuerySet[Event]:
        rows = Event.objects.all()
        return rows if self.me.sees_fleet else rows.filter(actor_user_id=self.me.pk)


class OperationFilters(Filters):
    """What may narrow the operations."""

    kind = Text(max_length=64)
    status = Choice(choices=Operation.Status.choices)
    subject_id = Text(max_length=64)
    unread = Flag("read_at", "isnull", help_text="Whether it was not marked as read yet.")

    class Meta:
        model = Operation
        fields: list[str] = []


@extend_schema_view(
    list=extend_schema(summary="List operations, newest first"), retrieve=extend_schema(summary="Read one operation")
)
class OperationViewSet(Lists, Retrieves, ApiViewSet):
    """Long-running jobs. Tenants see their own and those of their projects."""

    queryset = Operation.objects.all()
    serializer_class = OperationSerializer
    filterset_class = OperationFilters
    ordering = ("-created_at", "id")

    def get_queryset(self) -> QuerySet[Operation]:
        return operations.visible_to(self.me)

    @extend_schema(summary="Mark an operation as read", request=None)
    @action(detail=True, methods=["post"])
    def read(self, request: Request, pk: str) -> Response:
        operation = self.get_object()
        operations.mark_read(operation, now=self.now)
        return self.shown(operation)
