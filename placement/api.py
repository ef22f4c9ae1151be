"""The API of placement: decisions, dry runs, room, drift, policies and groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final
from uuid import UUID

from django.db.models import F, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.accounts.rights import Right, Scope, has
from cloudops.core import runtime
from cloudops.core.errors import Forbidden, Invalid, NotFound
from cloudops.core.filters import Choice, Filters, Flag, Text, Time, Uuid
from cloudops.core.models import RuntimeSettings
from cloudops.core.rest import ApiViewSet, Lists, Retrieves
from cloudops.inventory import access
from cloudops.inventory.models import Cluster, Connection, Host, Vm
from placement import capacity, decisions, groups, policies, reconciling
from placement.models import AffinityGroup, Decision
from placement.requests import spec_for, spec_of_request
from placement.serializers import (
    HOLDS,
    AffinityGroupBody,
    AffinityGroupSerializer,
    CapacitySerializer,
    ClusterPolicySerializer,
    DriftSerializer,
    DriftShown,
    HostCapacitySerializer,
    MendedSerializer,
    Nothing,
    PolicyBody,
)
from placement.serializers_decisions import (
    DecisionDetailSerializer,
    DecisionSerializer,
    HostsShown,
    PlacementBody,
    PlacementSerializer,
    clusters_told,
    nearest_told,
)
from placement.spec import Purpose, Spec

DIFFERENCES_SHOWN: Final = 500
ONLY_FOR_VMS: Final = ("drop_soft_tags", "copy_storage")
ONLY_WITHOUT_VM: Final = ("offering", "template", "cluster")


class OnlyOwnVms(Forbidden):
    code = "only-own-vms"
    title = "You may ask for a place for your own VMs only, as they are."
    remedy = "Send `vm` alone."


class DecisionFilters(Filters):
    """What may narrow the decisions."""

    outcome = Choice(choices=Decision.Outcome.choices)
    purpose = Choice(choices=[(str(one), str(one)) for one in Purpose])
    vm = Uuid("vm_id")
    host = Uuid("host_id", help_text="Chosen. For people who see the fleet.")
    project = Uuid("project_id")
    operation = Uuid("operation_id")
    since = Time("at", "gte")
    until = Time("at", "lt")

    class Meta:
        model = Decision
        fields: list[str] = []


@extend_schema_view(list=extend_schema(summary="List placement decisions, latest first"))
class DecisionViewSet(Lists, ApiViewSet):
    """Placement decisions, kept as long as the settings say. Tenants see those on their projects' VMs."""

    queryset = Decision.objects.all()
    serializer_class = DecisionSerializer
    filterset_class = DecisionFilters
    ordering = ("-at", "id")

    def get_queryset(self) -> QuerySet[Decision]:
        rows = Decision.objects.select_related("vm").defer("changes")
        if has(self.request.user, Right.FLEET_VIEW):
            return rows
        if "host" in self.request.query_params:
            return rows.none()
        return rows.filter(vm__in=access.visible_vms(self.request.user), project_id=F("vm__project_id"))

    @extend_schema(
        summary="Read one placement decision, host by host",
        description=(
            "The decision is made again on the fleet as it was, with every filter's verdict. `hosts` limits the hosts "
            "told per cluster, `skip` and `cluster` lead to the others."
        ),
        parameters=[HostsShown],
        responses=DecisionDetailSerializer,
    )
    def retrieve(self, request: Request, pk: str) -> Response:
        shown = self.parameters(HostsShown)
        row = self.get_queryset().select_related("snapshot").defer(None).filter(pk=pk).first()
        if row is None:
            raise NotFound("There is no such decision, or you may not see it.")
        context = {**self.get_serializer_context(), "shown": shown}
        return Response(DecisionDetailSerializer(row, context=context).data)


