"""The API of clusters, hosts, offerings and tags."""

from __future__ import annotations

from django.db.models import Q, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from cloudops.accounts.rights import Right, has
from cloudops.core.errors import Unavailable
from cloudops.core.filters import Choice, Filters, Flag, Text, Uuid
from cloudops.core.rest import ApiViewSet, Lists, Retrieves
from cloudops.inventory import clusters, hosts, offerings, templates
from cloudops.inventory.models import (
    Cluster,
    Connection,
    Endpoint,
    Host,
    Offering,
    OfferingKind,
    OfferingVersion,
    Tag,
    Template,
)
from cloudops.inventory.serializers import ClusterBody, ClusterSerializer, HostSerializer
from cloudops.inventory.serializers_hosts import (
    CertificateBody,
    ConnectionTest,
    CordonBody,
    HostChange,
    HostCreate,
    HostRemoval,
    HostsAdded,
    ProbeSerializer,
)
from cloudops.inventory.serializers_offerings import (
    OfferingBody,
    OfferingSerializer,
    OfferingVersionSerializer,
    TagSerializer,
    TemplateBody,
    TemplateSerializer,
)


@extend_schema_view(list=extend_schema(summary="List tags"))
class TagViewSet(Lists, ApiViewSet):
    """Words that hosts carry and offerings ask for; they come into being by being used."""

    queryset = Tag.objects.all()
    serializer_class = TagSerializer
    ordering = ("name",)
    rights = {"*": "fleet.view"}


@extend_schema_view(list=extend_schema(summary="List clusters"), retrieve=extend_schema(summary="Read one cluster"))
class ClusterViewSet(Lists, Retrieves, ApiViewSet):
    """Clusters."""

    queryset = Cluster.objects.all()
    serializer_class = ClusterSerializer
    ordering = ("position", "name")
    rights = {"list": "fleet.view", "retrieve": "fleet.view", "*": "fleet.manage"}

    @extend_schema(summary="Create a cluster", request=ClusterBody, responses={201: ClusterSerializer})
    def create(self, request: Request) -> Response:
        return self.shown(clusters.create(**self.body(ClusterBody), by=self.by, now=self.now), status=201)

    @extend_schema(summary="Change a cluster", request=ClusterBody)
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self.body(ClusterBody, partial=True)
        return self.shown(clusters.change(self.get_object(), by=self.by, now=self.now, **changes))

    @extend_schema(summary="Delete a cluster", description="Refused while it has hosts.")
    def destroy(self, request: Request, pk: str) -> Response:
        clusters.delete(self.get_object(), by=self.by, now=self.now)
        return Response(status=204)


class OfferingFilters(Filters):
    """What may narrow the offerings."""

    enabled = Flag()
    dynamic_scaling = Flag()
    kind = Choice(choices=OfferingKind.choices)
    search = Text("name", "icontains", max_length=100, help_text="In the name.")

    class Meta:
        model = Offering
        fields: list[str] = []


