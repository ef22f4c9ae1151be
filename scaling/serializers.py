"""How sizes, plans and resizes look in the API, and what is asked of them."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.accounts.models import Project
from cloudops.core.models import Operation
from cloudops.core.rest import Body, Shown
from cloudops.core.serializers import FailureSerializer, StepSerializer
from cloudops.inventory.models import Cluster, Host, Offering
from cloudops.inventory.serializers import VmRef
from cloudops.inventory.serializers_offerings import OfferingRef
from scaling import telling_resizes
from scaling.forms import MOST_MIB, MOST_VCPUS
from scaling.headroom import Source
from scaling.models import Resize
from scaling.telling import NEXT_START
from scaling.values import GuestSupport, Reach, Resource

REACHES: Final = [(str(one), str(one)) for one in Reach]
HOWS: Final = [(str(one), str(one)) for one in (Reach.LIVE, Reach.MOVE, Reach.RESTART, Reach.NOW)]
MOST_SAMPLES: Final = 2_000


class SizeSerializer(serializers.Serializer[Any]):
    """What a VM has, or is to have."""

    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    cpu_mhz = serializers.IntegerField(help_text="MHz per vCPU; 0: no share is set.")
    cpu_cap = serializers.BooleanField(help_text="Never more than that, even on an idle host.")


class _Bounded(Body):
    vcpus = serializers.IntegerField(min_value=1, max_value=MOST_VCPUS, required=False)
    memory_mib = serializers.IntegerField(min_value=16, max_value=MOST_MIB, required=False)
    cpu_mhz = serializers.IntegerField(min_value=100, max_value=10_000, required=False)


class SizeBody(_Bounded):
    """The size that is wanted: an offering and, where it leaves a choice, numbers. Not sent: the offering's own."""

    offering = serializers.UUIDField()


class WayBody(SizeBody):
    """A size, and the plan that was looked at."""

    plan = serializers.CharField(
        max_length=20_000,
        required=False,
        allow_blank=True,
        help_text="`plan` of a preflight: refused with `plan-outdated` when it is not true any more. "
        "Not sent: whatever the plan is now is carried out, as long as it is reached in this way.",
    )


class ResizeBody(WayBody):
    """A size and the way to it."""

    how = serializers.ChoiceField(
        choices=HOWS,
        help_text="One of the preflight's `ways`. `restart` shuts the VM down and starts it again; it is never "
        "powered off instead.",
    )


class BulkBody(_Bounded):
    """The size that VMs might grow to, and which VMs. Every filter narrows further."""

    offering = serializers.PrimaryKeyRelatedField(
        queryset=Offering.objects.prefetch_related("host_tags"), pk_field=serializers.UUIDField()
    )
    cluster = serializers.PrimaryKeyRelatedField(
        queryset=Cluster.objects.all(), pk_field=serializers.UUIDField(), required=False
    )
    host = serializers.PrimaryKeyRelatedField(
        queryset=Host.objects.all(), pk_field=serializers.UUIDField(), required=False
    )
    project = serializers.PrimaryKeyRelatedField(
        queryset=Project.objects.all(), pk_field=serializers.UUIDField(), required=False
    )
    search = serializers.CharField(max_length=100, required=False, help_text="In the VM's name.")
    reach = serializers.ChoiceField(choices=REACHES, required=False, help_text="Only VMs that get there so.")


class ReasonSerializer(serializers.Serializer[Any]):
    """Why, and the ways out."""

    code = serializers.CharField()
    detail = serializers.CharField(source="words")
    remedies = serializers.ListField(child=serializers.CharField())


class ResourcePlanSerializer(serializers.Serializer[Any]):
    """One resource's verdict, in vCPUs, MiB or MHz per vCPU."""

    resource = serializers.ChoiceField(choices=[(str(one), str(one)) for one in Resource])
    reach = serializers.ChoiceField(choices=REACHES)
    current = serializers.IntegerField()
    wanted = serializers.IntegerField()
    given = serializers.IntegerField(help_text="`wanted` rounded up to what can be had.")
    ceiling = serializers.IntegerField(allow_null=True, help_text="The most it could have while it runs.")
    step = serializers.IntegerField(allow_null=True)
    free_slots = serializers.IntegerField(allow_null=True)
    free_here = serializers.IntegerField(allow_null=True, help_text="On its host; for people who see the fleet.")
    guest = serializers.ChoiceField(
        choices=[(str(one), str(one)) for one in GuestSupport], help_text="Whether the guest follows the change."
    )
    reasons = ReasonSerializer(many=True)


