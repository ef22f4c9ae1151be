"""A project's quotas beside what its VMs use of them; what that is, the layers above tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from cloudops.accounts.models import Project
from cloudops.accounts.signals import project_use
from cloudops.core import capacity

QUOTAS: Final = {
    "vcpus": ("vCPUs", ""),
    "memory_mib": ("Memory", "MiB"),
    "consoles": ("Consoles", ""),
}
"""What may have a quota: its name for people and its unit."""


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """``used`` of ``limit`` (None: no quota) of one thing."""

    name: str
    label: str
    unit: str
    used: int
    limit: int | None

    @property
    def words(self) -> str:
        """ "1.5 of 4 GiB", or only what is used where there is no quota."""
        if self.limit is None:
            return capacity.amount(self.used, self.unit)
        numbers, unit = capacity.numbers(self.used, self.limit, self.unit)
        return f"{numbers} {unit}".strip()


def use_of(projects: Sequence[Project], *, now: datetime) -> dict[UUID, list[QuotaUse]]:
    """Every quota of each project with its use, in a constant number of queries."""
    ids = [project.pk for project in projects]
    found: dict[UUID, dict[str, int]] = {pk: {} for pk in ids}
    answers: list[tuple[Any, Any]] = project_use.send(sender=None, project_ids=ids, now=now)
    for _, answer in answers:
        for pk, counts in answer.items():
            found[pk] |= counts
    return {
        project.pk: [
            QuotaUse(name, label, unit, found[project.pk].get(name, 0), getattr(project, f"quota_{name}"))
            for name, (label, unit) in QUOTAS.items()
        ]
        for project in projects
    }
