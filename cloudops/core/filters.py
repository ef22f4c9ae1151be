"""Filters of the API's lists: each takes exactly what its schema says, and refuses the rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import django_filters
from django import forms
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django_filters.fields import IsoDateTimeField
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.utils import extend_schema_field
from rest_framework.request import Request

from cloudops.core.errors import Invalid

MAX_ROW_ID: Final = 2**63 - 1
_FLAGS: Final = {"true": True, "false": False}
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def _documented(filter_: Any, description: str, schema: Mapping[str, Any]) -> None:
    extend_schema_field({**schema, **({"description": description} if description else {})})(filter_)


class Text(django_filters.CharFilter):  # type: ignore[misc]
    """A text of at most ``max_length`` characters."""

    def __init__(self, *args: Any, max_length: int, help_text: str = "", **kwargs: Any) -> None:
        super().__init__(*args, max_length=max_length, help_text=help_text, **kwargs)
        _documented(self, help_text, {"type": "string", "maxLength": max_length})


class Whole(django_filters.Filter):  # type: ignore[misc]
    """A whole number within bounds."""

    field_class = forms.IntegerField

    def __init__(self, *args: Any, least: int = 0, most: int, help_text: str = "", **kwargs: Any) -> None:
        super().__init__(*args, min_value=least, max_value=most, help_text=help_text, **kwargs)
        _documented(self, help_text, {"type": "integer", "minimum": least, "maximum": most})


class RowId(Whole):
    """The number of a row."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, least=1, most=MAX_ROW_ID, **kwargs)


class _FlagField(forms.CharField):
    def clean(self, value: Any) -> bool | None:
        text = super().clean(value)
        if not text:
            return None
        if text not in _FLAGS:
            raise ValidationError("Use true or false.")
        return _FLAGS[text]


class Flag(django_filters.Filter):  # type: ignore[misc]
    """``true`` or ``false``."""

    field_class = _FlagField

    def __init__(self, *args: Any, help_text: str = "", **kwargs: Any) -> None:
        super().__init__(*args, help_text=help_text, **kwargs)
        _documented(self, help_text, {"type": "boolean"})


class _TimeField(IsoDateTimeField):  # type: ignore[misc]
    def clean(self, value: Any) -> datetime | None:
        try:
            time: datetime | None = super().clean(value)
            if time is not None and not _EARLIEST <= time <= _LATEST:
                raise ValidationError("Use a time between the years 1970 and 9000.")
        except OverflowError:
            raise ValidationError("Use a time between the years 1970 and 9000.") from None
        # PostgreSQL knows no zones beyond 15:59 h, ISO 8601 does.
        return time and time.astimezone(UTC)


class Time(django_filters.IsoDateTimeFilter):  # type: ignore[misc]
    """An ISO 8601 time; UTC where it names no zone."""

    field_class = _TimeField

    def __init__(self, *args: Any, help_text: str = "", **kwargs: Any) -> None:
        super().__init__(*args, help_text=help_text, **kwargs)
        _documented(self, help_text, {"type": "string", "format": "date-time"})


class Choice(django_filters.ChoiceFilter):  # type: ignore[misc]
    """One of some words."""

    def __init__(self, *args: Any, choices: Any, help_text: str = "", **kwargs: Any) -> None:
        super().__init__(*args, choices=choices, help_text=help_text, **kwargs)
        _documented(self, help_text, {"type": "string", "enum": [str(value) for value, _ in choices]})


class Uuid(django_filters.UUIDFilter):  # type: ignore[misc]
    """The id of something."""

    def __init__(self, *args: Any, help_text: str = "", **kwargs: Any) -> None:
        super().__init__(*args, help_text=help_text, **kwargs)
        _documented(self, help_text, {"type": "string", "format": "uuid"})


class Filters(django_filters.rest_framework.FilterSet):  # type: ignore[misc]
    """Filters of a list."""


class KnownFilters(DjangoFilterBackend):  # type: ignore[misc]
    """Refuses query parameters that neither filters nor paging know: a misspelt filter would show everything."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        filterset = self.get_filterset_class(view, queryset)
        paging = {"cursor", "page_size"} if view.pagination_class else set()
        known = paging.union(filterset.base_filters if filterset else ())
        if unknown := sorted(set(request.query_params) - known):
            message = f"There is no such parameter. There are: {', '.join(sorted(known))}."
            raise Invalid("A query parameter is not known.", fields={name: [message] for name in unknown})
        if repeated := [name for name, values in request.query_params.lists() if len(values) > 1]:
            fields = {name: ["Give it once."] for name in repeated}
            raise Invalid("A query parameter is given more than once.", fields=fields)
        filtered: QuerySet[Any] = super().filter_queryset(request, queryset, view)
        return filtered
