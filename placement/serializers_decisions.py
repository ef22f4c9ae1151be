"""How decisions and dry runs look in the API: the gist, every host's verdicts, and what tenants may know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.core.rest import Body, Shown
from cloudops.inventory.models import Cluster, Offering, Template
from cloudops.inventory.serializers import HostRef, VmHostSerializer, VmRef
from placement import decisions, words
from placement.errors import DecisionTooOld
from placement.explaining import Explained
from placement.models import Decision
from placement.serializers import ALLOCATOR_CHOICES, COUNTS, LARGEST, WeightsField

MOST_HOSTS = 2_000


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
    lost = COUNTS
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
            return []
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
