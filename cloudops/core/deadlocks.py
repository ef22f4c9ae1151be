"""A transaction that is made again when it was a deadlock's victim: others lock the same rows in another order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from django.db import OperationalError, connection, transaction

T = TypeVar("T")
TRIES: Final = 4


def without_deadlock(step: Callable[[], T]) -> T:
    """Runs ``step`` in a transaction of its own; again, up to :data:`TRIES` times, when the database chose it to end a
    deadlock. Within another transaction there is nothing that could be made again: it is then run once."""
    for left in reversed(range(TRIES)):
        try:
            with transaction.atomic():
                return step()
        except OperationalError as error:
            deadlock = getattr(error.__cause__, "sqlstate", "") == "40P01"
            if not deadlock or not left or connection.in_atomic_block:
                raise
    raise AssertionError("unreachable")  # pragma: no cover
