"""PostgreSQL statements that every placement runs: prepared once per connection, as planning one would cost more than
executing it; and outside a transaction straight through libpq, as a driver's cursor costs several times what the
exchange itself does.

What follows a statement goes with it, in one transaction (a pipeline, libpq's "pipeline mode"): it is made while the
server is at work on the first.
"""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from operator import attrgetter
from typing import Any, cast
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.errors import InvalidSqlStatementName
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

WAIT_SECONDS = 30.0
"""Longer than the server's ``statement_timeout``."""
_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement with ``%(name)s`` where its parameters go; those in ``binary`` (``bytea``, ``uuid``) are sent as
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


Call = tuple[Statement, Sequence[Any]]
"""A statement and its values, in the order of its names."""
Then = Callable[[], Sequence[Call]]


@dataclass(frozen=True, slots=True)
class Answer:
    """How many rows a statement changed or gave, and those it gave, as text; None for NULL."""

    count: int
    rows: list[tuple[Any, ...]]


def run(statement: Statement, values: Sequence[Any], *, then: Then = tuple) -> Answer:
    """Runs it on the present PostgreSQL connection, and what follows it, all or nothing; returns its own answer.

    ``then`` is asked for what follows before the answer is known, with the first one's locks held: it must not wait for
    anything, and those statements must do nothing by themselves where the first did nothing. Raises Django's database
    errors.
    """
    wrapper = connections[DEFAULT_DB_ALIAS]
    if wrapper.get_autocommit() and not wrapper.execute_wrappers and not wrapper.queries_logged:
        return _by_libpq(wrapper, (statement, values), then)
    answer = _by_cursor(wrapper, (statement, values))
    for call in then() if answer.count else ():
        _by_cursor(wrapper, call)
    return answer


def _by_cursor(wrapper: BaseDatabaseWrapper, call: Call) -> Answer:
    """Django's way: it begins transactions, and whoever counts or logs queries sees it."""
    statement, values = call
    with wrapper.cursor() as cursor:
        cursor.cursor = _Prepared(cursor.cursor.connection)
        cursor.execute(statement.text, dict(zip(statement.names, map(_as_text, values), strict=True)))
        return _answer(cursor.cursor.pgresult)


class _Prepared(psycopg.Cursor[Any]):
    """Binds parameters on the server, where the statement is kept prepared."""

    def execute(self, query: Any, params: Any = None, **_: Any) -> _Prepared:
        return super().execute(query, params, prepare=True)


def _as_text(value: Any) -> str | bytes | None:
    """One type for all parameters: by a driver's own choice of them (a small number, a large one, none) the same
    statement would be prepared again and again."""
    if value is None or value.__class__ in (str, bytes):
        return value
    return _JSON.encode(value) if value.__class__ in (dict, list) else str(value)


def _json(value: Any) -> bytes:
    return _JSON.encode(value).encode()


_WIRE: dict[type, Callable[[Any], bytes]] = {
    bytes: bytes,
    str: str.encode,
    UUID: attrgetter("bytes"),
    dict: _json,
    list: _json,
}


def _wire(value: Any) -> bytes | None:
    """As libpq sends it: text, but what :class:`Statement` has as ``binary``."""
    if value is None:
        return None
    known = _WIRE.get(value.__class__)
    return str(value).encode() if known is None else known(value)


_known: WeakKeyDictionary[psycopg.Connection[Any], set[bytes]] = WeakKeyDictionary()


def _by_libpq(wrapper: BaseDatabaseWrapper, first: Call, then: Then) -> Answer:
    """Waits as long as the server's ``statement_timeout`` lets it, as any statement does."""
    wrapper.close_if_health_check_failed()
    wrapper.ensure_connection()
    line: psycopg.Connection[Any] = wrapper.connection
    with wrapper.wrap_database_errors, line.lock:
        known = _known.setdefault(line, set())
        following: list[Call] = []

        def once() -> Sequence[Call]:
            following.extend(() if following else then())
            return following

        while True:
            try:
                return _Exchange(line.pgconn, known).run(first, once)
            except _Forgotten as forgotten:  # psycopg forgets all when it rolls back
                known.discard(forgotten.name)


class _Forgotten(Exception):
    """The server does not know a statement any more that was prepared. Nothing was done."""

    def __init__(self, name: bytes) -> None:
        super().__init__(name)
        self.name = name


@dataclass(slots=True)
class _Exchange:
    """One pipeline on a connection: everything up to its end is one transaction."""

    line: PGconn
    known: set[bytes]
    sent: list[tuple[bytes, bool]] = field(default_factory=list)
    """Names of what was sent, and whether that was the statement itself, not its preparation."""

    def run(self, first: Call, then: Then) -> Answer:
        self.line.enter_pipeline_mode()
        try:
            self._send(*first)
            self._flush()
            for call in then():
                self._send(*call)
            self.line.pipeline_sync()
            found = self._heard()
            self.line.exit_pipeline_mode()
        except BaseException:
            self.line.finish()  # the server undoes what it was sent without an end
            raise
        return self._answer_of(found)

    def _send(self, statement: Statement, values: Sequence[Any]) -> None:
        if statement.name not in self.known:
            self.line.send_prepare(statement.name, statement.numbered)
            self.sent.append((statement.name, False))
        # libpq knows NULL, which psycopg's types of it do not
        packed = cast(list[bytes], [_wire(value) for value in values])
        self.line.send_query_prepared(statement.name, packed, statement.formats)
        self.sent.append((statement.name, True))

    def _flush(self) -> None:
        """Off with it. What the socket does not take at once is waited for."""
        while self.line.flush():
            self._wait(select.POLLOUT)

    def _heard(self) -> list[PGresult]:
        """An answer to each that was sent; None comes after each, and twice only from a server that is gone."""
        found: list[PGresult] = []
        last: PGresult | None = None
        while True:
            while self.line.is_busy():
                self._wait(select.POLLIN)  # libpq would wait as well, but with all of Python
                self.line.consume_input()
            result = self.line.get_result()
            if result is None and last is None and found:
                raise psycopg.OperationalError("The database server closed the connection.")
            if result is not None:
                if result.status == ExecStatus.PIPELINE_SYNC:
                    return found
                found.append(result)
            last = result

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.line.socket, event)
        if not poll.poll(WAIT_SECONDS * 1e3):
            raise psycopg.OperationalError("The database server does not answer.")

    def _answer_of(self, found: Sequence[PGresult]) -> Answer:
        """The first statement's. What is answered beyond what was sent is about the end: a constraint that is checked
        then."""
        answer: Answer | None = None
        for (name, is_statement), result in zip(self.sent, found, strict=False):
            _demand(result, name)
            if not is_statement:
                self.known.add(name)
            elif answer is None:
                answer = _answer(result)
        for result in found[len(self.sent) :]:
            _demand(result)
        if answer is None:
            raise AssertionError("a statement was sent")
        return answer


def _demand(result: PGresult, statement: bytes = b"") -> None:
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        error = psycopg.errors.error_from_result(result)
        if isinstance(error, InvalidSqlStatementName):
            raise _Forgotten(statement) from error
        raise error


def _answer(found: Any) -> Answer:
    columns = range(found.nfields)
    rows = [tuple(found.get_value(row, column) for column in columns) for row in range(found.ntuples)]
    return Answer(found.command_tuples or 0, rows)
