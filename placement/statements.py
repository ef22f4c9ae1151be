"""The statements that take room: checked and taken at once, written by hand as no ORM expresses them.

``UPDATE … WHERE`` waits for others' changes of the row and then looks at it again, so the room is really there. On
PostgreSQL the claim is inserted by the same statement, and the decision that led to it by one that goes with it: one
round trip, all or nothing, with or without a transaction around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from operator import itemgetter
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection
from django.db.models import Model
from django.db.models.base import ModelState

from placement import versions
from placement.models import Claim, HostCapacity
from placement.prepared import Statement

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
TAKEN = "cloudops.claim"
TERMS = ("any_hold", "any_will", "structure")
M = TypeVar("M", bound=Model)


@cache
def take_postgres() -> Statement:
    """Takes the room and inserts the claim; does nothing when there is no room. Until the transaction ends what goes
    with it can see which claim that was."""
    noted = f"set_config('{TAKEN}', %(id)s::uuid::text, true)"
    room = f"WITH room AS ({TAKE_ROOM.format(version=versions.POSTGRES_NOW)} RETURNING {noted})"
    names, binary = _parameters(Claim)
    return Statement(f"{room}\n{_insert(Claim)} FROM room", (*TERMS, *names), binary)


@cache
def beside_postgres(model: type[Model]) -> Statement:
    """Inserts such a row beside a claim, the last parameter; does nothing where that was not taken just before.

    To look for the claim's row would cost more: a plan made while the table is small reads all of it for ever."""
    names, binary = _parameters(model)
    there = f"current_setting('{TAKEN}', true) = %(claim)s::uuid::text"
    return Statement(f"{_insert(model)} WHERE {there}", (*names, "claim"), binary | {"claim"})


def take_room() -> str:
    """Only the first part, where the rest are statements of their own."""
    return TAKE_ROOM.format(version=versions.now_sql())


def _insert(model: type[Model]) -> str:
    fields = model._meta.concrete_fields
    columns = [str(field.column) for field in fields]
    values = [f"%({field.column})s::{field.db_type(connection)}" for field in fields]
    return f"INSERT INTO {model._meta.db_table} ({', '.join(columns)}) SELECT {', '.join(values)}"


def _parameters(model: type[Model]) -> tuple[list[str], frozenset[str]]:
    """Names of a row's values, and of those that go as bytes."""
    types = {str(field.column): field.db_type(connection) for field in model._meta.concrete_fields}
    return list(types), frozenset(name for name, kind in types.items() if kind in ("bytea", "uuid"))


def made(model: type[M], **values: Any) -> M:
    """``model(**values)``, where the values are those of all columns, by attribute: at a tenth of its price. No signals
    are sent."""
    row = model.__new__(model)
    row._state = ModelState()
    row.__dict__.update(values)
    return row


def key_of(host_id: UUID) -> Any:
    """A host's id as the present database keeps it."""
    return HostCapacity._meta.pk.get_db_prep_value(host_id, connection)


def values_of(row: Model) -> tuple[Any, ...]:
    """A row's values in the order of its columns, for a statement."""
    return _getter(type(row))(row.__dict__)


@cache
def _getter(model: type[Model]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    return itemgetter(*(field.attname for field in model._meta.concrete_fields))
