"""How clusters, hosts, VMs and offerings look in the API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.accounts.models import Project
from cloudops.accounts.serializers import ProjectRef
from cloudops.core.rest import Body, Shown
from cloudops.hypervisors.port import PowerAction
from cloudops.inventory import vms
from cloudops.inventory.models import Cluster, Endpoint, Host, HostTag, Offering, Template, Vm
from cloudops.inventory.serializers_offerings import OfferingRef, TemplateRef

ACTIONS = [(item.value, item.value) for item in PowerAction]
MAX_POSITION = 2**31 - 1


class ClusterRef(Shown):
    """A cluster by id and name."""

    class Meta:
        model = Cluster
        fields = ["id", "name"]


class ClusterSerializer(Shown):
    """Hosts among which VMs may move freely."""

    taken_from = serializers.UUIDField(
        source="taken_from_id", allow_null=True, help_text="The management endpoint whose own cluster this is."
    )

    class Meta:
        model = Cluster
        fields = ["id", "name", "description", "position", "taken_from", "platform_name"]


class ClusterBody(Body):
    """A cluster's own fields."""

    name = serializers.CharField(max_length=100)
    description = serializers.CharField(max_length=10_000, allow_blank=True, required=False)
    position = serializers.IntegerField(
        min_value=0, max_value=MAX_POSITION, required=False, help_text="Order on the screens."
    )


class OfferedCertificateSerializer(serializers.Serializer[Any]):
    """A certificate that came instead of the confirmed one."""

    sha256 = serializers.CharField()
    sha1 = serializers.CharField(allow_blank=True)
    seen_at = serializers.DateTimeField(help_text="When it was seen first.")


class EndpointSerializer(Shown):
    """The management endpoint behind a host, and perhaps behind others; its secret is never given back."""

    has_secret = serializers.SerializerMethodField()
    offered_certificate = OfferedCertificateSerializer(
        allow_null=True, help_text="Another certificate that it presents now instead of the confirmed one."
    )

    class Meta:
        model = Endpoint
        fields = [
            "id",
            "kind",
            "uri",
            "username",
            "has_secret",
            "certificate_sha256",
            "certificate_pinned_at",
            "offered_certificate",
            "takes_clusters_over",
            "timeout_seconds",
            "synced_at",
        ]

    def get_has_secret(self, endpoint: Endpoint) -> bool:
        return bool(endpoint.secret_encrypted)


class HostRef(Shown):
    """A host by id and name."""

    class Meta:
        model = Host
        fields = ["id", "name"]


class HostSerializer(Shown):
    """A hypervisor host: what is wanted of it, and what is observed."""

    endpoint = EndpointSerializer()
    cluster = ClusterRef()
    tags = serializers.SerializerMethodField(help_text="All of them, whoever gave them.")
    own_tags = serializers.SerializerMethodField(help_text="Those that people gave here.")
    platform_tags = serializers.SerializerMethodField(help_text="Those that the platform itself gives (vSphere).")
    simulated = serializers.BooleanField(source="is_simulated", help_text="No real machine, or a simulator's.")
    total_cpu_threads = serializers.IntegerField(help_text="The operator's number, else the host's own.")
    total_memory_mib = serializers.IntegerField(help_text="The operator's number, else the host's own.")

    class Meta:
        model = Host
        fields = [
            "id",
            "name",
            "ref",
            "endpoint",
            "cluster",
            "tags",
            "own_tags",
            "platform_tags",
            "platform_cluster",
            "platform_maintenance",
            "simulated",
            "management_address",
            "vnc_listen_address",
            "migration_uri",
            "networks",
            "datastores",
            "schedulable",
            "connection",
            "connection_changed_at",
            "error_code",
            "error_detail",
            "error_remedy",
            "cpu_threads",
            "cpu_mhz",
            "cpu_model",
            "cpu_percent",
            "memory_mib",
            "memory_free_mib",
            "cpu_threads_override",
            "memory_mib_override",
            "total_cpu_threads",
            "total_memory_mib",
            "hypervisor_version",
            "console_limit_override",
            "synced_at",
            "created_at",
        ]

    def get_tags(self, host: Host) -> list[str]:
        return [line.tag.name for line in _tag_lines(host)]

    def get_own_tags(self, host: Host) -> list[str]:
        return [line.tag.name for line in _tag_lines(host) if line.own]

    def get_platform_tags(self, host: Host) -> list[str]:
        return [line.tag.name for line in _tag_lines(host) if line.platform]


def _tag_lines(host: Host) -> list[HostTag]:
    """Costs a query for each host unless ``host_tags__tag`` was prefetched."""
    return sorted(host.host_tags.all(), key=lambda line: line.tag.name)


class VmRef(Shown):
    """A VM by id and name."""

    class Meta:
        model = Vm
        fields = ["id", "name"]


class VmHostSerializer(serializers.Serializer[Any]):
    """A VM's host; the id is null to people who do not see the fleet."""

    id = serializers.UUIDField(allow_null=True)
    name = serializers.CharField()


class VmSerializer(Shown):
    """A VM as its hypervisor last reported it."""

    host = serializers.SerializerMethodField()
    project = ProjectRef(allow_null=True)
    offering = OfferingRef(allow_null=True)
    template = TemplateRef(allow_null=True)

    class Meta:
        model = Vm
        fields = [
            "id",
            "name",
            "ref",
            "host",
            "project",
            "offering",
            "offering_version",
            "template",
            "pinned",
            "power_state",
            "vcpus",
            "memory_mib",
            "max_vcpus",
            "max_memory_mib",
            "guest_os",
            "has_console",
            "max_consoles",
            "console_connections",
            "missing_since",
            "synced_at",
            "created_at",
        ]

    @extend_schema_field(VmHostSerializer)
    def get_host(self, vm: Vm) -> dict[str, Any]:
        request = self.context.get("request")
        sees_fleet = bool(request and request.user.sees_fleet)
        return {"id": vm.host_id if sees_fleet else None, "name": vm.host.name}


class VmDetailSerializer(VmSerializer):
    """A VM, and why a power action is impossible now."""

    blocked_actions = serializers.SerializerMethodField(help_text="Power actions that are impossible now, and why.")

    class Meta(VmSerializer.Meta):
        fields = [*VmSerializer.Meta.fields, "blocked_actions"]

    def get_blocked_actions(self, vm: Vm) -> dict[str, str]:
        return {str(action): why for action, why in vms.blocked_actions(vm).items()}


class VmChange(Body):
    """What of a VM may be changed here."""

    offering = serializers.PrimaryKeyRelatedField(
        queryset=Offering.objects.all(), pk_field=serializers.UUIDField(), allow_null=True, required=False
    )
    template = serializers.PrimaryKeyRelatedField(
        queryset=Template.objects.all(), pk_field=serializers.UUIDField(), allow_null=True, required=False
    )
    pinned = serializers.BooleanField(required=False, help_text="Never moved by CloudOps itself.")


class VmAssign(Body):
    """VMs and the project that they are to belong to."""

    vms = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=500)
    project = serializers.PrimaryKeyRelatedField(
        queryset=Project.objects.all(),
        pk_field=serializers.UUIDField(),
        allow_null=True,
        help_text="Null: they belong to nobody but the fleet.",
    )


class VmsAssigned(serializers.Serializer[Any]):
    """How many VMs changed."""

    changed = serializers.IntegerField()


class PowerBody(Body):
    """A power action. `shutdown` and `reboot` ask the guest; `stop` and `reset` do not."""

    action = serializers.ChoiceField(choices=ACTIONS)
