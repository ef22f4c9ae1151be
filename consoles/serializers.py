"""How console sessions, slots, requests to release one and foreign connections look in the API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.accounts.serializers import UserRef
from cloudops.core.rest import Body, Shown
from cloudops.inventory.serializers import (
    HostRef,
    HostSerializer,
    VmDetailSerializer,
    VmHostSerializer,
    VmRef,
    VmSerializer,
)
from consoles import release
from consoles.models import ConsoleSession, ForeignConnection, ReleaseRequest, Status
from consoles.reasons import ClosedReason

REASONS = [(reason.value, reason.text) for reason in ClosedReason]
MAX_BULK = 500


class SlotSerializer(serializers.Serializer[Any]):
    """Slots of the host: how many are taken, this one included."""

    in_use = serializers.IntegerField()
    limit = serializers.IntegerField()


class OpenBody(Body):
    """How a console is to be opened."""

    view_only = serializers.BooleanField(default=False, help_text="Watch only: keys and pointer are not passed on.")


class OpenedSerializer(serializers.Serializer[Any]):
    """A console session that waits for its browser or script."""

    id = serializers.UUIDField()
    url = serializers.URLField(help_text="The console's page; the one-time secret is in its fragment.")
    websocket_url = serializers.CharField(help_text="For scripts: connect here.")
    secret = serializers.CharField(
        help_text="One-time, in this answer only: offered as the WebSocket subprotocol `cloudops.secret.<secret>`."
    )
    expires_at = serializers.DateTimeField(help_text="Until then the secret can be used; it holds a slot meanwhile.")
    view_only = serializers.BooleanField()
    vm = VmRef()
    host = VmHostSerializer()
    slot = SlotSerializer()


class SessionSerializer(Shown):
    """A console session as it really is now: a lapsed one shows as dropped or closed at once."""

    vm = VmRef()
    host = serializers.SerializerMethodField()
    user = UserRef()
    status = serializers.SerializerMethodField()
    idle_seconds = serializers.SerializerMethodField(help_text="Since the last key or pointer input.")
    duration_seconds = serializers.SerializerMethodField(help_text="Since it was first connected.")
    closed_text = serializers.SerializerMethodField(help_text="Why it ended, in words.")
    client_address = serializers.SerializerMethodField(help_text="Empty for other people's sessions in one's projects.")

    class Meta:
        model = ConsoleSession
        fields = [
            "id",
            "vm",
            "host",
            "user",
            "status",
            "view_only",
            "created_at",
            "connected_at",
            "last_input_at",
            "idle_seconds",
            "duration_seconds",
            "ended_at",
            "closed_reason",
            "closed_text",
            "closed_by",
            "detached_reason",
            "client_address",
            "bytes_to_browser",
            "bytes_from_browser",
        ]

    @extend_schema_field(VmHostSerializer)
    def get_host(self, session: ConsoleSession) -> dict[str, Any]:
        sees_fleet = self.context["request"].user.sees_fleet
        return {"id": session.host_id if sees_fleet else None, "name": session.host.name}

    @extend_schema_field(serializers.ChoiceField(choices=Status.choices))
    def get_status(self, session: ConsoleSession) -> str:
        return session.shown_status(self.context["view"].now)

    def get_idle_seconds(self, session: ConsoleSession) -> int:
        return session.idle_seconds(self.context["view"].now)

    def get_duration_seconds(self, session: ConsoleSession) -> int:
        return session.duration_seconds(self.context["view"].now)

    def get_closed_text(self, session: ConsoleSession) -> str:
        return ClosedReason(session.closed_reason).text if session.closed_reason else ""

    def get_client_address(self, session: ConsoleSession) -> str:
        user = self.context["request"].user
        return session.client_address if user.sees_fleet or session.user_id == user.pk else ""


class DisconnectBody(Body):
    """Which consoles to disconnect: either `ids`, or all that are idle for long enough."""

    ids = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=MAX_BULK, required=False)
    idle_seconds_over = serializers.IntegerField(
        min_value=0, max_value=31_536_000, required=False, help_text="All without input for at least this long."
    )
    host = serializers.UUIDField(required=False, help_text="With `idle_seconds_over`: only on this host.")
    vm = serializers.UUIDField(required=False, help_text="With `idle_seconds_over`: only of this VM.")
    mine = serializers.BooleanField(default=False, help_text="Only one's own.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("ids" in attrs) == ("idle_seconds_over" in attrs):
            raise serializers.ValidationError({"ids": ["Send either ids or idle_seconds_over."]})
        if "ids" in attrs and ("host" in attrs or "vm" in attrs):
            raise serializers.ValidationError({"ids": ["host and vm go with idle_seconds_over, not with ids."]})
        return attrs


class DisconnectedSerializer(serializers.Serializer[Any]):
    """How many consoles were disconnected; those that had ended already do not count."""

    disconnected = serializers.IntegerField()


class UsageSerializer(serializers.Serializer[Any]):
    """Slots of a host, a VM or a user."""

    scope = serializers.ChoiceField(choices=["host", "vm", "user"])
    limit = serializers.IntegerField()
    in_use = serializers.IntegerField(help_text="What counts against the limit.")
    free = serializers.IntegerField()
    level = serializers.ChoiceField(choices=["ok", "high", "full"], help_text="`high` from 80 %.")
    active = serializers.IntegerField(help_text="Open or opening.")
    idle = serializers.IntegerField(help_text="Part of the active ones.")
    pending = serializers.IntegerField(help_text="Links that wait to be opened.")
    foreign = serializers.IntegerField(help_text="Connections that were not made through CloudOps.")
    count_foreign = serializers.BooleanField(help_text="Whether those count against the limit.")
    by_platform = serializers.BooleanField(help_text="Whether the limit is the platform's own (vSphere, per VM).")


class _Consoles(serializers.ModelSerializer[Any]):
    """Adds the slots that the view counted for a whole page at once."""

    consoles = serializers.SerializerMethodField(help_text="Console slots.")

    @extend_schema_field(UsageSerializer(allow_null=True))
    def get_consoles(self, row: Any) -> dict[str, Any] | None:
        usage = self.context["view"].usage_of(row)
        return UsageSerializer(usage).data if usage is not None else None


class HostWithConsolesSerializer(_Consoles, HostSerializer):
    """A hypervisor host with its console slots."""

    class Meta(HostSerializer.Meta):
        fields = [*HostSerializer.Meta.fields, "consoles"]


class VmWithConsolesSerializer(_Consoles, VmSerializer):
    """A VM with its console slots."""

    class Meta(VmSerializer.Meta):
        fields = [*VmSerializer.Meta.fields, "consoles"]


class VmWithConsolesDetailSerializer(_Consoles, VmDetailSerializer):
    """A VM with its console slots, and why a power action is impossible now."""

    class Meta(VmDetailSerializer.Meta):
        fields = [*VmDetailSerializer.Meta.fields, "consoles"]


class HostUsageSerializer(serializers.Serializer[Any]):
    """One host's slots."""

    host = HostRef()
    usage = UsageSerializer()