@extend_schema(tags=["placements"])
class PlacementViewSet(ApiViewSet):
    """Where would it go? Nothing is taken and nothing moves."""

    queryset = Decision.objects.none()
    serializer_class = PlacementSerializer
    scopes = {"create": Scope.READ}

    @extend_schema(
        summary="Ask where a VM would go now",
        description=(
            "For a VM (where could it move to?), or for an offering and a template (where would a new one go?). "
            "Tenants may ask for their own VMs and are told in words that reveal no host."
        ),
        request=PlacementBody,
        responses={200: PlacementSerializer},
    )
    def create(self, request: Request) -> Response:
        wanted = self.body(PlacementBody)
        shown = {"hosts": wanted.pop("hosts"), "skip": 0}
        sees_fleet = has(request.user, Right.FLEET_VIEW)
        if not sees_fleet and set(wanted) != {"vm"}:
            raise OnlyOwnVms
        decided = decisions.dry_run(self._spec(wanted), by=self.by, now=self.now)
        found, explained = decided.result, decided.explained
        fits = found.host is not None
        told: dict[str, Any] = dict.fromkeys(PlacementSerializer().fields) | {"fits": fits}
        if not sees_fleet:
            return self.shown({**told, "words": list(explained.tenant_words)})
        told |= {
            "words": [explained.words],
            "host": {"id": found.host, "name": found.top[0].name} if found.host else None,
            "allocator": found.allocator,
            "hosts_considered": found.considered,
            "hosts_fit": found.fit,
            "lost": dict(found.lost),
            "nearest": nearest_told(explained.summary),
            "clusters": clusters_told(explained, shown),
        }
        return self.shown(told)

    def _spec(self, wanted: dict[str, Any]) -> Spec:
        if ("vm" in wanted) == ("offering" in wanted):
            raise Invalid("Name a VM or an offering.", fields={"vm": ["Send `vm`, or `offering`, not both."]})
        if weights := wanted.get("weights"):
            policies.demand_weights(weights)
        alien = [name for name in (ONLY_WITHOUT_VM if "vm" in wanted else ONLY_FOR_VMS) if name in wanted]
        if alien:
            fields = {name: ["This does not go with the other fields."] for name in alien}
            raise Invalid("Some fields do not go together.", fields=fields)
        if "vm" in wanted:
            vm = access.vm_for(self.request.user, wanted.pop("vm"))
            return spec_for(vm, purpose=Purpose.MIGRATE, now=self.now, **wanted)
        return spec_of_request(**wanted)


class HostCapacityFilters(Filters):
    """What may narrow the hosts."""

    cluster = Uuid("cluster_id")
    search = Text("name", "icontains", max_length=100, help_text="In the name.")
    hold = Choice("capacity__hold", choices=HOLDS)
    open = Flag(method="opened", help_text="Schedulable and reachable.")

    class Meta:
        model = Host
        fields: list[str] = []

    def opened(self, rows: QuerySet[Host], name: str, value: bool) -> QuerySet[Host]:
        """Hosts that are open, or those that are not."""
        where = {"schedulable": True, "connection": Connection.UP}
        return rows.filter(**where) if value else rows.exclude(**where)


@extend_schema(tags=["capacity"])
class CapacityViewSet(ApiViewSet):
    """Room: what clusters and hosts may promise, have promised, and use."""

    queryset = Host.objects.select_related("cluster", "capacity")
    serializer_class = HostCapacitySerializer
    filterset_class = HostCapacityFilters
    ordering = ("name", "id")
    rights = {"mend": "fleet.manage", "*": "fleet.view"}

    @extend_schema(summary="Read the room of every cluster", responses=CapacitySerializer, filters=False)
    def clusters(self, request: Request) -> Response:
        self.parameters(Nothing)
        return self.shown({"clusters": capacity.overview(now=self.now)}, serializer=CapacitySerializer)

    @extend_schema(summary="List hosts with their room")
    def list(self, request: Request) -> Response:
        return self.page(self.filter_queryset(self.get_queryset()))

    def paginate_queryset(self, queryset: Any) -> Any:
        return [capacity.of_host(host) for host in super().paginate_queryset(queryset)]

    @extend_schema(
        summary="Compare claims with what hypervisors report",
        description=f"The first {DIFFERENCES_SHOWN} differences are told, all are counted.",
        parameters=[DriftShown],
        responses=DriftSerializer,
        filters=False,
    )
    def drift(self, request: Request) -> Response:
        wanted = self.parameters(DriftShown)
        found = [one for one in reconciling.drift(now=self.now) if wanted.get("kind", one.kind) == one.kind]
        found.sort(key=lambda one: one.mended)
        counts = Counter(str(one.kind) for one in found)
        told = {"count": len(found), "counts": counts, "differences": found[:DIFFERENCES_SHOWN]}
        return self.shown(told, serializer=DriftSerializer)

    @extend_schema(
        summary="Mend claims now",
        description="What happens by itself at the next look.",
        request=None,
        responses=MendedSerializer,
        filters=False,
    )
    def mend(self, request: Request) -> Response:
        found = reconciling.reconcile(now=self.now)
        mended = sum(one.mended for one in found)
        return self.shown({"mended": mended, "left": len(found) - mended}, serializer=MendedSerializer)


