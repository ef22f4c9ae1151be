"""How room, policies and groups look in the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.core.rest import Body, Shown
from cloudops.inventory.models import Cluster
from cloudops.inventory.serializers import ClusterRef, HostRef, VmRef
from placement import words
from placement.capacity import HostRoom
from placement.models import AffinityGroup, ClusterPolicy, Hold
from placement.policies import FIELDS, MOST_WEIGHT
from placement.reconciling import DriftKind
from placement.spec import ALLOCATORS
from placement.weighers import WEIGHERS

ALLOCATOR_CHOICES = [(name, words.ALLOCATORS[name]) for name in ALLOCATORS]
DRIFT_KINDS = [(str(kind), str(kind)) for kind in DriftKind]
HOLDS = [(value, label) for value, label in Hold.choices if value]
MOST_VMS: Final = 500
MOST_HOSTS: Final = 2_000
LARGEST: Final = 2**31 - 1
COUNTS = serializers.DictField(child=serializers.IntegerField())


@extend_schema_field(
    {
        "type": "object",
        "description": "Weigher to weight, for the allocator `weights`.",
        "properties": {name: {"type": "number", "minimum": -MOST_WEIGHT, "maximum": MOST_WEIGHT} for name in WEIGHERS},
        "additionalProperties": False,
    }
)
class WeightsField(serializers.Field[Any, Any, Any, Any]):
    """Weights by weigher; names and ranges are checked by ``policies.demand_weights``."""

    default_error_messages = {"shape": "Send an object of weighers and numbers."}

    def to_internal_value(self, data: Any) -> dict[str, float]:
        if not isinstance(data, Mapping):
            self.fail("shape")
        for value in data.values():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
                self.fail("shape")
        return {str(name): float(value) for name, value in data.items()}

    def to_representation(self, value: Any) -> Any:
        return value


class RoomSerializer(serializers.Serializer[Any]):
    """CPU and memory: what there is, what may be promised (`*_capacity`), what is (`*_claimed`), what is at work."""

    cpu_threads = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    vcpu_capacity = serializers.IntegerField()
    vcpu_claimed = serializers.IntegerField()
    vcpu_free = serializers.IntegerField(help_text="Below zero where more is promised than may be.")
    vcpu_percent = serializers.FloatField(help_text="Promised, of what may be.")
    memory_capacity_mib = serializers.IntegerField()
    memory_claimed_mib = serializers.IntegerField()
    memory_free_mib = serializers.IntegerField()
    memory_percent = serializers.FloatField()
    used_cpu_percent = serializers.FloatField(allow_null=True, help_text="As the hypervisor reports it.")
    used_memory_mib = serializers.IntegerField(help_text="As the hypervisor reports it.")
    overcommitted = serializers.BooleanField(help_text="More is promised than there really is.")
    over_capacity = serializers.BooleanField(help_text="More is promised than may be.")


class ClusterCapacitySerializer(serializers.Serializer[Any]):
    """A cluster: what its hosts add up to, and how many of them take VMs now."""

    id = serializers.UUIDField(source="cluster_id")
    name = serializers.CharField()
    hosts = serializers.SerializerMethodField()
    takes_vms = serializers.IntegerField(help_text="Hosts that are schedulable, reachable and not held.")
    room = RoomSerializer()

    def get_hosts(self, cluster: Any) -> int:
        return len(cluster.hosts)


class CapacitySerializer(serializers.Serializer[Any]):
    """Every cluster's room."""

    clusters = ClusterCapacitySerializer(many=True)


class HostCapacitySerializer(serializers.Serializer[Any]):
    """A host's room, and whether VMs are placed on it."""

    host = HostRef()
    cluster = ClusterRef(source="host.cluster")
    room = RoomSerializer()
    open = serializers.BooleanField(help_text="Schedulable and reachable.")
    hold = serializers.SerializerMethodField(help_text="Why nothing is placed on it although it is open.")

    @extend_schema_field(serializers.ChoiceField(choices=HOLDS, allow_null=True))
    def get_hold(self, found: HostRoom) -> str | None:
        return found.hold or None


class DriftEntrySerializer(serializers.Serializer[Any]):
    """One difference between claims and what hypervisors report."""

    kind = serializers.ChoiceField(choices=DRIFT_KINDS)
    host_id = serializers.UUIDField()
    host_name = serializers.CharField()
    vm_id = serializers.UUIDField(allow_null=True)
    vm_name = serializers.CharField(allow_blank=True)
    detail = serializers.CharField()
    remedy = serializers.CharField(allow_blank=True, help_text="What people can do; empty where it mends itself.")
    mended = serializers.BooleanField(help_text="Whether it mends itself at the next look.")


