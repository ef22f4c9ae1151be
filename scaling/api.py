"""The API of sizes: what a VM could become, plans, resizes, headroom, and which of many VMs could grow."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, Final

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.accounts.rights import Right, Scope, VmRight, has
from cloudops.core import runtime
from cloudops.core.errors import Invalid, NotFound
from cloudops.core.filters import Choice, Filters
from cloudops.core.models import Operation
from cloudops.core.rest import ApiViewSet, Retrieves
from cloudops.core.schema import ProblemSerializer
from cloudops.inventory import access, vms
from cloudops.inventory.models import Cluster, Vm
from scaling import bulk, choosing, headroom, history, resizes, sizes, subjects, telling, telling_resizes
from scaling.matrix import matrix
from scaling.models import Resize
from scaling.serializers import (
    BulkBody,
    BulkSerializer,
    HeadroomBody,
    HeadroomSerializer,
    HistoryParameters,
    HistorySerializer,
    MatrixSerializer,
    PlanSerializer,
    ResizeBody,
    ResizeSerializer,
    SizeBody,
    VmHeadroomBody,
    VmHeadroomSerializer,
    VmSizeSerializer,
    WayBody,
)
from scaling.values import Reach, Wanted

HISTORY_DAYS: Final = 7
SIZE: Final = ("vcpus", "memory_mib", "cpu_mhz")
REFUSED: Final = {
    409: OpenApiResponse(
        ProblemSerializer,
        description="Not reached in this way, no room, beyond the quota, another operation is at work on the VM, or "
        "`plan-outdated` with what has changed.",
    )
}


class _OfVm(ApiViewSet):
    """What is below one VM."""

    def vm(self, vm_id: str, right: VmRight = VmRight.VIEW) -> Vm:
        """Raises NotFound to strangers, and Forbidden without the right."""
        return access.vm_for(self.request.user, vm_id, right)

    @property
    def sees_fleet(self) -> bool:
        return has(self.me, Right.FLEET_VIEW)

    def wanted(self, vm: Vm, sent: dict[str, Any]) -> Wanted:
        """The size that was sent. Raises Invalid."""
        offering = choosing.offerings_for(vm).filter(pk=sent["offering"]).first()
        if offering is None:
            raise Invalid("There is no such offering.", fields={"offering": ["Choose one of the VM's offerings."]})
        return subjects.wanted(offering, **{name: sent[name] for name in SIZE if name in sent})

    def resize_shown(self, operation: Operation) -> Response:
        """202 with the resize that an operation carries out."""
        row = telling_resizes.shown().get(pk=operation.pk)
        response = self.shown(row, status=202, serializer=ResizeSerializer)
        response["Location"] = f"/api/v1/resizes/{operation.pk}/"
        return response


@extend_schema(tags=["scaling"])
class VmScalingViewSet(_OfVm):
    """What one VM has, could have, and gets."""

    queryset = Vm.objects.all()
    serializer_class = VmSizeSerializer
    pagination_class = None
    scopes = {
        "preflight": Scope.READ,
        "resize": Scope.SCALE,
        "at_next_start": Scope.SCALE,
        "forget_next_start": Scope.SCALE,
        "prepare_scaling": Scope.SCALE,
    }

    @extend_schema(summary="Read a VM's size, its ceiling, and what waits for its next start")
    def size(self, request: Request, vm_id: str) -> Response:
        return self._size(self.vm(vm_id))

    def _size(self, vm: Vm, status: int = 200) -> Response:
        return self.shown(sizes.read(vm, settings=runtime.current()), status=status)

    @extend_schema(
        summary="List the offerings that a VM could have, and how it gets to each",
        description="Judged from what is known of the VM; a preflight asks its hypervisor.",
        responses=MatrixSerializer,
    )
    def offerings(self, request: Request, vm_id: str) -> Response:
        vm = self.vm(vm_id)
        rows = list(choosing.offerings_for(vm))
        found = matrix([vm], rows, settings=runtime.current(), now=self.now)
        told = [(row, telling.tell(found.plan(vm, row), sees_fleet=self.sees_fleet, with_token=False)) for row in rows]
        answer = {
            "vm": vm,
            "size": subjects.size_of(vm),
            "counts": Counter(str(plan.reach) for _, plan in told),
            "offerings": [{"offering": row, "plan": plan} for row, plan in told],
        }
        return self.shown(answer, serializer=MatrixSerializer)

    @extend_schema(
        summary="Say how a VM gets to a size, before anything is touched",
        description="Its hypervisor is asked for what the VM has this moment.",
        request=SizeBody,
        responses=PlanSerializer,
    )
    def preflight(self, request: Request, vm_id: str) -> Response:
        vm = self.vm(vm_id)
        wanted = self.wanted(vm, self.body(SizeBody))
        _, plan = resizes.plan_now(vm, wanted, now=self.now)
        told = telling.tell(plan, sees_fleet=self.sees_fleet, ways=telling.ways_to(vm, wanted, plan))
        return self.shown(told, serializer=PlanSerializer)

    @extend_schema(
        summary="Resize a VM",
        description="Claims the room, and answers with the resize; follow it there, or its operation.",
        request=ResizeBody,
        responses={202: ResizeSerializer, **REFUSED},
    )
    def resize(self, request: Request, vm_id: str) -> Response:
        vm, sent = self.vm(vm_id, VmRight.SCALE), self.body(ResizeBody)
        wanted, how, token = self.wanted(vm, sent), Reach(sent["how"]), sent.get("plan", "")
        return self.resize_shown(resizes.resize(vm, wanted=wanted, how=how, token=token, by=self.by, now=self.now))

    @extend_schema(
        summary="Give a VM a size at its next start",
        description="Its definition is changed now; it goes on with its present size until it is stopped and started.",
        request=WayBody,
        responses={200: VmSizeSerializer, **REFUSED},
    )
    def at_next_start(self, request: Request, vm_id: str) -> Response:
        vm, sent = self.vm(vm_id, VmRight.SCALE), self.body(WayBody)
        wanted, token = self.wanted(vm, sent), sent.get("plan", "")
        resizes.at_next_start(vm, wanted=wanted, token=token, by=self.by, now=self.now)
        return self._size(self.vm(vm_id))

    @extend_schema(summary="Forget what waits for a VM's next start", responses={204: None})
    def forget_next_start(self, request: Request, vm_id: str) -> Response:
        resizes.forget_next(self.vm(vm_id, VmRight.SCALE), by=self.by, now=self.now)
        return Response(status=204)

    @extend_schema(
        summary="Prepare a VM for live scaling at its next start",
        description="Puts its headroom into its definition.",
        request=None,
        responses={200: VmSizeSerializer},
    )
    def prepare_scaling(self, request: Request, vm_id: str) -> Response:
        headroom.prepare(self.vm(vm_id, VmRight.SCALE), by=self.by, now=self.now)
        return self._size(self.vm(vm_id))

    @extend_schema(summary="Read the sizes that a VM had", parameters=[HistoryParameters], responses=HistorySerializer)
    def history(self, request: Request, vm_id: str) -> Response:
        vm, asked = self.vm(vm_id), self.parameters(HistoryParameters)
        until = asked.get("until") or self.now
        since = asked.get("since") or until - timedelta(days=HISTORY_DAYS)
        if since > until:
            raise Invalid("`since` is later than `until`.", fields={"since": ["Use a time before `until`."]})
        samples = history.series(vm, since=since, until=until)
        return self.shown({"since": since, "until": until, "samples": samples}, serializer=HistorySerializer)


class ResizeFilters(Filters):
    """What may narrow a VM's resizes."""

    status = Choice("operation__status", choices=Operation.Status.choices)
    outcome = Choice(choices=[one for one in Resize.Outcome.choices if one[0]])

    class Meta:
        model = Resize
        fields: list[str] = []


