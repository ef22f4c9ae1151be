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
from cloudops.inventory.models import Cluster, Endpoint, Host, Offering, Template, Vm
from cloudops.inventory.serializers_offerings import OfferingRef, TagsField, TemplateRef

ACTIONS = [(item.value, item.value) for item in PowerAction]
MAX_POSITION = 2**31 - 1


class ClusterRef(Shown):
    """A cluster by id and name."""

    class Meta:
        model = Cluster
        fields = ["id", "name"]


class ClusterSerializer(Shown):
    """Hosts among which VMs may move freely."""

    class Meta:
        model = Cluster
        fields = ["id", "name", "description", "position"]


class ClusterBody(Body):
    """A cluster's own fields."""

    name = serializers.CharField(max_length=100)
    description = serializers.CharField(max_length=10_000, allow_blank=True, required=False)
    position = serializers.IntegerField(
        min_value=0, max_value=MAX_POSITION, required=False, help_text="Order on the screens."
    )


class EndpointSerializer(Shown):
    """The management endpoint behind a host; its secret is never given back."""

    has_secret = serializers.SerializerMethodField()

    class Meta:
        model = Endpoint
        fields = [
            "id",
            "kind",
            "uri",
            "username",
            "has_secret",
            "certificate_sha256",
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
    tags = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)  # type: ignore[var-annotated]
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


class _EndpointBody(Body):
    uri = serializers.CharField(max_length=500, help_text="For example `qemu+tls://kvm-01.example.org/system`.")
    username = serializers.CharField(max_length=200, allow_blank=True, required=False)
    secret = serializers.CharField(
        max_length=10_000,
        allow_blank=True,
        required=False,
        trim_whitespace=False,
        write_only=True,
        help_text="Password; stored encrypted, never given back.",
    )
    certificate_sha256 = serializers.CharField(max_length=95, allow_blank=True, required=False)
    timeout_seconds = serializers.IntegerField(
        min_value=1, max_value=120, required=False, help_text="Deadline of every call to it."
    )
    management_address = serializers.CharField(
        max_length=255,
        allow_blank=True,
        required=False,
        help_text="Where the console proxy reaches the host. Empty: the address in the URI.",
    )


class ConnectionTest(_EndpointBody):
    """A management endpoint to try; nothing is saved."""

    kind = serializers.ChoiceField(choices=Endpoint.KINDS)


class _HostFields(_EndpointBody):
    vnc_listen_address = serializers.CharField(
        max_length=255, required=False, help_text="Where guests' VNC servers listen."
    )
    migration_uri = serializers.CharField(
        max_length=500,
        allow_blank=True,
        required=False,
        help_text="Where other hosts' hypervisors send this one VMs. Empty: its own URI, if that works from elsewhere.",
    )
    console_limit_override = serializers.IntegerField(
        min_value=1,
        max_value=10_000,
        allow_null=True,
        required=False,
        help_text="Consoles that may be open on this host. Null: the installation's limit.",
    )
    tags = TagsField(required=False)


class HostCreate(_HostFields):
    """A management endpoint whose hosts are to be added."""

    kind = serializers.ChoiceField(choices=Endpoint.KINDS)
    cluster = serializers.PrimaryKeyRelatedField(queryset=Cluster.objects.all(), pk_field=serializers.UUIDField())
    force = serializers.BooleanField(default=False, help_text="Add it even though it cannot be reached now.")


class HostChange(_HostFields):
    """What of a host may be changed; a secret that is not sent stays as it is."""

    name = serializers.CharField(max_length=200, required=False)
    cluster = serializers.PrimaryKeyRelatedField(
        queryset=Cluster.objects.all(), pk_field=serializers.UUIDField(), required=False
    )
    cpu_threads_override = serializers.IntegerField(
        min_value=1, max_value=MAX_POSITION, allow_null=True, required=False
    )
    memory_mib_override = serializers.IntegerField(min_value=1, max_value=MAX_POSITION, allow_null=True, required=False)


class HostRemoval(Body):
    """How far removing a host goes."""

    force = serializers.BooleanField(default=False, help_text="Also while consoles are open on it; they end.")
    whole_endpoint = serializers.BooleanField(default=False, help_text="With every host behind the same endpoint.")


class HostsAdded(serializers.Serializer[Any]):
    """The hosts found behind the new endpoint."""

    hosts = HostSerializer(many=True)


class CordonBody(Body):
    """Why no new VMs are to be placed on the host."""

    reason = serializers.CharField(max_length=500, allow_blank=True, default="")


class ProbeStepSerializer(serializers.Serializer[Any]):
    """One step of a connection test."""

    name = serializers.CharField()
    ok = serializers.BooleanField()
    detail = serializers.CharField(allow_blank=True)
    remedy = serializers.CharField(allow_blank=True)
    elapsed_ms = serializers.FloatField()


class HostFactsSerializer(serializers.Serializer[Any]):
    """A host as its hypervisor reports it."""

    ref = serializers.CharField()
    name = serializers.CharField()
    cpu_threads = serializers.IntegerField()
    cpu_mhz = serializers.IntegerField()
    cpu_model = serializers.CharField(allow_blank=True)
    memory_mib = serializers.IntegerField()
    memory_free_mib = serializers.IntegerField()
    hypervisor_version = serializers.CharField(allow_blank=True)


class ProbeSerializer(serializers.Serializer[Any]):
    """A connection test: its steps, the last one fails when it is not ok, and what was found."""

    ok = serializers.BooleanField()
    steps = ProbeStepSerializer(many=True)
    hosts = HostFactsSerializer(many=True)
    vm_count = serializers.IntegerField()


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
