"""Keyset paging for the API's lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db.models import Field, Model
from django.utils.timezone import is_naive
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

from cloudops.core import keyset
from cloudops.core.errors import Invalid

_Values = list[Any]


class Keyset(BasePagination):
    """``?cursor=`` from ``next``/``previous``; ``?page_size=`` up to 500.

    A viewset names its ``ordering``, an order of :mod:`cloudops.core.keyset`.
    """

    page_size = 50
    max_page_size = 500
    cursor_param = "cursor"
    size_param = "page_size"

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """One page, in order. Raises :class:`Invalid` for a cursor or size that makes no sense."""
        self.request = request
        self.ordering: Sequence[str] = getattr(view, "ordering", ("-pk",))
        size = self._size(request)
        backwards, position = self._cursor(request, queryset.model)
        ordering = [keyset.turned(name) for name in self.ordering] if backwards else list(self.ordering)
        if position is not None:
            queryset = queryset.filter(keyset.after(ordering, position))
        rows = list(queryset.order_by(*ordering)[: size + 1])
        more, rows = len(rows) > size, rows[:size]
        if backwards:
            rows.reverse()
        self._rows = rows
        self._has_next = bool(rows) and (more or backwards)
        self._has_previous = bool(rows) and (more if backwards else position is not None)
        return rows

    def get_paginated_response(self, data: Any) -> Response:
        """``{"next", "previous", "results"}``; a link is null where there is nothing."""
        return Response({"next": self._link(next_page=True), "previous": self._link(next_page=False), "results": data})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The page's OpenAPI schema."""
        link = {"type": ["string", "null"], "format": "uri", "description": "Where the neighbouring page is, if any."}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {"next": link, "previous": link, "results": schema},
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """The query parameters' OpenAPI schema."""
        cursor = {"type": "string", "maxLength": keyset.MAX_CURSOR_CHARACTERS}
        size = {"type": "integer", "minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        return [
            _parameter(self.cursor_param, "From a page's `next` or `previous`; opaque.", cursor),
            _parameter(self.size_param, "Rows per page.", size),
        ]

    def _size(self, request: Request) -> int:
        given = request.query_params.get(self.size_param)
        if given is None:
            return self.page_size
        if not (given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= self.max_page_size):
            message = f"A whole number from 1 to {self.max_page_size}."
            raise Invalid("The page size is not right.", fields={self.size_param: [message]})
        return int(given)

    def _cursor(self, request: Request, model: type[Model]) -> tuple[bool, _Values | None]:
        given = request.query_params.get(self.cursor_param)
        if given is None:
            return False, None
        try:
            backwards, values = keyset.decode(given, len(self.ordering))
            return backwards, [_clean(model, *pair) for pair in zip(self.ordering, values, strict=True)]
        except (ValueError, TypeError, OverflowError, ValidationError) as error:
            fields = {self.cursor_param: ["Use a page's next or previous link as it is."]}
            raise Invalid("The cursor is not right.", fields=fields) from error

    def _link(self, *, next_page: bool) -> str | None:
        url = self.request.build_absolute_uri()
        if not (self._has_next if next_page else self._has_previous):
            return None
        row = self._rows[-1 if next_page else 0]
        cursor = keyset.encode(row, self.ordering, backwards=not next_page)
        return str(replace_query_param(remove_query_param(url, self.cursor_param), self.cursor_param, cursor))


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "required": False, "in": "query", "description": description, "schema": schema}


def _field(model: type[Model], path: str) -> Field[Any, Any]:
    *relations, last = path.split("__")
    for name in relations:
        related = model._meta.get_field(name).related_model
        if not isinstance(related, type):
            raise FieldDoesNotExist(path)
        model = related
    field = model._meta.pk if last == "pk" else model._meta.get_field(last)
    if not isinstance(field, Field):
        raise FieldDoesNotExist(path)
    return field


def _clean(model: type[Model], name: str, value: Any) -> Any:
    """The value as the column's own type. A cursor comes from outside: anything may be in it."""
    if not isinstance(value, (str, int)) or isinstance(value, bool) or "\0" in str(value):
        raise ValueError("not a column's value")
    field = _field(model, name.lstrip("-"))
    cleaned = field.to_python(value)
    field.run_validators(cleaned)
    if cleaned is None or (isinstance(cleaned, datetime) and is_naive(cleaned)):
        raise ValueError("not a column's value")
    return cleaned.astimezone(UTC) if isinstance(cleaned, datetime) else cleaned
