"""Whose turn it is: how many migrations may be under way on a host and in all, and which may begin now."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from cloudops.core import runtime
from cloudops.core.models import RuntimeSettings
from placement import migration_words
from placement.models import VmMigration

UNDER_WAY = (VmMigration.Phase.COPYING, VmMigration.Phase.VERIFYING)


@dataclass
class Turns:
    """What is under way now, by host, and the installation's limits. A maintenance job may have its own for hosts."""

    total: int
    on_host: Counter[UUID]
    limits: RuntimeSettings

    @classmethod
    def read(cls, *, lock: bool = False) -> Self:
        """As of now. ``lock``: nobody else decides until the caller's transaction ends."""
        if lock:
            RuntimeSettings.objects.select_for_update(no_key=True).filter(pk=1).first()
        rows = VmMigration.objects.filter(ended_at__isnull=True, phase__in=UNDER_WAY).order_by()
        pairs = list(rows.values_list("source_id", "target_id"))
        return cls(len(pairs), Counter(host for pair in pairs for host in pair), runtime.current())

    def why_not_yet(self, migration: VmMigration) -> str:
        """In words; empty when its turn has come. Needs ``source``, ``target`` and ``maintenance`` joined."""
        if self.total >= self.limits.migration_total_limit:
            return migration_words.waiting("", self.total, self.limits.migration_total_limit)
        job = migration.maintenance
        most = (job.host_parallel if job is not None else None) or self.limits.migration_host_limit
        for host in (migration.source, migration.target):
            if self.on_host[host.pk] >= most:
                return migration_words.waiting(host.name, self.on_host[host.pk], most)
        return ""

    def count(self, migration: VmMigration) -> None:
        """This one goes too."""
        self.total += 1
        self.on_host.update([migration.source_id, migration.target_id])
