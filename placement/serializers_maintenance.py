"""How maintenance jobs and their previews look in the API, and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.core.errors import NotFound
from cloudops.core.rest import Body, Shown
from cloudops.inventory.models import Cluster, Host
from cloudops.inventory.serializers import HostRef, VmRef
from placement.maintenance import Choice, Mode, Options, VmChoice
from placement.maintenance.errors import HostNeeded
from placement.maintenance.options import RELAXATIONS
from placement.models import Maintenance, MaintenanceHost, MaintenanceMove, MoveStatus

MOST_HOSTS: Final = 1_000
MOST_CHOICES: Final = 1_000
AS_PLANNED: Final = "as-planned"
RELAXED_CHOICES: Final = [(str(choice), choice.label) for choice in Choice if choice in RELAXATIONS]
MAIN_CHOICES: Final = [(str(choice) or AS_PLANNED, choice.label) for choice in Choice if choice not in RELAXATIONS]
CHOICES: Final = [(str(choice) or AS_PLANNED, choice.label) for choice in Choice]
START_MODES: Final = [(str(mode), mode.label) for mode in (Mode.MAINTENANCE, Mode.DRAIN)]
_RELAXED = serializers.ListField(child=serializers.ChoiceField(choices=RELAXED_CHOICES))


def as_choice(word: str) -> str:
    """What the domain calls it."""
    return str(Choice.NONE) if word == AS_PLANNED else word


class VmChoiceBody(Body):
    """What is chosen for one VM, instead of what the plan would do."""

    vm = serializers.UUIDField()
    choice = serializers.ChoiceField(choices=MAIN_CHOICES, default=AS_PLANNED)
    host = serializers.UUIDField(allow_null=True, default=None, help_text="With the choice `host`.")
    relaxed = serializers.ListField(
        child=serializers.ChoiceField(choices=RELAXED_CHOICES), max_length=len(RELAXED_CHOICES), default=list
    )


class PreviewBody(Body):
    """Which hosts are to be emptied, and how."""

    hosts = serializers.ListField(child=serializers.UUIDField(), max_length=MOST_HOSTS, required=False)
    cluster = serializers.PrimaryKeyRelatedField(
        queryset=Cluster.objects.all(),
        pk_field=serializers.UUIDField(),
        required=False,
        help_text="All of its hosts, when none are named.",
    )
    mode = serializers.ChoiceField(choices=START_MODES, default=str(Mode.MAINTENANCE))
    across_clusters = serializers.BooleanField(
        allow_null=True, default=None, help_text="Null: as the installation's settings say."
    )
    move_powered_off = serializers.BooleanField(default=False, help_text="VMs that are off are moved too.")
    hosts_at_once = serializers.IntegerField(
        min_value=0, max_value=MOST_HOSTS, default=0, help_text="Of several hosts, so many at a time; 0: all."
    )
    host_parallel = serializers.IntegerField(
        min_value=1, max_value=64, allow_null=True, default=None, help_text="Null: the installation's limit."
    )
    choices = serializers.ListField(child=VmChoiceBody(), max_length=MOST_CHOICES, default=list)


class MaintenanceBody(PreviewBody):
    """Which hosts are to be emptied, how, and why."""

    title = serializers.CharField(max_length=200, allow_blank=True, default="")
    reason = serializers.CharField(max_length=500, allow_blank=True, default="")


def hosts_of(wanted: Mapping[str, Any]) -> list[UUID]:
    """The hosts that are named, or all of the cluster that is."""
    if "hosts" in wanted or "cluster" not in wanted:
        return list(wanted.get("hosts", ()))
    return list(wanted["cluster"].hosts.values_list("pk", flat=True))


def options_of(wanted: Mapping[str, Any]) -> Options:
    """The body as the domain has it. Raises :class:`NotFound` for a host that there is not, ``HostNeeded``."""
    asked = [one["host"] for one in wanted["choices"] if one["host"] is not None]
    if unknown := set(asked) - set(Host.objects.filter(pk__in=asked).values_list("pk", flat=True)):
        raise NotFound(f"{len(unknown)} of the chosen hosts do not exist.", hosts=sorted(map(str, unknown)))
    names = ("mode", "across_clusters", "move_powered_off", "hosts_at_once", "host_parallel")
    choices = {one["vm"]: _choice(one) for one in wanted["choices"]}
    return Options(**{name: wanted[name] for name in names}, choices=choices)


def _choice(one: Mapping[str, Any]) -> VmChoice:
    main = as_choice(one["choice"])
    if main == Choice.HOST and one["host"] is None:
        raise HostNeeded
    return VmChoice(main, one["host"] if main == Choice.HOST else None, frozenset(one["relaxed"]))


class AmountSerializer(serializers.Serializer[Any]):
    """CPU and memory promised on a host at one moment."""

    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()


class RemedySerializer(serializers.Serializer[Any]):
    """One way out: what to send as `choice` (or in `relaxed`) and `host`."""

    choice = serializers.ChoiceField(choices=CHOICES)
    label = serializers.CharField()  # type: ignore[assignment]
    host_id = serializers.SerializerMethodField()
    host_name = serializers.CharField(allow_blank=True, default="")
    admin_only = serializers.BooleanField(default=False, help_text="It stops the VM, and needs `hosts.fence`.")

    def to_representation(self, instance: Any) -> Any:
        told = super().to_representation(instance)
        return {**told, "choice": told["choice"] or AS_PLANNED}

    @extend_schema_field(serializers.UUIDField(allow_null=True))
    def get_host_id(self, remedy: Any) -> str | None:
        found = remedy.get("host_id") if isinstance(remedy, Mapping) else remedy.host_id
        return found or None


class PlannedMoveSerializer(serializers.Serializer[Any]):
    """One migration of the plan. `resident`: on no host that is emptied, it makes room for another VM."""

    vm_id = serializers.UUIDField()
    vm_name = serializers.CharField()
    from_host_id = serializers.UUIDField()
    from_host_name = serializers.CharField()
    to_host_id = serializers.UUIDField()
    to_host_name = serializers.CharField()
    turn = serializers.IntegerField()
    order = serializers.IntegerField()
    after = serializers.ListField(child=serializers.UUIDField(), help_text="VMs whose moves must have ended before.")
    start_seconds = serializers.FloatField(help_text="Expected, from the turn's start.")
    seconds = serializers.FloatField()
    consoles = serializers.IntegerField(help_text="Open consoles that follow it.")
    live = serializers.BooleanField()
    resident = serializers.BooleanField()
    across_clusters = serializers.BooleanField()
    note = serializers.CharField(allow_blank=True)


class HostOutlookSerializer(serializers.Serializer[Any]):
    """A host before, at most meanwhile, and after."""

    host_id = serializers.UUIDField()
    name = serializers.CharField()
    cluster = serializers.CharField()
    emptied = serializers.BooleanField()
    turn = serializers.IntegerField()
    vcpu_capacity = serializers.IntegerField()
    memory_capacity_mib = serializers.IntegerField()
    before = AmountSerializer()
    peak = AmountSerializer()
    after = AmountSerializer()
    arriving = serializers.IntegerField()
    leaving = serializers.IntegerField()


class StaySerializer(serializers.Serializer[Any]):
    """A VM that stays, and why."""

    vm_id = serializers.UUIDField()
    vm_name = serializers.CharField()
    host_id = serializers.UUIDField()
    host_name = serializers.CharField()
    code = serializers.CharField()
    words = serializers.CharField()
    remedies = RemedySerializer(many=True)


class BlockerSerializer(StaySerializer):
    """A VM that cannot leave as things are."""

    proven = serializers.BooleanField(help_text="No other plan could move it, short of the remedies.")


class PreviewSerializer(serializers.Serializer[Any]):
    """What would happen. Nothing was changed."""

    can_empty = serializers.BooleanField()
    turns = serializers.IntegerField(help_text="Hosts go in so many turns.")
    seconds = serializers.FloatField(help_text="Expected.")
    lower_bound_seconds = serializers.FloatField(help_text="No plan could be quicker.")
    consoles = serializers.IntegerField(help_text="Open consoles that follow their VMs.")
    proof = serializers.CharField(allow_blank=True, help_text="`proven`: no plan strands fewer VMs; or `not-found`.")
    proof_words = serializers.CharField(allow_blank=True)
    warnings = serializers.ListField(child=serializers.CharField())
    platform = serializers.ListField(
        child=serializers.CharField(), help_text="What is asked of the hosts' platform once they are empty."
    )
    blockers = BlockerSerializer(many=True)
    moves = PlannedMoveSerializer(many=True)
    hosts = HostOutlookSerializer(many=True)
    stays = StaySerializer(many=True)
    stops = StaySerializer(many=True, help_text="VMs that will be stopped, by choice.")


class MaintenanceSerializer(Shown):
    """A job that empties hosts."""

    hosts_count = serializers.SerializerMethodField()
    moves = serializers.SerializerMethodField(help_text="VMs by status.")
    origin = serializers.UUIDField(source="origin_id", allow_null=True, help_text="The job whose VMs it brings home.")

    class Meta:
        model = Maintenance
        fields = [
            "id",
            "title",
            "mode",
            "status",
            "reason",
            "blocked_reason",
            "origin",
            "across_clusters",
            "move_powered_off",
            "hosts_at_once",
            "host_parallel",
            "hosts_count",
            "moves",
            "requested_by_id",
            "requested_by_name",
            "created_at",
            "started_at",
            "emptied_at",
            "ended_at",
        ]

    def get_hosts_count(self, job: Maintenance) -> int:
        hosts: int = self.context["view"].counts_of(job)[0]
        return hosts

    @extend_schema_field(serializers.DictField(child=serializers.IntegerField()))
    def get_moves(self, job: Maintenance) -> dict[str, int]:
        moves: dict[str, int] = self.context["view"].counts_of(job)[1]
        return {status: moves.get(status, 0) for status in MoveStatus.values}


class MaintenanceHostSerializer(Shown):
    """A host of a job."""

    host = HostRef()

    class Meta:
        model = MaintenanceHost
        fields = [
            "host",
            "position",
            "status",
            "blocked_reason",
            "platform",
            "platform_detail",
            "platform_remedy",
            "started_at",
            "emptied_at",
            "released_at",
        ]


class TriedSerializer(serializers.Serializer[Any]):
    """A host on which the VM's migration failed, with the reason."""

    host_id = serializers.UUIDField()
    host_name = serializers.CharField()
    code = serializers.CharField(allow_blank=True)
    detail = serializers.CharField(allow_blank=True)
    at = serializers.CharField(allow_blank=True, required=False)


