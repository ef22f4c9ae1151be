"""The statement that takes room: checked and taken at once, written by hand as no ORM expresses it.

``UPDATE … WHERE`` waits for others' changes of the row and then looks at it again, so the room is really there. On
PostgreSQL the claim, and the decision that led to it, are inserted by the same statement: one round trip, all or
nothing, with or without a transaction around it.

What every placement runs is prepared once per connection, as planning it would cost more than executing it; and outside
a transaction it goes straight to libpq: a driver's cursor costs several times what the statement's own exchange does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from operator import attrgetter, itemgetter
from typing import Any, TypeVar, cast
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.db.models.base import ModelState
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn

from placement import versions
from placement.models import Claim, HostCapacity

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
TERMS = ("any_hold", "any_will", "structure")
M = TypeVar("M", bound=Model)
_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)


@dataclass(frozen=True, eq=False)
class Statement:
    """PostgreSQL's, with ``%(name)s`` where its parameters go; those in ``binary`` (``bytea``, ``uuid``) are sent as
    bytes, all others as text."""

    text: str
    names: tuple[str, ...]
    binary: frozenset[str] = frozenset()

    @cached_property
    def name(self) -> bytes:
        """The prepared statement's, in every connection."""
        return b"cloudops_" + sha256(self.numbered).hexdigest()[:16].encode()

    @cached_property
    def numbered(self) -> bytes:
        """The text as libpq has it, with $1, $2, …"""
        return (self.text % {name: f"${number}" for number, name in enumerate(self.names, 1)}).encode()

    @cached_property
    def formats(self) -> list[int]:
        return [Format.BINARY if name in self.binary else Format.TEXT for name in self.names]


@dataclass(frozen=True, slots=True)
class Answer:
    """How many rows a statement changed or gave, and those it gave, as text; None for NULL."""

    count: int
    rows: list[tuple[Any, ...]]


@cache
def take_postgres(*more: type[Model]) -> Statement:
    """Takes the room and inserts the claim, and a row of each of these models, with their names before the columns';
    does nothing when there is no room."""
    rows: list[tuple[type[Model], str]] = [(Claim, ""), *((model, f"{model._meta.model_name}_") for model in more)]
    parts = [f"WITH room AS ({TAKE_ROOM.format(version=versions.POSTGRES_NOW)} RETURNING host_id)"]
    names: list[str] = [*TERMS]
    binary: set[str] = set()
    for number, (model, prefix) in enumerate(rows, 1):
        insert = _insert(model, source="room", prefix=prefix)
        parts.append(insert if number == len(rows) else f", part_{number} AS ({insert})")
        names += [f"{prefix}{one.column}" for one in model._meta.concrete_fields]
        binary |= {f"{prefix}{one.column}" for one in model._meta.concrete_fields if one.db_type(connection) in _BINARY}
    return Statement("\n".join(parts), tuple(names), frozenset(binary))


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
    """A row's values in the order of its columns, for :func:`run`."""
    return _getter(type(row))(row.__dict__)


@cache
def _getter(model: type[Model]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    return itemgetter(*(field.attname for field in model._meta.concrete_fields))


def _json(value: Any) -> bytes:
    return _JSON.encode(value).encode()


_BINARY = frozenset({"bytea", "uuid"})
_WIRE: dict[type, Callable[[Any], bytes]] = {
    bytes: bytes,
    str: str.encode,
    UUID: attrgetter("bytes"),
    dict: _json,
    list: _json,
}


def _wire(value: Any) -> bytes | None:
    """As libpq sends it: text, whatever the column's type, but what :class:`Statement` has as ``binary``. One type for
    all: by a driver's own choice of them (a small number, a large one) the same statement would be prepared again and
    again."""
    if value is None:
        return None
    known = _WIRE.get(value.__class__)
    return str(value).encode() if known is None else known(value)


def run(statement: Statement, values: Sequence[Any]) -> Answer:
    """Runs it, prepared, on the present PostgreSQL connection, with values in the order of its names.

    Raises Django's database errors.
    """
    wrapper = connections[DEFAULT_DB_ALIAS]
    plain = not wrapper.get_autocommit() or wrapper.execute_wrappers or wrapper.queries_logged
    return (_by_cursor if plain else _by_libpq)(wrapper, statement, values)


def _by_cursor(wrapper: BaseDatabaseWrapper, statement: Statement, values: Sequence[Any]) -> Answer:
    """Django's way: it begins transactions, and whoever counts or logs queries sees it."""
    with wrapper.cursor() as cursor:
        cursor.cursor = _Prepared(cursor.cursor.connection)
        cursor.execute(statement.text, dict(zip(statement.names, map(_as_text, values), strict=True)))
        return _answer(cursor.cursor.pgresult)


def _as_text(value: Any) -> str | bytes | None:
    if value is None or value.__class__ in (str, bytes):
        return value
    return _JSON.encode(value) if value.__class__ in (dict, list) else str(value)


class _Prepared(psycopg.Cursor[Any]):
    """Binds parameters on the server, where the statement is kept prepared."""

    def execute(self, query: Any, params: Any = None, **_: Any) -> _Prepared:
        return super().execute(query, params, prepare=True)


_prepared: WeakKeyDictionary[psycopg.Connection[Any], set[bytes]] = WeakKeyDictionary()


def _by_libpq(wrapper: BaseDatabaseWrapper, statement: Statement, values: Iterable[Any]) -> Answer:
    """Waits as long as the server's ``statement_timeout`` lets it, as any statement does."""
    wrapper.close_if_health_check_failed()
    wrapper.ensure_connection()
    line: psycopg.Connection[Any] = wrapper.connection
    packed = [_wire(value) for value in values]
    with wrapper.wrap_database_errors, line.lock:
        known = _prepared.setdefault(line, set())
        if statement.name in known:
            with suppress(psycopg.errors.InvalidSqlStatementName):  # psycopg forgets all when it rolls back
                return _executed(line.pgconn, statement, packed)
        _demand(line.pgconn.prepare(statement.name, statement.numbered))
        known.add(statement.name)
        return _executed(line.pgconn, statement, packed)


def _executed(line: PGconn, statement: Statement, packed: list[bytes | None]) -> Answer:
    # libpq knows NULL, which psycopg's types of it do not
    return _answer(_demand(line.exec_prepared(statement.name, cast(list[bytes], packed), statement.formats)))


_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


def _demand(found: Any) -> Any:
    if found.status not in _GOOD:
        raise psycopg.errors.error_from_result(found)
    return found


def _answer(found: Any) -> Answer:
    columns = range(found.nfields)
    rows = [tuple(found.get_value(row, column) for column in columns) for row in range(found.ntuples)]
    return Answer(found.command_tuples or 0, rows)