@extend_schema_view(
    list=extend_schema(summary="List clusters' placement policies"),
    retrieve=extend_schema(summary="Read a cluster's placement policy"),
)
class ClusterPolicyViewSet(Lists, Retrieves, ApiViewSet):
    """How clusters differ from the installation's placement settings. The id is the cluster's."""

    queryset = Cluster.objects.select_related("policy")
    serializer_class = ClusterPolicySerializer
    ordering = ("position", "name")
    rights = {"list": "fleet.view", "retrieve": "fleet.view", "*": "fleet.manage"}

    @cached_property
    def settings_now(self) -> RuntimeSettings:
        """What holds for clusters that say nothing else."""
        return runtime.current()

    @extend_schema(
        summary="Change a cluster's placement policy",
        description="Capacity follows at once; what is claimed stays. Null: as the settings say.",
        request=PolicyBody,
    )
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self.body(PolicyBody, partial=True)
        policies.set_policy(self.get_object(), by=self.by, now=self.now, **changes)
        return self.shown(self.get_object())

    @extend_schema(summary="Let a cluster follow the settings again")
    def destroy(self, request: Request, pk: str) -> Response:
        policies.set_policy(self.get_object(), by=self.by, now=self.now, **dict.fromkeys(policies.FIELDS))
        return Response(status=204)


class AffinityGroupFilters(Filters):
    """What may narrow the groups."""

    search = Text("name", "icontains", max_length=100, help_text="In the name.")
    kind = Choice(choices=AffinityGroup.Kind.choices)
    strict = Flag()
    vm = Uuid("vms__id")

    class Meta:
        model = AffinityGroup
        fields: list[str] = []


@extend_schema_view(
    list=extend_schema(summary="List affinity groups"), retrieve=extend_schema(summary="Read one affinity group")
)
class AffinityGroupViewSet(Lists, Retrieves, ApiViewSet):
    """VMs that belong together on one host, or apart on different ones. Heeded when VMs are placed."""

    queryset = AffinityGroup.objects.prefetch_related("vms")
    serializer_class = AffinityGroupSerializer
    filterset_class = AffinityGroupFilters
    ordering = ("name", "id")
    rights = {"list": "fleet.view", "retrieve": "fleet.view", "*": "fleet.manage"}
    _broken: Mapping[UUID, str] | None = None

    def prepare(self, rows: list[Any]) -> None:
        self._broken = groups.broken(rows)

    def broken_of(self, group: AffinityGroup) -> str | None:
        """How its rule does not hold now; a page's groups are looked at together."""
        found = groups.broken([group]) if self._broken is None else self._broken
        return found.get(group.pk)

    @extend_schema(
        summary="Create an affinity group", request=AffinityGroupBody, responses={201: AffinityGroupSerializer}
    )
    def create(self, request: Request) -> Response:
        wanted = self._with_vms(self.body(AffinityGroupBody))
        return self.shown(groups.create(**wanted, by=self.by, now=self.now), status=201)

    @extend_schema(summary="Change an affinity group", request=AffinityGroupBody)
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self._with_vms(self.body(AffinityGroupBody, partial=True))
        groups.change(self.get_object(), by=self.by, now=self.now, **changes)
        return self.shown(self.get_object())

    @extend_schema(summary="Delete an affinity group", description="Its VMs stay where they are.")
    def destroy(self, request: Request, pk: str) -> Response:
        groups.delete(self.get_object(), by=self.by, now=self.now)
        return Response(status=204)

    def _with_vms(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if "vms" in wanted:
            wanted["vms"] = chosen_vms(self.request.user, wanted["vms"])
        return wanted


def chosen_vms(user: Any, ids: Iterable[UUID]) -> list[Vm]:
    """The VMs with these ids, in this order, without repeats. Raises :class:`NotFound` unless all are there."""
    wanted = list(dict.fromkeys(ids))
    found = access.visible_vms(user).in_bulk(wanted)
    if unknown := [str(pk) for pk in wanted if pk not in found]:
        raise NotFound(f"{len(unknown)} of these VMs do not exist.", vms=sorted(unknown))
    return [found[pk] for pk in wanted]