class MoveSerializer(Shown):
    """A VM that a job deals with: where it is, where it shall go, and what one can do where it is blocked."""

    vm = VmRef()
    source = HostRef()  # type: ignore[assignment]
    target = HostRef(allow_null=True)
    choice = serializers.SerializerMethodField()
    choice_host = HostRef(allow_null=True)
    relaxed = _RELAXED
    tried_hosts = TriedSerializer(many=True)
    remedies = RemedySerializer(many=True)
    operation = serializers.UUIDField(source="operation_id", allow_null=True, help_text="Also the migration's id.")

    class Meta:
        model = MaintenanceMove
        fields = [
            "id",
            "vm",
            "source",
            "target",
            "resident",
            "status",
            "choice",
            "choice_host",
            "relaxed",
            "position",
            "expected_seconds",
            "attempts",
            "tried_hosts",
            "reason_code",
            "reason",
            "remedy",
            "remedies",
            "retry_at",
            "operation",
            "updated_at",
        ]

    @extend_schema_field(serializers.ChoiceField(choices=CHOICES))
    def get_choice(self, move: MaintenanceMove) -> str:
        return move.choice or AS_PLANNED


class MaintenanceDetailSerializer(MaintenanceSerializer):
    """A job with its hosts, how far it is, and the VMs that block it with what can be done about each."""

    hosts = serializers.SerializerMethodField()
    percent = serializers.SerializerMethodField(help_text="Of all VMs that had to leave, those that have.")
    to_do = serializers.SerializerMethodField(help_text="VMs that have to leave and have not.")
    seconds_left = serializers.SerializerMethodField(help_text="An estimate; null when nothing is under way.")
    blocked = serializers.SerializerMethodField(help_text="The first 100 VMs that block it.")

    class Meta(MaintenanceSerializer.Meta):
        fields = [*MaintenanceSerializer.Meta.fields, "percent", "to_do", "seconds_left", "hosts", "blocked"]

    @extend_schema_field(MaintenanceHostSerializer(many=True))
    def get_hosts(self, job: Maintenance) -> Any:
        return MaintenanceHostSerializer(self.context["report"].hosts, many=True).data

    def get_percent(self, job: Maintenance) -> int:
        return int(self.context["report"].percent)

    def get_to_do(self, job: Maintenance) -> int:
        return int(self.context["report"].to_do)

    @extend_schema_field(serializers.FloatField(allow_null=True))
    def get_seconds_left(self, job: Maintenance) -> float | None:
        seconds: float | None = self.context["report"].seconds_left
        return seconds

    @extend_schema_field(MoveSerializer(many=True))
    def get_blocked(self, job: Maintenance) -> Any:
        return MoveSerializer(self.context["blocked"], many=True, context=self.context).data