class PlanSerializer(serializers.Serializer[Any]):
    """How a VM gets to a size, before anything is touched."""

    reach = serializers.ChoiceField(choices=REACHES, help_text="The worst of the resources'.")
    headline = serializers.CharField()
    given = SizeSerializer()
    moves = serializers.BooleanField(help_text="It goes to another host first.")
    ways = serializers.SerializerMethodField(help_text="What may be sent as `how`, and `next-start`.")
    resources = ResourcePlanSerializer(many=True)
    reasons = ReasonSerializer(many=True)
    plan = serializers.CharField(source="token", help_text="Send it along to have just this plan carried out.")

    @extend_schema_field({"type": "array", "items": {"type": "string", "enum": [*dict(HOWS), NEXT_START]}})
    def get_ways(self, told: Any) -> list[str]:
        return [*map(str, told.ways), *([NEXT_START] if told.next_start else [])]


class OfferingReachSerializer(serializers.Serializer[Any]):
    """One offering, and how the VM gets to it. Where it leaves a choice, the size nearest to the VM's is judged."""

    offering = OfferingRef()
    reach = serializers.ChoiceField(source="plan.reach", choices=REACHES)
    headline = serializers.CharField(source="plan.headline")
    given = SizeSerializer(source="plan.given")
    moves = serializers.BooleanField(source="plan.moves")
    reasons = ReasonSerializer(source="plan.reasons", many=True)


class MatrixSerializer(serializers.Serializer[Any]):
    """Every offering that the VM could have."""

    vm = VmRef()
    size = SizeSerializer()
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="Offerings by reach.")
    offerings = OfferingReachSerializer(many=True)


class SizeVerdictSerializer(serializers.Serializer[Any]):
    """One VM, and how it gets to the size."""

    vm = VmRef()
    reach = serializers.ChoiceField(source="plan.reach", choices=REACHES)
    given = SizeSerializer(source="plan.given")
    moves = serializers.BooleanField(source="plan.moves")
    reasons = ReasonSerializer(source="plan.reasons", many=True)


class BulkSerializer(serializers.Serializer[Any]):
    """Which VMs could grow to a size."""

    size = SizeSerializer()
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="VMs by reach.")
    truncated = serializers.BooleanField(help_text="There are more VMs than are judged at once; narrow the question.")
    vms = SizeVerdictSerializer(many=True)


class CeilingSerializer(serializers.Serializer[Any]):
    """The most that a VM could have while it runs."""

    max_vcpus = serializers.IntegerField()
    max_memory_mib = serializers.IntegerField()


class WantedCeilingSerializer(CeilingSerializer):
    """The ceiling that it is to get at its next start."""

    source = serializers.ChoiceField(  # type: ignore[assignment]
        choices=[(str(one), str(one)) for one in Source], help_text="Whose headroom it is."
    )
    capped = serializers.BooleanField(help_text="Its host has no more.")


class LackSerializer(serializers.Serializer[Any]):
    """What its present ceiling misses, and what preparing would change in its definition."""

    words = serializers.ListField(child=serializers.CharField())
    changes = serializers.ListField(child=serializers.CharField())
    waits = serializers.BooleanField(help_text="It is prepared already and gets it at its next start.")


class NextStartSerializer(serializers.Serializer[Any]):
    """What waits for its next start: a stop and a start, as a restart from inside the guest does not do."""

    size = SizeSerializer(allow_null=True)
    offering = OfferingRef(allow_null=True)
    headroom = serializers.BooleanField(help_text="It gets room to grow live.")
    requested_by_name = serializers.CharField(allow_blank=True)
    requested_at = serializers.DateTimeField(allow_null=True)


class VmSizeSerializer(serializers.Serializer[Any]):
    """A VM's size: what it has and was given, how far it can grow, and what waits for its next start."""

    vm = VmRef()
    size = SizeSerializer(help_text="What it has.")
    wanted = SizeSerializer(help_text="What it was given.")
    guest_memory_mib = serializers.IntegerField(allow_null=True, help_text="What its guest last said; null: nothing.")
    ceiling = CeilingSerializer(allow_null=True, help_text="Null: its hypervisor does not tell.")
    next_ceiling = WantedCeilingSerializer()
    lack = LackSerializer(allow_null=True)
    next_start = NextStartSerializer(allow_null=True)


class HistoryParameters(Body):
    """Which part of the history."""

    since = serializers.DateTimeField(required=False, help_text="Not sent: a week ago.")
    until = serializers.DateTimeField(required=False, help_text="Not sent: now.")


