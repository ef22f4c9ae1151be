"""How a migration is shown while it runs and afterwards: how far it is, in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import QuerySet

from cloudops.core.models import Operation
from placement import migration_words
from placement.models import VmMigration

PHASES = {
    VmMigration.Phase.PREPARING: "Preparing.",
    VmMigration.Phase.COPYING: "Copying memory.",
    VmMigration.Phase.VERIFYING: "Making sure that it runs there, and only there.",
}
OUTCOMES = {
    Operation.Status.SUCCEEDED: ("arrived", "ok"),
    Operation.Status.FAILED: ("failed", "danger"),
    Operation.Status.CANCELLED: ("aborted", "off"),
}


@dataclass(frozen=True, slots=True)
class MigrationLine:
    """One migration: ``state`` in a word with its kind for the dot, ``percent`` None before copying begins."""

    row: VmMigration
    state: str
    kind: str
    words: str
    percent: int | None
    why_no_abort: str
    seconds: float | None

    @property
    def running(self) -> bool:
        return self.row.ended_at is None


def shown() -> QuerySet[VmMigration]:
    """Migrations with everything a line needs, in one query."""
    return VmMigration.objects.select_related("operation", "vm", "source", "target", "maintenance")


def lines(rows: Iterable[VmMigration]) -> list[MigrationLine]:
    """A line for each, in this order."""
    return [line(row) for row in rows]


def line(row: VmMigration) -> MigrationLine:
    """One migration's line."""
    if row.ended_at is not None:
        return _ended(row)
    aborting = row.abort_requested_at is not None
    return MigrationLine(
        row=row,
        state="aborting" if aborting else "moving" if row.copying_since else "waiting",
        kind="busy",
        words=f"{row.abort_requested_by} asked to abort it." if aborting else _under_way(row),
        percent=row.progress.get("percent") if row.copying_since else None,
        why_no_abort="It is being aborted already." if aborting else "",
        seconds=None,
    )


def _under_way(row: VmMigration) -> str:
    """What it does now: the hypervisor's numbers, or the step's own words."""
    if row.progress.get("unclear"):
        return str(row.progress["unclear"])
    stumbled = row.progress.get("stumbles")  # then the step says so
    if row.phase == VmMigration.Phase.COPYING and row.progress.get("memory_total_mib") and not stumbled:
        return migration_words.copying(row.progress)
    steps = [one["detail"] for one in row.operation.steps if one["status"] in ("pending", "running") and one["detail"]]
    return steps[-1] if steps else PHASES.get(VmMigration.Phase(row.phase), "")


def _ended(row: VmMigration) -> MigrationLine:
    operation = row.operation
    state, kind = OUTCOMES.get(Operation.Status(operation.status), (operation.status, "neutral"))
    well = operation.status == Operation.Status.SUCCEEDED
    seconds = (row.ended_at - row.created_at).total_seconds() if row.ended_at else None
    words = migration_words.copied(row.progress) if well and row.mode == VmMigration.Mode.LIVE else ""
    return MigrationLine(row, state, kind, words or operation.error_detail, None, "It has ended.", seconds)
