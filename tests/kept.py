"""Rows that many tests begin with: made once by the code that makes them, and put back as they were for the next test.

Building an installation through the product's own functions costs a tenth of a second and more; copying its rows costs
a few thousandths. Every test still has objects and rows of its own.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.apps import apps
from django.db import connection

T = TypeVar("T")
FRESH_SECONDS = 45.0
"""Rows hold times that count from when they were made; so old they may become before they are made anew."""

Row = tuple[Any, ...]


class Kept(Generic[T]):
    """``Kept(build)()`` is what ``build()`` returns, in a database that holds what ``build`` left there. ``build``
    begins with the database as migrations leave it, and returns what pickle can copy: rows, or a container of them."""

    def __init__(self, build: Callable[[], T]) -> None:
        self._build = build
        self._copy: _Copy | None = None

    def __call__(self) -> T:
        """Call it inside a test's transaction."""
        if self._copy is None or time.monotonic() - self._copy.made_at > FRESH_SECONDS:
            return self._make()
        self._copy.put()
        made: T = pickle.loads(self._copy.objects)  # noqa: S301 - our own
        return made

    def _make(self) -> T:
        before = _everything()
        made = self._build()
        changed = {table: rows for table, rows in _everything().items() if rows != before[table]}
        replaced = [table for table in changed if before[table]]
        self._copy = _Copy(time.monotonic(), changed, replaced, pickle.dumps(made))
        return made


@dataclass(frozen=True, slots=True)
class _Copy:
    """Rows by table. ``replaced``: tables that were not empty before, and are emptied first."""

    made_at: float
    rows: Mapping[str, Sequence[Row]]
    replaced: Sequence[str]
    objects: bytes

    def put(self) -> None:
        columns = _tables()
        with connection.cursor() as cursor:
            for table in self.replaced:
                cursor.execute(f"DELETE FROM {_quoted(table)}")  # noqa: S608 - our own tables
            for table, rows in self.rows.items():
                if rows:
                    values = ", ".join(["(" + ", ".join(["%s"] * len(rows[0])) + ")"] * len(rows))
                    cursor.execute(
                        f"INSERT INTO {_quoted(table)} ({columns[table]}) VALUES {values}",  # noqa: S608
                        [value for row in rows for value in row],
                    )


def _tables() -> dict[str, str]:
    """Columns of each table, as SQL."""
    models = [model for model in apps.get_models(include_auto_created=True) if model._meta.managed]
    return {
        model._meta.db_table: ", ".join(_quoted(str(field.column)) for field in model._meta.local_concrete_fields)
        for model in models
        if not model._meta.proxy
    }


def _everything() -> dict[str, Sequence[Row]]:
    """All rows of all tables, as the database's driver has them."""
    found: dict[str, Sequence[Row]] = {}
    with connection.cursor() as cursor:
        for table, columns in _tables().items():
            cursor.execute(f"SELECT {columns} FROM {_quoted(table)}")  # noqa: S608 - our own tables
            found[table] = cursor.fetchall()
    return found


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)
