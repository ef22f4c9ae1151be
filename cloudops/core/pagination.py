"""Keyset paging for the API: stable under inserts, and as quick on page 1,000 as on page 1."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db.models import Field, Model, Q, QuerySet
from django.utils.timezone import is_naive
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

from cloudops.core.errors import Invalid

_Values = list[Any]


class Keyset(BasePagination):
    """``?cursor=`` from ``next``/``previous``; ``?page_size=`` up to 500.

    A viewset names its ``ordering``: columns without NULLs (``-`` for descending) that together are unique. A cursor
    holds the values of a row's ordering columns, and the page is what comes after (or before) that row.
    """

    page_size = 50
    max_page_size = 500
    cursor_param = "cursor"
    size_param = "page_size"
    max_cursor_length = 2_000

    def paginate_queryset(self, queryset: QuerySet[Any], request: Request, view: Any = None) -> list[Any]:
        """One page, in order. Raises :class:`Invalid` for a cursor or size that makes no sense."""
        self.request = request
        self.ordering: Sequence[str] = getattr(view, "ordering", ("-pk",))
        size = self._size(request)
        backwards, position = self._cursor(request, queryset.model)
        ordering = [_flipped(name) for name in self.ordering] if backwards else list(self.ordering)
        if position is not None:
            queryset = queryset.filter(_after(ordering, position))
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
        cursor = {"type": "string", "maxLength": self.max_cursor_length}
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
            if len(given) > self.max_cursor_length:
                raise ValueError("too long")
            payload = json.loads(base64.b64decode(given.encode("ascii") + b"===", altchars=b"-_"))
            backwards, values = bool(payload["b"]), payload["v"]
            if not isinstance(values, list) or len(values) != len(self.ordering):
                raise ValueError("another list's cursor")
            return backwards, [_clean(model, *pair) for pair in zip(self.ordering, values, strict=True)]
        except (ValueError, TypeError, KeyError, binascii.Error, ValidationError, RecursionError) as error:
            fields = {self.cursor_param: ["Use a page's next or previous link as it is."]}
            raise Invalid("The cursor is not right.", fields=fields) from error

    def _link(self, *, next_page: bool) -> str | None:
        url = self.request.build_absolute_uri()
        if not (self._has_next if next_page else self._has_previous):
            return None
        row = self._rows[-1 if next_page else 0]
        values = [_value(row, name.lstrip("-")) for name in self.ordering]
        payload = json.dumps({"b": not next_page, "v": values}, separators=(",", ":"))
        cursor = base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
        return str(replace_query_param(remove_query_param(url, self.cursor_param), self.cursor_param, cursor))


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "required": False, "in": "query", "description": description, "schema": schema}


def _flipped(name: str) -> str:
    return name[1:] if name.startswith("-") else f"-{name}"


def _after(ordering: Sequence[str], position: _Values) -> Q:
    """Rows that come after ``position``: (a, b) > (x, y) is a > x or (a = x and b > y).

    The first column's bound stands alone as well, so that the database can use its index for the whole condition.
    """
    condition, equal = Q(), Q()
    for name, value in zip(ordering, position, strict=True):
        column, comparison = name.lstrip("-"), "lt" if name.startswith("-") else "gt"
        condition |= equal & Q(**{f"{column}__{comparison}": value})
        equal &= Q(**{column: value})
    first = ordering[0]
    bound = Q(**{f"{first.lstrip('-')}__{'lte' if first.startswith('-') else 'gte'}": position[0]})
    return bound & condition


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
    return cleaned


def _value(row: Any, path: str) -> str | int:
    for name in path.split("__"):
        row = getattr(row, name)
    if isinstance(row, datetime):
        return row.isoformat()
    return row if isinstance(row, int) else str(row)