@extend_schema_view(list=extend_schema(summary="List offerings"), retrieve=extend_schema(summary="Read one offering"))
class OfferingViewSet(Lists, Retrieves, ApiViewSet):
    """Offerings. Everybody sees those that can be chosen; changing them needs `offerings.manage`."""

    queryset = Offering.objects.all()
    serializer_class = OfferingSerializer
    filterset_class = OfferingFilters
    ordering = ("vcpus", "memory_mib", "name")
    rights = {"list": "", "retrieve": "", "versions": "fleet.view", "*": "offerings.manage"}

    def get_queryset(self) -> QuerySet[Offering]:
        rows = Offering.objects.prefetch_related("host_tags", "soft_host_tags")
        return rows if has(self.request.user, Right.FLEET_VIEW) else rows.filter(enabled=True)

    @extend_schema(
        summary="Create an offering",
        description="A `fixed` offering has one size; a `custom` one needs `max_vcpus` and `max_memory_mib` too; an "
        "`unconstrained` one suggests a size.",
        request=OfferingBody,
        responses={201: OfferingSerializer},
    )
    def create(self, request: Request) -> Response:
        return self.shown(offerings.create(**self.body(OfferingBody), by=self.by, now=self.now), status=201)

    @extend_schema(
        summary="Change an offering",
        description="VMs keep what they were given. Its `version` counts up when VMs get anything else; one that is "
        "no longer `custom` loses its bounds.",
        request=OfferingBody,
    )
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self.body(OfferingBody, partial=True)
        return self.shown(offerings.change(self.get_object(), by=self.by, now=self.now, **changes))

    @extend_schema(summary="Delete an offering", description="Refused while VMs have it; disable it instead.")
    def destroy(self, request: Request, pk: str) -> Response:
        offerings.delete(self.get_object(), by=self.by, now=self.now)
        return Response(status=204)

    @extend_schema(
        summary="List an offering's versions",
        description="What VMs got by it at any time, the newest first. `GET /api/v1/vms/?offering=…&outdated=true` "
        "lists VMs that have an older one.",
        responses=OfferingVersionSerializer(many=True),
        filters=False,
    )
    @action(detail=True, methods=["get"], filterset_class=None, ordering=("-version",))
    def versions(self, request: Request, pk: str) -> Response:
        rows = OfferingVersion.objects.filter(offering=self.get_object())
        return self.page(self.filter_queryset(rows), OfferingVersionSerializer)


class TemplateFilters(Filters):
    """What may narrow the templates."""

    search = Text("name", "icontains", max_length=100, help_text="In the name.")

    class Meta:
        model = Template
        fields: list[str] = []


@extend_schema_view(list=extend_schema(summary="List templates"), retrieve=extend_schema(summary="Read one template"))
class TemplateViewSet(Lists, Retrieves, ApiViewSet):
    """Templates: what VMs were made from, with the host tags that they ask for."""

    queryset = Template.objects.prefetch_related("host_tags", "soft_host_tags")
    serializer_class = TemplateSerializer
    filterset_class = TemplateFilters
    ordering = ("name", "id")
    rights = {"list": "fleet.view", "retrieve": "fleet.view", "*": "offerings.manage"}

    @extend_schema(summary="Create a template", request=TemplateBody, responses={201: TemplateSerializer})
    def create(self, request: Request) -> Response:
        return self.shown(templates.create(**self.body(TemplateBody), by=self.by, now=self.now), status=201)

    @extend_schema(summary="Change a template", request=TemplateBody, description="VMs stay where they are.")
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self.body(TemplateBody, partial=True)
        return self.shown(templates.change(self.get_object(), by=self.by, now=self.now, **changes))

    @extend_schema(summary="Delete a template", description="Refused while VMs have it.")
    def destroy(self, request: Request, pk: str) -> Response:
        templates.delete(self.get_object(), by=self.by, now=self.now)
        return Response(status=204)


class HostFilters(Filters):
    """What may narrow the hosts."""

    search = Text(method="matching", max_length=100, help_text="In name, address or URI.")
    name = Text(max_length=200, help_text="Exactly this name.")
    cluster = Uuid("cluster_id")
    connection = Choice(choices=Connection.choices)
    schedulable = Flag()
    kind = Choice("endpoint__kind", choices=Endpoint.KINDS)
    endpoint = Uuid("endpoint_id", help_text="Behind this management endpoint, for example one vCenter.")
    platform_maintenance = Flag(help_text="In the platform's own maintenance mode.")
    tag = Text("tags__name", max_length=63)

    class Meta:
        model = Host
        fields: list[str] = []

    def matching(self, rows: QuerySet[Host], name: str, value: str) -> QuerySet[Host]:
        """Hosts whose name, address or URI holds ``value``."""
        where = Q(name__icontains=value) | Q(management_address__icontains=value) | Q(endpoint__uri__icontains=value)
        return rows.filter(where)


