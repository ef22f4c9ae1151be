"""How migrations look in the API, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.core import runtime
from cloudops.core.errors import Refusal
from cloudops.core.models import Operation
from cloudops.core.rest import Body, Shown
from cloudops.core.serializers import FailureSerializer, StepSerializer
from cloudops.inventory.models import Host
from cloudops.inventory.serializers import ClusterRef, HostRef, VmRef
from placement.foresight import MOST_VMS, Destinations, Place
from placement.models import VmMigration
from placement.vm_migrations import Options

RELAXATIONS: Final = ("force_pinned", "copy_storage", "drop_soft_tags", "across_clusters")


class Relaxations(Body):
    """What may be given up, so that more hosts fit."""

    force_pinned = serializers.BooleanField(required=False, help_text="Although it is pinned.")
    copy_storage = serializers.BooleanField(required=False, help_text="With its local disks; slower.")
    drop_soft_tags = serializers.BooleanField(required=False, help_text="Without its soft tags.")
    across_clusters = serializers.BooleanField(required=False, help_text="Not sent: as the settings say.")


class _MigrationOptions(Relaxations):
    host = serializers.PrimaryKeyRelatedField(
        queryset=Host.objects.select_related("endpoint"),
        pk_field=serializers.UUIDField(),
        allow_null=True,
        required=False,
        help_text="Null or not sent: the best host that fits.",
    )
    bandwidth_mib_per_second = serializers.IntegerField(
        min_value=0, max_value=1_000_000, required=False, help_text="At most so much; 0: no limit."
    )
    downtime_milliseconds = serializers.IntegerField(
        min_value=1, max_value=60_000, required=False, help_text="How long the guest may stand still at the end."
    )
    timeout_seconds = serializers.IntegerField(
        min_value=10, max_value=86_400, required=False, help_text="Then it is aborted and stays where it is."
    )
    auto_converge = serializers.BooleanField(required=False, help_text="Slow a busy guest down until it arrives.")
    post_copy = serializers.BooleanField(
        required=False,
        help_text="Go on at the destination before all memory is there. Should the network or a host fail meanwhile, "
        "the guest is lost as if its power had failed.",
    )


class MigrationBody(_MigrationOptions):
    """Where a VM is to go, and how. What is not sent is as the settings say."""


class BulkMigrationBody(_MigrationOptions):
    """VMs that are to go to one host, or each to its best one. What is not sent is as the settings say."""

    vms = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=MOST_VMS)


def options_of(wanted: Mapping[str, Any]) -> Options:
    """The settings' values, except those that were sent."""
    return Options.of(runtime.current(), **wanted)


class ProgressSerializer(serializers.Serializer[Any]):
    """How far the copying is, as the hypervisor reports it."""

    memory_total_mib = serializers.IntegerField(default=0)
    memory_remaining_mib = serializers.IntegerField(default=0)
    memory_sent_mib = serializers.IntegerField(default=0)
    rate_mib_per_second = serializers.FloatField(default=0.0)
    downtime_milliseconds = serializers.FloatField(
        allow_null=True, default=None, help_text="How long the guest stood still; null while that is not known."
    )
    elapsed_seconds = serializers.FloatField(default=0.0)
    post_copy = serializers.BooleanField(default=False, help_text="It runs at the destination already.")
    percent = serializers.IntegerField(default=0)


