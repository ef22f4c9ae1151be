"""Lists on pages: keyset paging (stable under inserts, as quick on page 1,000 as on page 1) and CSV."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse

from cloudops.core import keyset
from cloudops.core.keyset import Order

PAGE_SIZE = 50
CSV_ROWS = 20_000
M = TypeVar("M", bound=models.Model)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """One page of a list; a cursor is empty at that end."""

    rows: list[M]
    next_cursor: str
    previous_cursor: str


def order_of(request: HttpRequest, orders: Mapping[str, Order], default: str) -> Order:
    """The columns of ``?sort=key`` or ``?sort=-key``. Each order ends in a unique column; none may hold NULL."""
    key = request.GET.get("sort", default)
    columns = orders.get(key.lstrip("-"))
    if columns is None:
        return order_of_key(orders, default)
    return order_of_key(orders, key)


def order_of_key(orders: Mapping[str, Order], key: str) -> Order:
    """The columns of a sort key, all turned round by a leading hyphen."""
    columns = orders[key.lstrip("-")]
    return [keyset.turned(column) for column in columns] if key.startswith("-") else columns


def page(rows: models.QuerySet[M], *, order: Order, cursor: str, size: int = PAGE_SIZE) -> Page[M]:
    """The page of ``rows`` at ``cursor``; a cursor that makes no sense means the first page."""
    position = _position(cursor, len(order))
    backwards = position is not None and position[0]
    direction = [keyset.turned(column) for column in order] if backwards else list(order)
    wanted = rows.order_by(*direction)
    try:
        found = list((wanted.filter(keyset.after(direction, position[1])) if position else wanted)[: size + 1])
    except (ValidationError, ValueError):
        return page(rows, order=order, cursor="", size=size)
    more, found = len(found) > size, found[:size]
    if backwards:
        found.reverse()
    has_next, has_previous = (True, more) if backwards else (more, position is not None)
    return Page(
        found,
        keyset.encode(found[-1], order, backwards=False) if found and has_next else "",
        keyset.encode(found[0], order, backwards=True) if found and has_previous else "",
    )


def _position(cursor: str, columns: int) -> tuple[bool, list[Any]] | None:
    try:
        return keyset.decode(cursor, columns)
    except ValueError:
        return None


def csv_response(name: str, columns: Sequence[tuple[str, Callable[[T], object]]], rows: Iterable[T]) -> HttpResponse:
    """A CSV file of ``rows`` (the caller bounds them by ``CSV_ROWS``), with a head."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([title for title, _ in columns])
    for row in rows:
        writer.writerow([_cell(value(row)) for _, value in columns])
    response = HttpResponse(buffer.getvalue(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return response


def _cell(value: object) -> str:
    """A cell's text; one that a spreadsheet would run as a formula is made text."""
    if value is None:
        return ""
    text = value.isoformat(timespec="seconds") if isinstance(value, dt.datetime) else str(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
