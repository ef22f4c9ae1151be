"""The statement that takes room: checked and taken at once, written by hand as no ORM expresses it.

``UPDATE … WHERE`` waits for others' changes of the row and then looks at it again, so the room is really there. On
PostgreSQL the claim, and the decision that led to it, are inserted by the same statement: one round trip, all or
nothing, with or without a transaction around it. What every placement runs is prepared once per connection: planning
it would cost more than executing it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Model

from placement import versions
from placement.models import Claim, Decision, HostCapacity

TAKE_ROOM = """
UPDATE placement_hostcapacity SET
  vcpu_claimed = vcpu_claimed + %(vcpus)s,
  memory_claimed_mib = memory_claimed_mib + %(memory_mib)s,
  version = {version}
WHERE host_id = %(host_id)s
  AND (hold = '' OR %(any_hold)s)
  AND vcpu_claimed + %(vcpus)s <= vcpu_capacity
  AND memory_claimed_mib + %(memory_mib)s <= memory_capacity_mib
  AND (structure = %(structure)s OR %(structure)s IS NULL)
  AND EXISTS (SELECT 1 FROM inventory_host h
              WHERE h.id = %(host_id)s AND (h.schedulable OR %(any_will)s) AND h.connection = 'up'
                AND NOT h.platform_maintenance)
"""
DECISION = "decision_"
M = TypeVar("M", bound=Model)
_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)


@cache
def take_postgres(*, with_decision: bool) -> str:
    """Takes the room and inserts the claim, and the decision; does nothing when there is no room."""
    parts = [
        f"WITH taken AS ({TAKE_ROOM.format(version=versions.POSTGRES_NOW)} RETURNING host_id)",
        _insert(Claim, source="taken"),
    ]
    if with_decision:
        parts[1] = f", claimed AS ({parts[1]} RETURNING host_id)"
        parts.append(_insert(Decision, source="claimed", prefix=DECISION))
    return "\n".join(parts)


def take_room() -> str:
    """Only the first part, where the rest are statements of their own."""
    return TAKE_ROOM.format(version=versions.now_sql())


def _insert(model: type[Model], *, source: str, prefix: str = "") -> str:
    fields = model._meta.concrete_fields
    columns = [str(field.column) for field in fields]
    values = [f"%({prefix}{field.column})s::{field.db_type(connection)}" for field in fields]
    table = model._meta.db_table
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {source}"  # noqa: S608


def made(model: type[M], **values: Any) -> M:
    """``model(**values)``, where the values are those of all columns, by attribute: at a third of its price."""
    return model(*[values[attribute] for _, attribute in _columns(model, "")])


def key_of(host_id: UUID) -> Any:
    """A host's id as the present database keeps it."""
    return HostCapacity._meta.pk.get_db_prep_value(host_id, connection)


def values_of(row: Model, *, prefix: str = "") -> dict[str, Any]:
    """A row's values by column, for :func:`prepared`."""
    return {name: as_text(getattr(row, attribute)) for name, attribute in _columns(type(row), prefix)}


@cache
def _columns(model: type[Model], prefix: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{prefix}{field.column}", field.attname) for field in model._meta.concrete_fields)


def as_text(value: Any) -> str | bytes | None:
    """As PostgreSQL reads it, whatever the column's type. One type for all parameters: by a driver's own choice of them
    (a small number, a large one, none) the same statement would be prepared again and again."""
    if value is None or value.__class__ in (str, bytes):
        return value
    return _JSON.encode(value) if value.__class__ in (dict, list) else str(value)


class _Prepared(psycopg.Cursor[Any]):
    """Binds parameters on the server, where the statement is kept prepared."""

    def execute(self, query: Any, params: Any = None, **_: Any) -> _Prepared:
        return super().execute(query, params, prepare=True)


@contextmanager
def prepared() -> Iterator[CursorWrapper]:
    """A cursor of the present PostgreSQL connection that prepares what it executes."""
    with connection.cursor() as cursor:
        cursor.cursor = _Prepared(cursor.cursor.connection)
        yield cursor