class SampleSerializer(serializers.Serializer[Any]):
    """A VM's size from one moment until the next sample."""

    at = serializers.DateTimeField()
    wanted_vcpus = serializers.IntegerField()
    wanted_memory_mib = serializers.IntegerField()
    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    guest_memory_mib = serializers.IntegerField(allow_null=True)


class HistorySerializer(serializers.Serializer[Any]):
    """The sizes that a VM had, oldest first; the first sample is what it had at `since`."""

    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    samples = SampleSerializer(many=True)


class ResizeSerializer(Shown):
    """One change of one VM's size. Its id is that of the operation that carries it out."""

    id = serializers.UUIDField(source="row.pk")
    vm = VmRef(source="row.vm")
    how = serializers.ChoiceField(source="row.mode", choices=Resize.Mode.choices)
    moves = serializers.BooleanField(source="row.moves")
    offering_name = serializers.CharField(source="row.offering_name")
    before = SizeSerializer(source="row.from_size")
    wanted = SizeSerializer(source="row.to_size")
    given = SizeSerializer(source="row.given_size")
    phase = serializers.ChoiceField(source="row.phase", choices=Resize.Phase.choices)
    outcome = serializers.ChoiceField(source="row.outcome", choices=Resize.Outcome.choices, allow_blank=True)
    guest = serializers.CharField(source="words", help_text="What the guest has of it, in words.")
    status = serializers.ChoiceField(source="operation.status", choices=Operation.Status.choices)
    progress_percent = serializers.IntegerField(source="operation.progress_percent")
    steps = StepSerializer(source="operation.steps", many=True)
    error = serializers.SerializerMethodField(help_text="Set when it did not end well.")
    may_continue = serializers.BooleanField(help_text="It was applied in part: continue, or roll back.")
    requested_by_name = serializers.CharField(source="operation.requested_by_name")
    created_at = serializers.DateTimeField(source="row.created_at")
    ended_at = serializers.DateTimeField(source="row.ended_at", allow_null=True)

    class Meta:
        model = Resize
        fields = [
            "id",
            "vm",
            "how",
            "moves",
            "offering_name",
            "before",
            "wanted",
            "given",
            "phase",
            "outcome",
            "guest",
            "status",
            "progress_percent",
            "steps",
            "error",
            "may_continue",
            "requested_by_name",
            "created_at",
            "ended_at",
        ]

    def to_representation(self, instance: Resize) -> Any:
        return super().to_representation(telling_resizes.line(self.context["request"].user, instance))

    @extend_schema_field(FailureSerializer(allow_null=True))
    def get_error(self, told: Any) -> dict[str, str] | None:
        operation = told.operation
        if not operation.error_code:
            return None
        return {"code": operation.error_code, "detail": operation.error_detail, "remedy": operation.error_remedy}


class HeadroomBody(Body):
    """How far VMs can grow live; null follows what is above: the cluster, then the settings."""

    memory_factor = serializers.FloatField(min_value=1, max_value=16, allow_null=True, required=False)
    vcpu_factor = serializers.FloatField(min_value=1, max_value=16, allow_null=True, required=False)
    max_memory_mib = serializers.IntegerField(
        min_value=16, max_value=MOST_MIB, allow_null=True, required=False, help_text="Instead of the multiple."
    )
    max_vcpus = serializers.IntegerField(
        min_value=1, max_value=MOST_VCPUS, allow_null=True, required=False, help_text="Instead of the multiple."
    )


class VmHeadroomBody(HeadroomBody):
    """One VM's headroom, and whether it may be resized while it runs at all."""

    dynamic_scaling = serializers.BooleanField(required=False, help_text="False: never while it runs.")


class HeadroomSerializer(serializers.Serializer[Any]):
    """Headroom settings; null follows what is above."""

    memory_factor = serializers.FloatField(allow_null=True, help_text="How many times the offering's memory.")
    vcpu_factor = serializers.FloatField(allow_null=True, help_text="How many times the offering's vCPUs.")
    max_memory_mib = serializers.IntegerField(allow_null=True, help_text="Instead of the multiple.")
    max_vcpus = serializers.IntegerField(allow_null=True, help_text="Instead of the multiple.")


class VmHeadroomSerializer(HeadroomSerializer):
    """One VM's headroom, and the ceiling that comes of everything."""

    dynamic_scaling = serializers.BooleanField(source="vm.dynamic_scaling")
    next_ceiling = WantedCeilingSerializer()
