"""The API of the management servers' processes."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.core.filters import Choice, Filters, Flag, Text
from cloudops.core.rest import ApiViewSet, Lists, Retrieves
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess
from cloudops.managers.serializers import ServerSerializer


class ServerFilters(Filters):
    """What may narrow the processes."""

    role = Choice(choices=ServerProcess.Role.choices)
    server_name = Text(max_length=200)
    stopped = Flag("stopped_at", "isnull", exclude=True)

    class Meta:
        model = ServerProcess
        fields: list[str] = []


@extend_schema_view(
    list=extend_schema(summary="List the management servers' processes"),
    retrieve=extend_schema(summary="Read one process"),
)
class ServerViewSet(Lists, Retrieves, ApiViewSet):
    """Processes of the management servers: who is alive, and which take new consoles."""

    queryset = ServerProcess.objects.all()
    serializer_class = ServerSerializer
    filterset_class = ServerFilters
    ordering = ("server_name", "role", "started_at", "id")
    rights = {"list": "fleet.view", "retrieve": "fleet.view", "*": "settings.manage"}

    @extend_schema(
        summary="Drain a process", description="It takes no new consoles; those that are open go on.", request=None
    )
    @action(detail=True, methods=["post"])
    def drain(self, request: Request, pk: str) -> Response:
        processes.drain(process=self.get_object(), by=self.by, now=self.now)
        return self.shown(self.get_object())

    @extend_schema(summary="Let a process take consoles again", request=None)
    @action(detail=True, methods=["post"])
    def undrain(self, request: Request, pk: str) -> Response:
        processes.undrain(process=self.get_object(), by=self.by, now=self.now)
        return self.shown(self.get_object())
