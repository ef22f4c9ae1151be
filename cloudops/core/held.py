"""A runner's hold on a row: taken by compare-and-set for a short lease, which every write renews.

For models with ``runner``, ``runner_until``, ``created_at`` and ``ended_at``. A runner that dies is no more. Once its
lease has lapsed another takes the row, and whoever lost it finds out with its next write, before it does anything.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from django.conf import settings
from django.db.models import Model, Q, QuerySet

from cloudops.core.errors import TransitionConflict

M = TypeVar("M", bound=Model)

SKEW_SECONDS: Final = 2.0
"""By how much servers' clocks and a statement's way to the database may differ without a lease being misjudged."""
LEASE_SECONDS: Final = 8.0
"""How long a runner may be silent between two calls; a call to a hypervisor adds that endpoint's own deadline."""
REQUEUE_SECONDS: Final = 10.0
"""How long a row that was queued waits to be taken up before it is queued again."""
UNQUEUED_SECONDS: Final = 2.0
"""How long a new row may be on its way to its first runner."""


class Lost(Exception):
    """Another runner has the row now, or it has ended."""


class Held(Generic[M]):
    """``row`` as it was read last, brought up to date by :meth:`write`."""

    def __init__(self, row: M, clock: Callable[[], datetime]) -> None:
        self.row = row
        self.me: str = row.runner  # type: ignore[attr-defined]
        self.clock = clock

    @property
    def mine(self) -> QuerySet[M]:
        """The row, as long as it is this runner's."""
        rows = type(self.row)._default_manager.filter(pk=self.row.pk, runner=self.me, ended_at__isnull=True)
        return rows.order_by()

    def write(self, now: datetime, **fields: Any) -> None:
        """The only way the row changes: while it is ours. Also the heartbeat. Raises :class:`Lost`."""
        fields = {"runner_until": now + timedelta(seconds=LEASE_SECONDS), **fields}
        if self.mine.update(**fields) != 1:
            raise Lost
        for name, value in fields.items():
            setattr(self.row, name, value)

    def let_go(self, *, until: datetime) -> None:
        """Another runner may take it up; nobody is sent for it before ``until``."""
        self.write(until, runner="", runner_until=until)

    def renew_for(self, seconds: float) -> None:
        """Holds the row for as long as a call that may take ``seconds``: whoever acts still has it."""
        now = self.clock()
        self.write(now, runner_until=now + timedelta(seconds=LEASE_SECONDS + seconds))


def take(rows: QuerySet[M], *, now: datetime) -> str:
    """Takes the one row among ``rows`` for a new runner and returns that runner's name. Raises
    :class:`TransitionConflict` when another has it or it has ended."""
    me = f"{settings.SERVER_NAME[:24]}/{os.getpid()}/{uuid.uuid4().hex[:12]}"
    free = rows.filter(Q(runner="") | _lapsed(now) | Q(runner_until__isnull=True), ended_at__isnull=True)
    if not free.update(runner=me, runner_until=now + timedelta(seconds=LEASE_SECONDS)):
        raise TransitionConflict("Another worker has this in hand, or it has ended.")
    return me


def lost(*, now: datetime) -> Q:
    """Rows that no runner has in hand and none was sent for: those that wait, and those whose runner is gone."""
    new = Q(runner_until__isnull=True, created_at__lt=now - timedelta(seconds=UNQUEUED_SECONDS))
    return Q(ended_at__isnull=True) & (_lapsed(now) | Q(runner="", runner_until__lte=now) | new)


def send_for(row: M, *, now: datetime) -> bool:
    """Whether it is the caller who is to queue this row, as it was read: nobody else was quicker."""
    same = {"pk": row.pk, "runner": row.runner, "runner_until": row.runner_until}  # type: ignore[attr-defined]
    until = now + timedelta(seconds=REQUEUE_SECONDS)
    return bool(type(row)._default_manager.filter(**same).update(runner="", runner_until=until))


def _lapsed(now: datetime) -> Q:
    """By the clock of the server that wrote it."""
    return Q(runner_until__lt=now - timedelta(seconds=SKEW_SECONDS))
