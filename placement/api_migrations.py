"""The API of migrations, and of declaring a host dead."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.core.filters import Choice, Filters, Flag, Text, Uuid
from cloudops.core.models import Operation
from cloudops.core.rest import ApiViewSet, Lists, Retrieves
from cloudops.inventory import access
from cloudops.inventory.models import Host
from placement import capacity, fence, foresight, vm_migrations
from placement.api import chosen_vms
from placement.decisions import MOST_CANDIDATES
from placement.models import VmMigration
from placement.serializers import HostCapacitySerializer
from placement.serializers_moving import (
    BulkMigrationBody,
    MigrationBody,
    MigrationSerializer,
    OptionalReasonBody,
    OutcomesSerializer,
    ReasonBody,
    Relaxations,
    TargetsSerializer,
    failure_of,
    options_of,
    targets_told,
)
from placement.vm_migrations import Outcome


class MigrationFilters(Filters):
    """What may narrow the migrations."""

    current = Flag("ended_at", "isnull", help_text="Whether it has not ended.")
    status = Choice("operation__status", choices=Operation.Status.choices)
    mode = Choice(choices=VmMigration.Mode.choices)
    vm = Uuid("vm_id")
    host = Uuid(method="touching", help_text="From it or to it.")
    maintenance = Uuid("maintenance_id")
    search = Text(method="matching", max_length=100, help_text="In the VM's or a host's name.")

    class Meta:
        model = VmMigration
        fields: list[str] = []

    def touching(self, rows: QuerySet[VmMigration], name: str, value: UUID) -> QuerySet[VmMigration]:
        """Migrations from or to a host."""
        return rows.filter(Q(source_id=value) | Q(target_id=value))

    def matching(self, rows: QuerySet[VmMigration], name: str, value: str) -> QuerySet[VmMigration]:
        """Migrations whose VM or host is named so."""
        names = Q(vm__name__icontains=value) | Q(source__name__icontains=value) | Q(target__name__icontains=value)
        return rows.filter(names)


@extend_schema_view(
    list=extend_schema(summary="List migrations, latest first"), retrieve=extend_schema(summary="Read one migration")
)
class MigrationViewSet(Lists, Retrieves, ApiViewSet):
    """Migrations of VMs. The id is that of the operation."""

    queryset = VmMigration.objects.select_related("operation", "vm", "source", "target")
    serializer_class = MigrationSerializer
    filterset_class = MigrationFilters
    ordering = ("-created_at", "operation_id")
    rights = {"list": "fleet.view", "retrieve": "fleet.view", "*": "fleet.manage"}

    @extend_schema(
        summary="Abort a migration",
        description="Its VM stays at its source, or arrives if it is too late. Look at the migration for the outcome.",
        request=None,
        responses={202: MigrationSerializer},
    )
    @action(detail=True, methods=["post"])
    def abort(self, request: Request, pk: str) -> Response:
        vm_migrations.abort(self.get_object(), by=self.by, now=self.now)
        return self.shown(self.get_object(), status=202)

    @extend_schema(
        summary="Migrate several VMs",
        description="Each by itself, in the given order; one that is refused hinders no other.",
        request=BulkMigrationBody,
        responses={202: OutcomesSerializer},
        filters=False,
    )
    @action(detail=False, methods=["post"], pagination_class=None)
    def bulk(self, request: Request) -> Response:
        wanted = self.body(BulkMigrationBody)
        vms, to = chosen_vms(request.user, wanted.pop("vms")), wanted.pop("host", None)
        outcomes = vm_migrations.bulk(vms, to=to, options=options_of(wanted), by=self.by, now=self.now)
        told = [_told(one) for one in outcomes]
        refused = sum(one["error"] is not None for one in told)
        answer = {"started": len(told) - refused, "refused": refused, "outcomes": told}
        return self.shown(answer, status=202, serializer=OutcomesSerializer)


def _told(outcome: Outcome) -> dict[str, Any]:
    operation, refusal = outcome.operation, outcome.refusal
    return {
        "vm": outcome.vm,
        "migration": None if operation is None else operation.pk,
        "error": None if refusal is None else failure_of(refusal),
    }


@extend_schema(tags=["migrations"])
class VmMigrationViewSet(ApiViewSet):
    """Where one VM could go, and sending it there."""

    queryset = MigrationViewSet.queryset
    serializer_class = MigrationSerializer
    rights = {"targets": "fleet.view", "*": "fleet.manage"}

    @extend_schema(
        summary="Migrate a VM",
        description=(
            "Live when it runs or is paused, else its definition moves. Claims room on the destination and answers "
            "with the migration; follow it there. When no host fits: 409 `no-host-fits`, with the decision's id."
        ),
        request=MigrationBody,
        responses={202: MigrationSerializer},
    )
    def create(self, request: Request, vm_id: str) -> Response:
        vm = access.vm_for(request.user, vm_id)
        wanted = self.body(MigrationBody)
        to = wanted.pop("host", None)
        operation = vm_migrations.migrate(vm, to=to, options=options_of(wanted), by=self.by, now=self.now)
        response = self.shown(self.get_queryset().get(pk=operation.pk), status=202)
        response["Location"] = f"/api/v1/migrations/{operation.pk}/"
        return response

    @extend_schema(
        summary="List where a VM could be migrated to",
        description=f"At most {MOST_CANDIDATES} hosts, each with reasons. Nothing is taken.",
        parameters=[Relaxations],
        responses=TargetsSerializer,
    )
    def targets(self, request: Request, vm_id: str) -> Response:
        vm = access.vm_for(request.user, vm_id)
        options = options_of(self.parameters(Relaxations))
        found = foresight.destinations(vm, options=options, now=self.now)
        return self.shown(targets_told(found), serializer=TargetsSerializer)


@extend_schema(tags=["hosts"])
class FenceViewSet(ApiViewSet):
    """Declaring a host dead. Nothing is started elsewhere by it."""

    queryset = Host.objects.select_related("cluster", "capacity")
    serializer_class = HostCapacitySerializer
    rights = {"*": "hosts.fence"}

    @extend_schema(summary="Fence a host that is certainly off", description=fence.WORDS, request=ReasonBody)
    def fence(self, request: Request, host_id: str) -> Response:
        host = get_object_or_404(Host, pk=host_id)
        fence.fence(host, by=self.by, now=self.now, **self.body(ReasonBody))
        return self._shown(host)

    @extend_schema(
        summary="Take a fence back",
        description="The host is used again once it answers; a maintenance that has it goes on holding it.",
        request=OptionalReasonBody,
    )
    def unfence(self, request: Request, host_id: str) -> Response:
        host = get_object_or_404(Host, pk=host_id)
        fence.unfence(host, by=self.by, now=self.now, **self.body(OptionalReasonBody))
        return self._shown(host)

    def _shown(self, host: Host) -> Response:
        return self.shown(capacity.of_host(self.get_queryset().get(pk=host.pk)))
