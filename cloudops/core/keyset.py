"""Keyset paging, for pages and API alike: a cursor is the position of a row in its list's order.

An order names columns (``-`` for descending) that hold no NULL and together are unique. What is after a position does
not depend on how many rows come before it: stable under inserts, and as quick on page 1,000 as on page 1.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q

Order = Sequence[str]
MAX_CURSOR_CHARACTERS = 2_000


def turned(column: str) -> str:
    """The column in the other direction."""
    return column[1:] if column.startswith("-") else f"-{column}"


def after(order: Order, values: Sequence[Any]) -> Q:
    """Rows that come after a position: (a, b) after (x, y) is a > x, or a = x and b > y; each in its own direction.

    The first column's bound stands alone as well, so that the database can use its index for the whole condition.
    """
    condition, same = Q(), Q()
    for column, value in zip(order, values, strict=True):
        name, compare = column.lstrip("-"), "lt" if column.startswith("-") else "gt"
        condition |= same & Q(**{f"{name}__{compare}": value})
        same &= Q(**{name: value})
    first = order[0]
    return Q(**{f"{first.lstrip('-')}__{'lte' if first.startswith('-') else 'gte'}": values[0]}) & condition


def encode(row: Any, order: Order, *, backwards: bool) -> str:
    """The cursor of what comes after ``row``, or before it."""
    values = [_value(row, column.lstrip("-")) for column in order]
    raw = json.dumps([backwards, values], default=str, separators=(",", ":"))
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def decode(cursor: str, columns: int) -> tuple[bool, list[Any]]:
    """Whether it goes backwards, and its values, as texts and numbers. Raises ValueError when it makes no sense."""
    if len(cursor) > MAX_CURSOR_CHARACTERS:
        raise ValueError("too long")
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        backwards, values = json.loads(raw)
    except (TypeError, RecursionError) as error:
        raise ValueError("not a cursor") from error
    if not isinstance(backwards, bool) or not isinstance(values, list) or len(values) != columns:
        raise ValueError("another list's cursor")
    if not all(isinstance(value, (str, int, float)) and "\0" not in str(value) for value in values):
        raise ValueError("not columns' values")
    return backwards, values


def _value(row: Any, path: str) -> Any:
    for name in path.split("__"):
        row = getattr(row, name)
    return row.isoformat() if isinstance(row, datetime) else row
