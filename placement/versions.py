"""The version of a change, by which schedulers find what is new to them since they last looked.

On PostgreSQL it is the number of the changing transaction. Sequence values are committed out of order, and transaction
numbers too, but PostgreSQL tells the oldest one that is still at work (``pg_snapshot_xmin``): whoever reads everything
from that one on misses nothing, however long a transaction takes. On SQLite writers come one after the other, and the
next free number is taken under their lock.
"""

from __future__ import annotations

from typing import Any

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BigIntegerField, Expression

_asked = 0
POSTGRES_NOW = "(pg_current_xact_id()::text::bigint)"
SQLITE_NOW = "(SELECT COALESCE(MAX(version), 0) + 1 FROM placement_hostcapacity)"
POSTGRES_OLDEST = "(pg_snapshot_xmin(pg_current_snapshot())::text::bigint)"


class Now(Expression):
    """The present transaction's version, for ``update(version=versions.Now())``."""

    def __init__(self) -> None:
        global _asked
        _asked += 1
        super().__init__(output_field=BigIntegerField())

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper) -> tuple[str, tuple[str | int, ...]]:
        return now_sql(connection.vendor), ()


def now_sql(vendor: str = "") -> str:
    """The same as SQL."""
    return POSTGRES_NOW if (vendor or connection.vendor) == "postgresql" else SQLITE_NOW


def asked() -> int:
    """How many changes this process has made or begun, but for claims of its schedulers."""
    return _asked
