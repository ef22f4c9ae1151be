"""How an operation is told to whom. Some are at work inside the fleet: their words name hosts, room and addresses,
and people who do not see the fleet read only that they are, how far they are and whether they went well."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any, Final

from django.db.models import QuerySet

from cloudops.core.models import Operation

INTERNAL: Final[dict[str, str]] = {}
"""Kinds at work inside the fleet, with the verb that outsiders read before the subject's name."""
INSIDE: Final = "inside"
"""Key of a step that outsiders read by its name only."""
NOBODY: Final = "CloudOps"
BUSY: Final = "Another operation is at work on this VM."
"""Said to everybody: who asks is known by name only where it is refused, and the operation's page tells the rest."""
FAILED: Final = "It did not work."
REMEDY: Final = "Ask an administrator."


def keep_inside(kind: str, verb: str) -> None:
    """From now on operations of this kind tell outsiders nothing of the fleet; apps say so when they are ready."""
    INTERNAL[kind] = verb


def told_to(user: Any, operation: Operation) -> Operation:
    """The operation as ``user`` may read it: itself, or an unsaved copy. Outsiders learn nobody else's name."""
    if user.sees_fleet:
        return operation
    told = copy(operation)
    if told.requested_by_id != user.pk:
        told.requested_by_id, told.requested_by_name = None, NOBODY
    if (verb := INTERNAL.get(told.kind)) is not None:
        told.title = f"{verb} {told.subject_name}"[:200]
        told.steps = [{**one, "detail": ""} for one in told.steps]
        told.params, told.result = {}, {}
        if told.error_code:
            told.error_code, told.error_detail, told.error_remedy = "operation-failed", FAILED, REMEDY
    elif any(one.get(INSIDE) for one in told.steps):
        _hide_steps(told)
    return told


def _hide_steps(told: Operation) -> None:
    """A part of it is at work inside the fleet: that part is told by its names, and how it failed not at all."""
    failed = any(one.get(INSIDE) and one["status"] == "failed" for one in told.steps)
    told.steps = [{**one, "detail": ""} if one.get(INSIDE) else one for one in told.steps]
    if failed and told.error_code:
        told.error_code, told.error_detail, told.error_remedy = "operation-failed", FAILED, REMEDY


def at_work(operation: Operation) -> str:
    """What somebody reads who wants to begin something while this is at work."""
    return BUSY if operation.kind in INTERNAL else f"“{operation.title}” is {operation.status}."


def all_told_to(user: Any, rows: Iterable[Operation]) -> list[Operation]:
    """:func:`told_to` for each."""
    return [told_to(user, row) for row in rows]


def searchable(user: Any, rows: QuerySet[Operation], text: str) -> QuerySet[Operation]:
    """Rows whose words that ``user`` may read hold ``text``: nobody finds out by searching what he is not told."""
    if user.sees_fleet:
        return rows.filter(title__icontains=text) | rows.filter(requested_by_name__icontains=text)
    return rows.filter(subject_name__icontains=text) | rows.exclude(kind__in=INTERNAL).filter(title__icontains=text)