class MigrationSerializer(Shown):
    """One migration of one VM. Its id is that of the operation that carries it out."""

    id = serializers.UUIDField(source="operation_id")
    vm = VmRef()
    source = HostRef()  # type: ignore[assignment]
    target = HostRef()
    decision = serializers.UUIDField(source="decision_id", allow_null=True)
    maintenance = serializers.UUIDField(source="maintenance_id", allow_null=True)
    status = serializers.ChoiceField(source="operation.status", choices=Operation.Status.choices)
    steps = StepSerializer(source="operation.steps", many=True)
    requested_by_name = serializers.CharField(source="operation.requested_by_name")
    progress = serializers.SerializerMethodField(help_text="Null before copying begins.")
    error = serializers.SerializerMethodField(help_text="Set when it failed or was aborted.")

    class Meta:
        model = VmMigration
        fields = [
            "id",
            "vm",
            "source",
            "target",
            "mode",
            "phase",
            "status",
            "steps",
            "progress",
            "error",
            "decision",
            "maintenance",
            "requested_by_name",
            "abort_requested_at",
            "abort_requested_by",
            "created_at",
            "copying_since",
            "ended_at",
        ]

    @extend_schema_field(ProgressSerializer(allow_null=True))
    def get_progress(self, migration: VmMigration) -> Any:
        if "memory_total_mib" not in migration.progress:
            return None
        return ProgressSerializer(migration.progress).data

    @extend_schema_field(FailureSerializer(allow_null=True))
    def get_error(self, migration: VmMigration) -> dict[str, str] | None:
        operation = migration.operation
        if not operation.error_code:
            return None
        return {"code": operation.error_code, "detail": operation.error_detail, "remedy": operation.error_remedy}


def failure_of(refusal: Refusal) -> dict[str, str]:
    """A refusal as :class:`FailureSerializer` shows it."""
    return {"code": refusal.code, "detail": refusal.detail, "remedy": refusal.remedy_text}


class OutcomeSerializer(serializers.Serializer[Any]):
    """What became of one VM: a migration, or why not."""

    vm = VmRef()
    migration = serializers.UUIDField(allow_null=True)
    error = FailureSerializer(allow_null=True)


class OutcomesSerializer(serializers.Serializer[Any]):
    """What became of each VM, in the order in which they were named."""

    started = serializers.IntegerField()
    refused = serializers.IntegerField()
    outcomes = OutcomeSerializer(many=True)


class TargetSerializer(serializers.Serializer[Any]):
    """One host: whether the VM fits there and how well, or why not and what would help."""

    host = HostRef()
    cluster = ClusterRef(source="host.cluster")
    fits = serializers.BooleanField()
    score = serializers.FloatField(allow_null=True)
    reasons = serializers.ListField(child=serializers.CharField())
    remedies = serializers.ListField(child=serializers.CharField())
    free_vcpus = serializers.IntegerField()
    free_memory_mib = serializers.IntegerField()
    left_vcpus = serializers.IntegerField(help_text="With the VM on it.")
    left_memory_mib = serializers.IntegerField(help_text="With the VM on it.")


class TargetsSerializer(serializers.Serializer[Any]):
    """Where a VM could go, the best first, then those that lack least; and what refuses the move wherever it goes."""

    live = serializers.BooleanField(help_text="Whether it would go on running meanwhile.")
    obstacle = FailureSerializer(allow_null=True)
    fits = serializers.IntegerField()
    targets = TargetSerializer(many=True)


def targets_told(found: Destinations) -> dict[str, Any]:
    """Destinations as :class:`TargetsSerializer` shows them."""
    return {
        "live": found.live,
        "obstacle": None if found.obstacle is None else failure_of(found.obstacle),
        "fits": len(found.fits),
        "targets": [_target(one) for one in (*found.fits, *found.others)],
    }


def _target(place: Place) -> dict[str, Any]:
    of_candidate = ("host", "fits", "score", "reasons", "remedies")
    of_place = ("free_vcpus", "free_memory_mib", "left_vcpus", "left_memory_mib")
    told = {name: getattr(place.candidate, name) for name in of_candidate}
    return told | {name: getattr(place, name) for name in of_place}


class ReasonBody(Body):
    """Why, for the people who read it later."""

    reason = serializers.CharField(max_length=500)


class OptionalReasonBody(Body):
    """Why, for the people who read it later."""

    reason = serializers.CharField(max_length=500, allow_blank=True, default="")