class HomegoerSerializer(serializers.Serializer[Any]):
    """A VM that can go home now."""

    vm_id = serializers.UUIDField()
    vm_name = serializers.CharField()
    from_host_id = serializers.UUIDField()
    from_host_name = serializers.CharField()
    home_id = serializers.UUIDField()
    home_name = serializers.CharField()
    relaxed = _RELAXED


class RemainsSerializer(serializers.Serializer[Any]):
    """A VM that stays where it is, and why."""

    vm_id = serializers.UUIDField()
    vm_name = serializers.CharField()
    host_name = serializers.CharField()
    home_name = serializers.CharField()
    code = serializers.CharField()
    words = serializers.CharField()


class HomecomingSerializer(serializers.Serializer[Any]):
    """Who would go home now, who would not, and how long it is expected to take."""

    goes = HomegoerSerializer(many=True)
    stays = RemainsSerializer(many=True)
    seconds = serializers.FloatField()


class CancelBody(Body):
    """What becomes of migrations that are under way."""

    abort_running = serializers.BooleanField(default=False, help_text="Abort them; else they go on to their end.")


class EndBody(Body):
    """Whether hosts that were schedulable before are so again."""

    uncordon = serializers.BooleanField(default=True)


class ChooseBody(Body):
    """One remedy for one VM. Relaxations add up; `host`, `skip` and `stop` replace each other."""

    choice = serializers.ChoiceField(choices=CHOICES)
    host = serializers.PrimaryKeyRelatedField(
        queryset=Host.objects.all(), pk_field=serializers.UUIDField(), allow_null=True, required=False
    )


class RetriedSerializer(serializers.Serializer[Any]):
    """How many VMs are tried again."""

    retried = serializers.IntegerField()
