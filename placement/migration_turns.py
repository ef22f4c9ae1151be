"""Whose turn it is: how many migrations may be under way on a host and in all, and which may begin now.

A migration of which nobody knows where its VM is takes nobody's turn: it may stay so until its host is back, or fenced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self
from uuid import UUID

from cloudops.core import runtime
from cloudops.core.models import RuntimeSettings
from cloudops.inventory.models import Connection
from placement import migration_words
from placement.models import VmMigration

UNDER_WAY = (VmMigration.Phase.COPYING, VmMigration.Phase.VERIFYING)
UNCLEAR: Final = "unclear"
"""Key in a migration's progress while a host that would have to be asked is silent, or two contradict each other."""


@dataclass
class Turns:
    """What is under way now, by host, and the installation's limits. A maintenance job may have its own for hosts."""

    total: int
    on_host: Counter[UUID]
    limits: RuntimeSettings
    rows: Sequence[VmMigration] = field(default=())

    @classmethod
    def read(cls, *, lock: bool = False) -> Self:
        """As of now. ``lock``: nobody else decides until the caller's transaction ends."""
        if lock:
            RuntimeSettings.objects.select_for_update(no_key=True).filter(pk=1).first()
        found = known().filter(phase__in=UNDER_WAY).select_related("vm", "source", "target").order_by("created_at")
        rows = list(found)
        return cls(
            len(rows), Counter(host for row in rows for host in (row.source_id, row.target_id)), runtime.current(), rows
        )

    def why_not_yet(self, migration: VmMigration) -> str:
        """In words; empty when its turn has come. Needs ``source``, ``target`` and ``maintenance`` joined."""
        if self.total >= self.limits.migration_total_limit:
            return self._waiting("", self.total, self.limits.migration_total_limit, self.rows)
        job = migration.maintenance
        most = (job.host_parallel if job is not None else None) or self.limits.migration_host_limit
        for host in (migration.source, migration.target):
            if self.on_host[host.pk] >= most:
                here = [row for row in self.rows if host.pk in {row.source_id, row.target_id}]
                return self._waiting(host.name, self.on_host[host.pk], most, here)
        return ""

    def _waiting(self, host_name: str, moving: int, limit: int, rows: Sequence[VmMigration]) -> str:
        hosts = [host for row in rows for host in (row.source, row.target)]
        dead = sorted({host.name for host in hosts if host.connection == Connection.UNREACHABLE})
        return migration_words.waiting(host_name, moving, limit, names=[row.vm.name for row in rows], dead=dead)

    def count(self, migration: VmMigration) -> None:
        """This one goes too."""
        self.total += 1
        self.on_host.update([migration.source_id, migration.target_id])


def known() -> Any:
    """Migrations that have not ended, without those that wait to learn where their VM is."""
    return VmMigration.objects.filter(ended_at__isnull=True).exclude(progress__has_key=UNCLEAR)
