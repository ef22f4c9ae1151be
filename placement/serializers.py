"""How room, policies, groups and decisions look in the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.core.rest import Body, Shown
from cloudops.inventory.models import Cluster, Offering, Template
from cloudops.inventory.serializers import ClusterRef, HostRef, VmHostSerializer, VmRef
from placement import decisions, words
from placement.capacity import HostRoom
from placement.errors import DecisionTooOld
from placement.explaining import Explained
from placement.models import AffinityGroup, ClusterPolicy, Decision, Hold
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
_COUNTS = serializers.DictField(child=serializers.IntegerField())


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
    counts = _COUNTS
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


class VerdictSerializer(serializers.Serializer[Any]):
    """One filter's verdict on one host. `needed` and `available` are numbers, words or lists, as the filter has it."""

    filter = serializers.CharField()
    title = serializers.CharField()
    passed = serializers.BooleanField()
    needed = serializers.JSONField(allow_null=True)
    available = serializers.JSONField(allow_null=True)
    missing = serializers.ListField(child=serializers.CharField())
    words = serializers.CharField(allow_blank=True)


class JudgedHostSerializer(serializers.Serializer[Any]):
    """One host with every filter's verdict; `score` where it fits."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    fits = serializers.BooleanField()
    chosen = serializers.BooleanField()
    score = serializers.FloatField(allow_null=True)
    reasons = serializers.ListField(child=serializers.CharField(), help_text="Why not, in words.")
    remedies = serializers.ListField(child=serializers.CharField(), help_text="What would let it fit.")
    verdicts = VerdictSerializer(many=True)


class JudgedClusterSerializer(serializers.Serializer[Any]):
    """One cluster in the order in which they were looked at. `lost`: how many hosts fell to which filter."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    rank = serializers.IntegerField()
    considered = serializers.IntegerField()
    fit = serializers.IntegerField()
    lost = _COUNTS
    hosts = JudgedHostSerializer(many=True, help_text="The best first, then those that lack least.")


class NearestSerializer(serializers.Serializer[Any]):
    """The host that lacks least, why it does not fit, and the smallest change that would let it."""

    host_id = serializers.UUIDField()
    host_name = serializers.CharField()
    cluster = serializers.CharField()
    reasons = serializers.ListField(child=serializers.CharField())
    remedies = serializers.ListField(child=serializers.CharField())


class HostsShown(Body):
    """Which hosts' verdicts are told."""

    cluster = serializers.UUIDField(required=False, help_text="Only this cluster's hosts.")
    skip = serializers.IntegerField(min_value=0, max_value=LARGEST, default=0, help_text="Of each cluster.")
    hosts = serializers.IntegerField(
        min_value=0, max_value=MOST_HOSTS, default=25, help_text="Hosts told per cluster, after those skipped."
    )