@extend_schema_view(list=extend_schema(summary="List hosts"), retrieve=extend_schema(summary="Read one host"))
class HostViewSet(Lists, Retrieves, ApiViewSet):
    """Hypervisor hosts."""

    queryset = Host.objects.select_related("endpoint", "cluster").prefetch_related("host_tags__tag")
    serializer_class = HostSerializer
    filterset_class = HostFilters
    ordering = ("name", "id")
    rights = {"list": "fleet.view", "retrieve": "fleet.view", "*": "fleet.manage"}

    @extend_schema(
        summary="Add a host",
        description="Tests the connection first, and adds every host behind the endpoint. A vCenter or ESXi is refused "
        "with `certificate-unconfirmed` and what it presents, until its `certificate_sha256` is sent along.",
        request=HostCreate,
        responses={201: HostsAdded},
    )
    def create(self, request: Request) -> Response:
        added = hosts.add_host(**self.body(HostCreate), by=self.by, now=self.now)
        rows = self.get_queryset().filter(pk__in=[host.pk for host in added]).order_by(*self.ordering)
        return self.shown({"hosts": rows}, status=201, serializer=HostsAdded)

    @extend_schema(summary="Change a host", request=HostChange)
    def partial_update(self, request: Request, pk: str) -> Response:
        changes = self.body(HostChange, partial=True)
        hosts.change_host(self.get_object(), by=self.by, now=self.now, **changes)
        return self.shown(self.get_object())

    @extend_schema(
        summary="Remove a host",
        description="Takes it out of CloudOps; nothing happens to the host or its VMs. Refused while it has consoles.",
        parameters=[HostRemoval],
        responses={204: None},
    )
    def destroy(self, request: Request, pk: str) -> Response:
        hosts.remove_host(self.get_object(), by=self.by, now=self.now, **self.parameters(HostRemoval))
        return Response(status=204)

    @extend_schema(
        operation_id="hosts_test_new_connection",
        summary="Test the connection to a management endpoint",
        description="Tries it step by step without saving anything. The answer is 200 also when a step fails.",
        request=ConnectionTest,
        responses=ProbeSerializer,
        filters=False,
    )
    @action(detail=False, methods=["post"], url_path="test-connection", pagination_class=None)
    def test_connection(self, request: Request) -> Response:
        return Response(hosts.test_connection(**self.body(ConnectionTest)).as_dict())

    @extend_schema(summary="Test the connection to a host", request=None, responses=ProbeSerializer)
    @action(detail=True, methods=["post"], url_path="test-connection")
    def test_saved_connection(self, request: Request, pk: str) -> Response:
        return Response(hosts.test_host(self.get_object()).as_dict())

    @extend_schema(
        summary="Accept another certificate",
        description="From now on the management service of this host, and of its others, must present this one. "
        "Refused unless that is the one that it presents now.",
        request=CertificateBody,
        responses={204: None},
    )
    @action(detail=True, methods=["post"], url_path="accept-certificate")
    def accept_certificate(self, request: Request, pk: str) -> Response:
        hosts.accept_certificate(self.get_object(), by=self.by, now=self.now, **self.body(CertificateBody))
        return Response(status=204)

    @extend_schema(
        summary="Cordon a host",
        description="No new VMs are placed on it; nothing that runs is touched.",
        request=CordonBody,
    )
    @action(detail=True, methods=["post"])
    def cordon(self, request: Request, pk: str) -> Response:
        host = self.get_object()
        hosts.cordon(host, by=self.by, now=self.now, **self.body(CordonBody))
        return self.shown(self.get_object())

    @extend_schema(summary="Uncordon a host", request=None)
    @action(detail=True, methods=["post"])
    def uncordon(self, request: Request, pk: str) -> Response:
        hosts.uncordon(self.get_object(), by=self.by, now=self.now)
        return self.shown(self.get_object())

    @extend_schema(summary="Synchronise a host soon", request=None, responses={202: None})
    @action(detail=True, methods=["post"])
    def sync(self, request: Request, pk: str) -> Response:
        if not hosts.sync_soon(self.get_object()):
            raise Unavailable("The task queue does not answer.", retry_after_seconds=10)
        return Response(status=202)