class DriftSerializer(serializers.Serializer[Any]):
    """All that differs: how many of each kind, and the first of them, those first that people must see to."""

    count = serializers.IntegerField()
    counts = COUNTS
    differences = DriftEntrySerializer(many=True)


class DriftShown(Body):
    """Which differences are told."""

    kind = serializers.ChoiceField(choices=DRIFT_KINDS, required=False)


class Nothing(Body):
    """No query parameter is known."""


class MendedSerializer(serializers.Serializer[Any]):
    """What became of the differences."""

    mended = serializers.IntegerField()
    left = serializers.IntegerField(help_text="Those that people must see to.")


class EffectivePolicySerializer(serializers.Serializer[Any]):
    """What holds for the cluster: its own values, else the installation's."""

    allocator = serializers.ChoiceField(choices=ALLOCATOR_CHOICES)
    cpu_ratio = serializers.FloatField()
    memory_ratio = serializers.FloatField()
    cpu_reserve_threads = serializers.IntegerField()
    memory_reserve_mib = serializers.IntegerField()
    cpu_threshold_percent = serializers.IntegerField()
    memory_threshold_percent = serializers.IntegerField()


class PolicyBody(Body):
    """How a cluster differs from the installation's settings; null: it does not."""

    allocator = serializers.ChoiceField(choices=ALLOCATOR_CHOICES, allow_null=True, required=False)
    weights = WeightsField(required=False)
    cpu_ratio = serializers.FloatField(min_value=0.1, max_value=64, allow_null=True, required=False)
    memory_ratio = serializers.FloatField(min_value=0.1, max_value=8, allow_null=True, required=False)
    cpu_reserve_threads = serializers.IntegerField(min_value=0, max_value=LARGEST, allow_null=True, required=False)
    memory_reserve_mib = serializers.IntegerField(min_value=0, max_value=LARGEST, allow_null=True, required=False)
    cpu_threshold_percent = serializers.IntegerField(min_value=1, max_value=100, allow_null=True, required=False)
    memory_threshold_percent = serializers.IntegerField(min_value=1, max_value=100, allow_null=True, required=False)


class ClusterPolicySerializer(serializers.Serializer[Any]):
    """A cluster's placement policy: its own values, null where it follows the settings, and what holds by both."""

    id = serializers.UUIDField(help_text="The cluster's.")
    cluster = serializers.SerializerMethodField()
    own = serializers.SerializerMethodField()
    effective = serializers.SerializerMethodField()

    @extend_schema_field(ClusterRef)
    def get_cluster(self, cluster: Cluster) -> Any:
        return ClusterRef(cluster).data

    @extend_schema_field(PolicyBody)
    def get_own(self, cluster: Cluster) -> dict[str, Any]:
        policy = getattr(cluster, "policy", None) or ClusterPolicy(cluster=cluster)
        values: dict[str, Any] = {name: getattr(policy, name) for name in FIELDS}
        return values | {"allocator": policy.allocator or None}

    @extend_schema_field(EffectivePolicySerializer)
    def get_effective(self, cluster: Cluster) -> dict[str, Any]:
        settings, own = self.context["view"].settings_now, self.get_own(cluster)
        otherwise = {
            "allocator": settings.placement_allocator,
            "cpu_ratio": settings.placement_cpu_ratio,
            "memory_ratio": settings.placement_memory_ratio,
            "cpu_reserve_threads": 0,
            "memory_reserve_mib": settings.placement_memory_reserve_mib,
            "cpu_threshold_percent": settings.placement_cpu_threshold_percent,
            "memory_threshold_percent": settings.placement_memory_threshold_percent,
        }
        return {name: value if own[name] is None else own[name] for name, value in otherwise.items()}


class AffinityGroupSerializer(Shown):
    """VMs that belong together on one host, or apart on different ones."""

    vms = VmRef(many=True)
    broken = serializers.SerializerMethodField(help_text="How the rule does not hold now, in words; null when it does.")

    class Meta:
        model = AffinityGroup
        fields = ["id", "name", "kind", "strict", "vms", "broken", "created_at"]

    def get_broken(self, group: AffinityGroup) -> str | None:
        words: str | None = self.context["view"].broken_of(group)
        return words


class AffinityGroupBody(Body):
    """A group's own fields; `vms` are all of its VMs."""

    name = serializers.CharField(max_length=100)
    kind = serializers.ChoiceField(choices=AffinityGroup.Kind.choices)
    strict = serializers.BooleanField(required=False, help_text="False: a preference, never a reason to refuse.")
    vms = serializers.ListField(child=serializers.UUIDField(), max_length=MOST_VMS, required=False)