@extend_schema(tags=["resizes"])
class VmResizeViewSet(_OfVm):
    """The resizes of one VM."""

    queryset = Resize.objects.all()
    serializer_class = ResizeSerializer
    filterset_class = ResizeFilters
    ordering = ("-created_at", "operation_id")

    @extend_schema(summary="List a VM's resizes, latest first")
    def list(self, request: Request, vm_id: str) -> Response:
        rows = telling_resizes.shown().filter(vm=self.vm(vm_id))
        return self.page(self.filter_queryset(rows))


@extend_schema_view(retrieve=extend_schema(summary="Read one resize"))
class ResizeViewSet(Retrieves, _OfVm):
    """Resizes. The id is that of the operation."""

    queryset = Resize.objects.all()
    serializer_class = ResizeSerializer
    scopes = {"continue_": Scope.SCALE, "roll_back": Scope.SCALE, "cancel": Scope.SCALE}

    def get_queryset(self) -> QuerySet[Resize]:
        return telling_resizes.shown()

    def get_object(self) -> Resize:
        row = self.get_queryset().filter(pk=self.kwargs["pk"]).first()
        if row is None or not access.visible_vms(self.request.user).filter(pk=row.vm_id).exists():
            raise NotFound("There is no such resize, or you may not see it.")
        return row

    def _to_change(self) -> Resize:
        row = self.get_object()
        self.vm(str(row.vm_id), VmRight.SCALE)
        return row

    @extend_schema(
        summary="Continue a resize that was applied in part",
        description="A new resize to the same size.",
        request=None,
        responses={202: ResizeSerializer, **REFUSED},
    )
    @action(detail=True, methods=["post"], url_path="continue", url_name="continue")
    def continue_(self, request: Request, pk: str) -> Response:
        return self.resize_shown(resizes.continue_(self._to_change(), by=self.by, now=self.now))

    @extend_schema(
        summary="Roll back a resize that was applied in part",
        description="A new resize to the size that the VM had before.",
        request=None,
        responses={202: ResizeSerializer, **REFUSED},
    )
    @action(detail=True, methods=["post"], url_path="roll-back")
    def roll_back(self, request: Request, pk: str) -> Response:
        return self.resize_shown(resizes.roll_back(self._to_change(), by=self.by, now=self.now))

    @extend_schema(
        summary="Cancel a resize",
        description="Before a step that cannot be taken back. Look at the resize for the outcome.",
        request=None,
        responses={202: ResizeSerializer, **REFUSED},
    )
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        resizes.cancel(self._to_change(), by=self.by, now=self.now)
        return self.shown(self.get_object(), status=202)