class UsageSummarySerializer(serializers.Serializer[Any]):
    """One's own slots, and every host's for people who see the fleet."""

    mine = UsageSerializer()
    hosts = HostUsageSerializer(many=True, help_text="Empty for tenants.")


class ForeignConnectionSerializer(Shown):
    """A display connection that was not made through CloudOps."""

    vm = VmRef()
    host = HostRef()

    class Meta:
        model = ForeignConnection
        fields = [
            "id",
            "vm",
            "host",
            "label",
            "is_named",
            "is_ghost",
            "user_name",
            "client_host",
            "client_port",
            "first_seen_at",
            "last_seen_at",
        ]


class ReleaseBody(Body):
    """What to say to the console's holder."""

    message = serializers.CharField(max_length=200, allow_blank=True, default="")


class ReleaseAnswerBody(Body):
    """The holder's answer."""

    release = serializers.BooleanField(help_text="True disconnects the console.")


class ReleaseRequestSerializer(Shown):
    """Somebody asks the holder of a console to let it go."""

    session = serializers.UUIDField(source="session_id")
    vm = serializers.SerializerMethodField(help_text="Null where the VM may not be seen.")
    asked_by = serializers.SerializerMethodField(help_text="The asker's name, or “Another user” to strangers.")

    class Meta:
        model = ReleaseRequest
        fields = ["id", "session", "vm", "asked_by", "message", "created_at", "answered_at", "answer"]

    @extend_schema_field(VmRef(allow_null=True))
    def get_vm(self, request: ReleaseRequest) -> dict[str, Any] | None:
        session = request.session
        user = self.context["request"].user
        if not (user.sees_fleet or session.user_id == user.pk):
            return None
        return {"id": session.vm_id, "name": session.vm.name}

    def get_asked_by(self, request: ReleaseRequest) -> str:
        user = self.context["request"].user
        if request.requested_by_id == user.pk:
            return str(user.get_username())
        names = getattr(self.context["view"], "asker_names", {})
        return names.get(request.pk) or release.shown_asker(request, user)


class ReapedSerializer(serializers.Serializer[Any]):
    """What the clean-up found, by kind."""

    expired = serializers.IntegerField()
    lapsed = serializers.IntegerField()
    detached = serializers.IntegerField()
    revoked = serializers.IntegerField()
    purged = serializers.IntegerField()
    processes = serializers.IntegerField()
