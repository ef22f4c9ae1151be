"""How tags, offerings and templates look in the API: what VMs may be, and what they were made from."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from cloudops.core.rest import Body, Shown
from cloudops.inventory.models import Offering, OfferingKind, OfferingVersion, Template, validate_tag

MAX_TAGS = 50


class TagsField(serializers.ListField):
    """Tag names; those that do not exist yet are made."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            child=serializers.CharField(max_length=63, validators=[validate_tag]), max_length=MAX_TAGS, **kwargs
        )


class TagSerializer(serializers.Serializer[Any]):
    """A tag."""

    name = serializers.CharField()


class OfferingRef(Shown):
    """An offering by id and name."""

    class Meta:
        model = Offering
        fields = ["id", "name"]


class OfferingSerializer(Shown):
    """What a VM may be."""

    host_tags = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)  # type: ignore[var-annotated]
    soft_host_tags = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)  # type: ignore[var-annotated]

    class Meta:
        model = Offering
        fields = [
            "id",
            "name",
            "description",
            "kind",
            "vcpus",
            "max_vcpus",
            "cpu_mhz",
            "cpu_cap",
            "memory_mib",
            "max_memory_mib",
            "dynamic_scaling",
            "host_tags",
            "soft_host_tags",
            "enabled",
            "version",
            "created_at",
        ]


class OfferingBody(Body, serializers.ModelSerializer[Offering]):
    """An offering's own fields."""

    host_tags = TagsField(required=False, help_text="A host must carry all of these.")
    soft_host_tags = TagsField(required=False, help_text="A host that carries these is preferred.")

    class Meta:
        model = Offering
        fields = [
            "name",
            "description",
            "kind",
            "vcpus",
            "max_vcpus",
            "cpu_mhz",
            "cpu_cap",
            "memory_mib",
            "max_memory_mib",
            "dynamic_scaling",
            "host_tags",
            "soft_host_tags",
            "enabled",
        ]
        extra_kwargs = {"name": {"validators": []}, "description": {"max_length": 10_000}}


class OfferingValuesSerializer(serializers.Serializer[Any]):
    """What a VM got by one version of an offering."""

    kind = serializers.ChoiceField(choices=OfferingKind.choices)
    vcpus = serializers.IntegerField()
    max_vcpus = serializers.IntegerField(allow_null=True)
    cpu_mhz = serializers.IntegerField(allow_null=True)
    cpu_cap = serializers.BooleanField()
    memory_mib = serializers.IntegerField()
    max_memory_mib = serializers.IntegerField(allow_null=True)
    dynamic_scaling = serializers.BooleanField()
    host_tags = serializers.ListField(child=serializers.CharField())
    soft_host_tags = serializers.ListField(child=serializers.CharField())


class OfferingVersionSerializer(Shown):
    """One version of an offering; it never changes."""

    values = OfferingValuesSerializer()

    class Meta:
        model = OfferingVersion
        fields = ["version", "values", "by_name", "created_at"]


class TemplateRef(Shown):
    """A template by id and name."""

    class Meta:
        model = Template
        fields = ["id", "name"]


class TemplateSerializer(Shown):
    """What a VM was made from, as far as placement cares."""

    host_tags = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)  # type: ignore[var-annotated]
    soft_host_tags = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)  # type: ignore[var-annotated]

    class Meta:
        model = Template
        fields = ["id", "name", "description", "host_tags", "soft_host_tags", "created_at"]


class TemplateBody(Body):
    """A template's own fields."""

    name = serializers.CharField(max_length=100)
    description = serializers.CharField(max_length=10_000, allow_blank=True, required=False)
    host_tags = TagsField(required=False, help_text="A host must carry all of these.")
    soft_host_tags = TagsField(required=False, help_text="A host that carries these is preferred.")