@extend_schema(tags=["scaling"])
class BulkPreflightViewSet(ApiViewSet):
    """Which of many VMs could grow to a size."""

    queryset = Vm.objects.all()
    serializer_class = BulkSerializer
    pagination_class = None
    rights = {"*": "fleet.view"}
    scopes = {"create": Scope.READ}

    @extend_schema(
        summary="Say which VMs could grow to a size, and how",
        description=f"Judged from what is known of them, at most {bulk.MOST_VMS} by name. Nothing is touched.",
        request=BulkBody,
        responses={200: BulkSerializer},
    )
    def create(self, request: Request) -> Response:
        sent = self.body(BulkBody)
        wanted = subjects.wanted(sent["offering"], **{name: sent[name] for name in SIZE if name in sent})
        columns = {"cluster": "host__cluster", "host": "host", "project": "project", "search": "name__icontains"}
        narrowing = {column: sent[name] for name, column in columns.items() if name in sent}
        rows = access.visible_vms(request.user).filter(**narrowing).order_by("name", "id")
        chosen = list(rows[: bulk.MOST_VMS + 1])
        found = bulk.verdicts(chosen[: bulk.MOST_VMS], wanted, settings=runtime.current(), now=self.now)
        answer = {
            "size": wanted.size,
            "counts": {str(reach): count for reach, count in bulk.counts(found).items()},
            "truncated": len(chosen) > bulk.MOST_VMS,
            "vms": [
                {"vm": one.vm, "plan": telling.tell(one.plan, sees_fleet=True, with_token=False)}
                for one in found
                if sent.get("reach", one.plan.reach) == one.plan.reach
            ],
        }
        return self.shown(answer)


@extend_schema(tags=["headroom"])
class VmHeadroomViewSet(_OfVm):
    """How far one VM can grow live."""

    queryset = Vm.objects.all()
    serializer_class = VmHeadroomSerializer
    pagination_class = None
    rights = {"retrieve": "fleet.view", "*": "fleet.manage"}

    @extend_schema(summary="Read a VM's headroom")
    def retrieve(self, request: Request, vm_id: str) -> Response:
        vm = self.vm(vm_id)
        row = headroom.of_vm(vm)
        row.next_ceiling = headroom.effective(vm, settings=runtime.current())  # type: ignore[attr-defined]
        return self.shown(row)

    @extend_schema(
        summary="Change a VM's headroom", description="It counts from its next start on.", request=VmHeadroomBody
    )
    def partial_update(self, request: Request, vm_id: str) -> Response:
        vm, changes = self.vm(vm_id), self.body(VmHeadroomBody, partial=True)
        if "dynamic_scaling" in changes:
            vms.set_live_scaling(vm, allowed=changes.pop("dynamic_scaling"), by=self.by, now=self.now)
        headroom.set_for_vm(vm, **changes, by=self.by, now=self.now)
        return self.retrieve(request, vm_id)


@extend_schema(tags=["headroom"])
class ClusterHeadroomViewSet(ApiViewSet):
    """How far the VMs of a cluster can grow live."""

    queryset = Cluster.objects.all()
    serializer_class = HeadroomSerializer
    pagination_class = None
    rights = {"retrieve": "fleet.view", "*": "fleet.manage"}

    @extend_schema(summary="Read a cluster's headroom")
    def retrieve(self, request: Request, cluster_id: str) -> Response:
        return self.shown(headroom.of_cluster(get_object_or_404(Cluster, pk=cluster_id)))

    @extend_schema(
        summary="Change a cluster's headroom",
        description="It counts from each VM's next start on.",
        request=HeadroomBody,
    )
    def partial_update(self, request: Request, cluster_id: str) -> Response:
        cluster = get_object_or_404(Cluster, pk=cluster_id)
        changes = self.body(HeadroomBody, partial=True)
        return self.shown(headroom.set_for_cluster(cluster, **changes, by=self.by, now=self.now))
