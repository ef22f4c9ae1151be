"""How many examples a property is tried with."""

from __future__ import annotations

from django.db import connection


def examples(count: int) -> int:
    """``count`` on PostgreSQL, what installations run on; a third on SQLite, where the same code goes the same ways."""
    return count if connection.vendor == "postgresql" else -(-count // 3)
