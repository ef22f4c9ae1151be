"""The statement that takes room: checked and taken at once, written by hand as no ORM expresses it.

``UPDATE … WHERE`` waits for others' changes of the row and then looks at it again, so the room is really there. On
PostgreSQL the claim, and the decision that led to it, are inserted by the same statement: one round trip, all or
nothing, with or without a transaction around it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from django.db import connection
from django.db.models import Model

from placement import versions
from placement.models import Claim, Decision

TAKE_ROOM = """
UPDATE placement_hostcapacity SET
  vcpu_claimed = vcpu_claimed + %(vcpus)s,
  memory_claimed_mib = memory_claimed_mib + %(memory_mib)s,
  version = {version}
WHERE host_id = %(host_id)s
  AND (hold = '' OR %(any_hold)s)
  AND vcpu_claimed + %(vcpus)s <= vcpu_capacity
  AND memory_claimed_mib + %(memory_mib)s <= memory_capacity_mib
  AND EXISTS (SELECT 1 FROM inventory_host h
              WHERE h.id = %(host_id)s AND (h.schedulable OR %(any_will)s) AND h.connection = 'up')
"""
DECISION = "decision_"


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


def values_of(row: Model, *, prefix: str = "") -> dict[str, Any]:
    """A row's values as the database driver takes them, by column."""
    return {
        f"{prefix}{field.column}": field.get_db_prep_save(getattr(row, field.attname), connection)
        for field in row._meta.concrete_fields
    }
