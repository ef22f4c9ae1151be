"""The API of VMs. Every view comes to its VM through ``access``: strangers get 404."""

from __future__ import annotations

from django.db.models import F, Q, QuerySet
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.accounts.rights import VmRight
from cloudops.core.errors import NotFound
from cloudops.core.filters import Choice, Filters, Flag, Text, Uuid
from cloudops.core.rest import ApiViewSet, Lists
from cloudops.core.serializers import OperationSerializer
from cloudops.hypervisors.port import PowerAction
from cloudops.inventory import access, vms
from cloudops.inventory.models import Vm
from cloudops.inventory.serializers import PowerBody, VmAssign, VmChange, VmDetailSerializer, VmsAssigned, VmSerializer


class VmFilters(Filters):
    """What may narrow the VMs."""

    search = Text(method="matching", max_length=100, help_text="In name or reference.")
    name = Text(max_length=255, help_text="Exactly this name.")
    host = Uuid("host_id")
    cluster = Uuid("host__cluster_id")
    project = Uuid("project_id")
    offering = Uuid("offering_id")
    outdated = Flag(method="with_older", help_text="Whether its offering has a newer version than it was given.")
    template = Uuid("template_id")
    pinned = Flag(help_text="Whether CloudOps leaves it on its host.")
    assigned = Flag("project_id", "isnull", exclude=True, help_text="Whether it has a project.")
    power_state = Choice(choices=Vm.POWER_STATES)
    missing = Flag("missing_since", "isnull", exclude=True, help_text="Whether its hypervisor stopped reporting it.")

    class Meta:
        model = Vm
        fields: list[str] = []

    def matching(self, rows: QuerySet[Vm], name: str, value: str) -> QuerySet[Vm]:
        """VMs whose name or reference holds ``value``."""
        return rows.filter(Q(name__icontains=value) | Q(ref__icontains=value))

    def with_older(self, rows: QuerySet[Vm], name: str, value: bool) -> QuerySet[Vm]:
        """VMs whose offering was changed since, or (False) all others."""
        older = Q(offering_version__lt=F("offering__version"))
        return rows.filter(older) if value else rows.exclude(older)


@extend_schema_view(list=extend_schema(summary="List the VMs that you may see"))
class VmViewSet(Lists, ApiViewSet):
    """VMs. Tenants see those of their projects."""

    queryset = Vm.objects.all()
    serializer_class: type[VmSerializer] = VmSerializer
    detail_serializer_class: type[VmDetailSerializer] = VmDetailSerializer
    filterset_class = VmFilters
    ordering = ("name", "id")
    rights = {"partial_update": "fleet.manage", "assign": "users.manage"}
    scopes = {"power": "power", "screenshot": "console"}

    def get_serializer_class(self) -> type[VmSerializer]:
        return self.serializer_class if self.action == "list" else self.detail_serializer_class

    def get_queryset(self) -> QuerySet[Vm]:
        return access.visible_vms(self.request.user)

    @extend_schema(summary="Read one VM")
    def retrieve(self, request: Request, pk: str) -> Response:
        return self.shown(access.vm_for(request.user, pk))

    @extend_schema(summary="Change what a VM is said to be", request=VmChange)
    def partial_update(self, request: Request, pk: str) -> Response:
        vm = access.vm_for(request.user, pk)
        changes = self.body(VmChange, partial=True)
        if "offering" in changes:
            vms.set_offering(vm, offering=changes.pop("offering"), by=self.by, now=self.now)
        if changes:
            vms.set_placement(vm, by=self.by, now=self.now, **changes)
        return self.shown(access.vm_for(request.user, pk))

    @extend_schema(
        summary="Assign VMs to a project",
        description="Consoles of people who lose their right by it end.",
        request=VmAssign,
        responses=VmsAssigned,
        filters=False,
    )
    @action(detail=False, methods=["post"], pagination_class=None)
    def assign(self, request: Request) -> Response:
        wanted = self.body(VmAssign)
        chosen = list(access.visible_vms(request.user).filter(pk__in=wanted["vms"]))
        if unknown := set(wanted["vms"]) - {vm.pk for vm in chosen}:
            raise NotFound(f"{len(unknown)} of these VMs do not exist.", vms=sorted(map(str, unknown)))
        changed = vms.assign(chosen, project=wanted["project"], by=self.by, now=self.now)
        return Response({"changed": changed})

    @extend_schema(
        summary="Start, stop or restart a VM",
        description="Answers with the operation that does it.",
        request=PowerBody,
        responses={202: OperationSerializer},
    )
    @action(detail=True, methods=["post"])
    def power(self, request: Request, pk: str) -> Response:
        vm = access.vm_for(request.user, pk, VmRight.POWER)
        wanted = PowerAction(self.body(PowerBody)["action"])
        operation = vms.power(vm, action=wanted, by=self.by, now=self.now)
        return self.shown(operation, status=202, serializer=OperationSerializer)

    @extend_schema(
        summary="Take a picture of a VM's display",
        responses={(200, "image/png"): OpenApiTypes.BINARY, (200, "image/x-portable-pixmap"): OpenApiTypes.BINARY},
    )
    @action(detail=True, methods=["get"])
    def screenshot(self, request: Request, pk: str) -> HttpResponse:
        vm = access.vm_for(request.user, pk, VmRight.CONSOLE)
        picture = vms.screenshot(vm)
        response = HttpResponse(picture.data, content_type=picture.media_type)
        response["Cache-Control"] = "private, no-store"
        return response

    @extend_schema(summary="Read a VM from its hypervisor now", request=None)
    @action(detail=True, methods=["post"])
    def refresh(self, request: Request, pk: str) -> Response:
        vm = vms.refresh(access.vm_for(request.user, pk), now=self.now)
        return self.shown(access.vm_for(request.user, vm.pk))
