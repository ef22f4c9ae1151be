"""How settings, audit events and operations look in the API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudops.core import runtime
from cloudops.core.models import Event, Operation, RuntimeSettings
from cloudops.core.operations_view import told_to
from cloudops.core.rest import Body, Shown

TUNABLE = [field.name for field in runtime.tunable_fields()]


class SettingsSerializer(Shown):
    """The run-time settings; a name's last word is its unit."""

    class Meta:
        model = RuntimeSettings
        fields = [*TUNABLE, "updated_at"]


class SettingsChange(Body, serializers.ModelSerializer[RuntimeSettings]):
    """The settings to change; those not named stay as they are."""

    class Meta:
        model = RuntimeSettings
        fields = TUNABLE


class EventSerializer(Shown):
    """One line of the audit trail."""

    data = serializers.DictField(child=serializers.JSONField(allow_null=True))  # type: ignore[assignment]

    class Meta:
        model = Event
        fields = [
            "id",
            "at",
            "kind",
            "severity",
            "actor_kind",
            "actor_name",
            "actor_user_id",
            "address",
            "request_id",
            "subject_type",
            "subject_id",
            "subject_name",
            "project_id",
            "from_state",
            "to_state",
            "reason",
            "data",
        ]


class StepSerializer(serializers.Serializer[Any]):
    """One step of an operation."""

    name = serializers.CharField()
    status = serializers.ChoiceField(choices=["pending", "running", "done", "failed"])
    detail = serializers.CharField(allow_blank=True)
    at = serializers.DateTimeField(allow_null=True)


class FailureSerializer(serializers.Serializer[Any]):
    """Why an operation failed."""

    code = serializers.CharField()
    detail = serializers.CharField()
    remedy = serializers.CharField()


class OperationSerializer(Shown):
    """A long-running job: how far it is, and how it ended."""

    steps = StepSerializer(many=True)
    params = serializers.DictField(child=serializers.JSONField(allow_null=True))
    result = serializers.DictField(child=serializers.JSONField(allow_null=True))
    error = serializers.SerializerMethodField(help_text="Set when it failed.")

    class Meta:
        model = Operation
        fields = [
            "id",
            "kind",
            "status",
            "title",
            "subject_type",
            "subject_id",
            "subject_name",
            "project_id",
            "requested_by_id",
            "requested_by_name",
            "progress_percent",
            "steps",
            "params",
            "result",
            "error",
            "read_at",
            "created_at",
            "started_at",
            "ended_at",
        ]

    def to_representation(self, instance: Operation) -> Any:
        return super().to_representation(told_to(self.context["request"].user, instance))

    @extend_schema_field(FailureSerializer(allow_null=True))
    def get_error(self, operation: Operation) -> dict[str, str] | None:
        if not operation.error_code:
            return None
        return {
            "code": operation.error_code,
            "detail": operation.error_detail,
            "remedy": operation.error_remedy,
        }