def nearest_told(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The nearest miss of a decision's summary."""
    miss = summary["nearest"]
    if miss is None:
        return None
    return {
        "host_id": miss["host"],
        "host_name": miss["name"],
        "cluster": miss["cluster"],
        "reasons": list(miss["words"]),
        "remedies": [words.remedy(change, miss["name"]) for change in miss["changes"]],
    }


def clusters_told(explained: Explained, shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every cluster with as many of its hosts as were asked for; ``shown`` as :class:`HostsShown` has it."""
    wanted = str(shown["cluster"]) if "cluster" in shown else None
    told = []
    for cluster in explained.clusters:
        if wanted in (None, cluster.id):
            hosts = explained.ranked(cluster.id, skip=shown["skip"], take=shown["hosts"])
            told.append({**_plain(cluster), "hosts": JudgedHostSerializer(hosts, many=True).data})
    return told


def _plain(cluster: Any) -> dict[str, Any]:
    names = ("id", "name", "rank", "considered", "fit")
    return {**{name: getattr(cluster, name) for name in names}, "lost": dict(cluster.lost)}


class DecisionSerializer(Shown):
    """A placement decision. Tenants see those on their own VMs, in words that reveal no host; the rest is null."""

    vm = VmRef(allow_null=True)
    host = serializers.SerializerMethodField(help_text="The chosen one; its id is null once it was removed.")
    words = serializers.SerializerMethodField()
    requested_by_name = serializers.CharField(allow_null=True)
    operation = serializers.UUIDField(source="operation_id", allow_null=True)
    allocator = serializers.CharField(allow_null=True)
    hosts_considered = serializers.IntegerField(allow_null=True)
    hosts_fit = serializers.IntegerField(allow_null=True)
    lost = serializers.SerializerMethodField(help_text="How many hosts fell to which filter.")
    nearest = serializers.SerializerMethodField()

    FLEET_ONLY: ClassVar[tuple[str, ...]] = (
        "host",
        "requested_by_name",
        "allocator",
        "hosts_considered",
        "hosts_fit",
        "lost",
        "nearest",
    )

    class Meta:
        model = Decision
        fields = [
            "id",
            "at",
            "purpose",
            "outcome",
            "vm",
            "vm_name",
            "project_id",
            "host",
            "words",
            "requested_by_name",
            "operation",
            "allocator",
            "hosts_considered",
            "hosts_fit",
            "lost",
            "nearest",
        ]

    @property
    def sees_fleet(self) -> bool:
        return bool(self.context["request"].user.sees_fleet)

    def to_representation(self, instance: Decision) -> Any:
        told = super().to_representation(instance)
        return told if self.sees_fleet else {**told, **dict.fromkeys(self.FLEET_ONLY)}

    @extend_schema_field(VmHostSerializer(allow_null=True))
    def get_host(self, decision: Decision) -> dict[str, Any] | None:
        return {"id": decision.host_id, "name": decision.host_name} if decision.host_name else None

    def get_words(self, decision: Decision) -> list[str]:
        return [words.gist(decision.summary)] if self.sees_fleet else list(decisions.for_tenant(decision))

    @extend_schema_field(serializers.DictField(child=serializers.IntegerField(), allow_null=True))
    def get_lost(self, decision: Decision) -> dict[str, int]:
        lost: dict[str, int] = decision.summary["lost"]
        return lost

    @extend_schema_field(NearestSerializer(allow_null=True))
    def get_nearest(self, decision: Decision) -> dict[str, Any] | None:
        return nearest_told(decision.summary)


class DecisionDetailSerializer(DecisionSerializer):
    """A decision with every host's verdicts, made again on the fleet as it was."""

    asked = serializers.SerializerMethodField(help_text="What was asked, as it was decided on.")
    exact = serializers.SerializerMethodField(
        help_text="Whether it came out again as it was stored; null once the fleet it was made on is not kept."
    )
    clusters = serializers.SerializerMethodField()

    FLEET_ONLY = (*DecisionSerializer.FLEET_ONLY, "asked", "exact", "clusters")

    class Meta(DecisionSerializer.Meta):
        fields = [*DecisionSerializer.Meta.fields, "asked", "exact", "clusters"]

    def to_representation(self, instance: Decision) -> Any:
        self.explained: Explained | None = None
        if self.sees_fleet:
            try:
                self.explained = decisions.explain(instance)
            except DecisionTooOld:
                self.explained = None
        return super().to_representation(instance)

    def get_words(self, decision: Decision) -> list[str]:
        return super().get_words(decision) if self.explained is None else [self.explained.words]

    @extend_schema_field(serializers.DictField(child=serializers.JSONField(allow_null=True), allow_null=True))
    def get_asked(self, decision: Decision) -> dict[str, Any]:
        return dict(decision.spec)

    @extend_schema_field(serializers.BooleanField(allow_null=True))
    def get_exact(self, decision: Decision) -> bool | None:
        return None if self.explained is None else self.explained.exact

    @extend_schema_field(JudgedClusterSerializer(many=True, allow_null=True))
    def get_clusters(self, decision: Decision) -> list[dict[str, Any]]:
        if self.explained is None:
            return [{**cluster, "hosts": []} for cluster in decision.summary["clusters"]]
        return clusters_told(self.explained, self.context["shown"])


class PlacementBody(Body):
    """What a place is sought for: a VM that there is, or one of an offering (and a template)."""

    vm = serializers.UUIDField(required=False)
    offering = serializers.PrimaryKeyRelatedField(
        queryset=Offering.objects.all(), pk_field=serializers.UUIDField(), required=False
    )
    template = serializers.PrimaryKeyRelatedField(
        queryset=Template.objects.all(), pk_field=serializers.UUIDField(), required=False
    )
    cluster = serializers.PrimaryKeyRelatedField(
        queryset=Cluster.objects.all(), pk_field=serializers.UUIDField(), required=False, help_text="Its home."
    )
    across_clusters = serializers.BooleanField(
        required=False, help_text="Whether it may leave its home cluster. Not sent: as the settings say."
    )
    allocator = serializers.ChoiceField(choices=ALLOCATOR_CHOICES, required=False)
    weights = WeightsField(required=False)
    drop_soft_tags = serializers.BooleanField(required=False, help_text="Only for a VM.")
    copy_storage = serializers.BooleanField(required=False, help_text="Only for a VM: with its local disks.")
    hosts = serializers.IntegerField(min_value=0, max_value=MOST_HOSTS, default=25, help_text="Hosts told per cluster.")


class PlacementSerializer(serializers.Serializer[Any]):
    """Where it would go now; nothing was taken. Tenants learn whether there is a place, and the words."""

    fits = serializers.BooleanField()
    words = serializers.ListField(child=serializers.CharField())
    host = HostRef(allow_null=True)
    allocator = serializers.CharField(allow_null=True)
    hosts_considered = serializers.IntegerField(allow_null=True)
    hosts_fit = serializers.IntegerField(allow_null=True)
    lost = serializers.DictField(child=serializers.IntegerField(), allow_null=True)
    nearest = NearestSerializer(allow_null=True)
    clusters = JudgedClusterSerializer(many=True, allow_null=True)
