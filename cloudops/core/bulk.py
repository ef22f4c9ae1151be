"""Writing many rows that exist, each with its own values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from django.db import models

M = TypeVar("M", bound=models.Model)


def overwrite(rows: Sequence[M], fields: Sequence[str]) -> None:
    """Writes ``fields`` of rows that were loaded and are locked, in few statements.

    ``INSERT … ON CONFLICT DO UPDATE``: ``bulk_update``'s CASE grows with rows times fields. The lock matters: a row
    that somebody deletes meanwhile would come back.
    """
    if rows:
        manager = type(rows[0])._default_manager
        manager.bulk_create(rows, update_conflicts=True, unique_fields=["pk"], update_fields=list(fields))
