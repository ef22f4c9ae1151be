"""One look at a maintenance job: its rows and what the inventory says, in a number of queries that does not depend on
how many VMs there are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cloudops.core.models import Operation
from cloudops.inventory.models import Connection, Host, Vm
from placement.maintenance import jobs
from placement.maintenance.judging import Ended, Row, Seen
from placement.maintenance.options import Mode, VmChoice
from placement.models import (
    Maintenance,
    MaintenanceHost,
    MaintenanceHostStatus,
    MaintenanceMove,
    MoveStatus,
    VmMigration,
)

LIVE: Final = (Operation.Status.PENDING, Operation.Status.RUNNING)


@dataclass(slots=True)
class Look:
    """Everything about a job. ``busy``: the live operation of each VM that has one. ``arriving``: hosts of this job
    that somebody's VMs are on their way to."""

    job: Maintenance
    hosts: list[MaintenanceHost]
    moves: list[MaintenanceMove]
    busy: Mapping[UUID, Operation]
    targets: Mapping[UUID, Host]
    arriving: Collection[UUID]

    @property
    def active(self) -> frozenset[UUID]:
        """Hosts that are out of use now."""
        return frozenset(row.host_id for row in self.hosts if row.status in jobs.ACTIVE)

    def leaving(self, move: MaintenanceMove) -> frozenset[UUID]:
        """Where the VM must not stay."""
        if move.leaves_id is None:
            return self.active
        on_the_way = self.job.mode == Mode.RETURN and move.target_id not in {None, move.choice_host_id}
        return frozenset({move.leaves_id, move.target_id} if on_the_way and move.target_id else {move.leaves_id})

    def row(self, move: MaintenanceMove) -> Row:
        """The move as it is judged."""
        operation = move.operation
        ended = None
        if operation is not None and operation.status not in LIVE:
            target = self.targets.get(operation.pk)
            ended = Ended(
                ok=operation.status == Operation.Status.SUCCEEDED,
                code=operation.error_code,
                detail=operation.error_detail,
                target_id=str(target.pk) if target is not None else "",
                target_name=target.name if target is not None else "its destination",
            )
        return Row(
            status=move.status,
            reason_code=move.reason_code,
            choice=move.choice,
            relaxed=frozenset(move.relaxed),
            makes_room=move.leaves_id is not None and self.job.mode != Mode.RETURN,
            returns=self.job.mode == Mode.RETURN,
            running=operation is not None and operation.status in LIVE,
            ended=ended,
        )

    def seen(self, move: MaintenanceMove) -> Seen:
        """Its VM as the inventory has it."""
        operation = self.busy.get(move.vm_id)
        other = operation if operation is not None and operation.pk != move.operation_id else None
        return seen(move.vm, other.title if other is not None else "")


def seen(vm: Vm, busy: str) -> Seen:
    """A VM (with its host) as it is judged."""
    return Seen(
        power_state=vm.power_state,
        state_words=vm.get_power_state_display(),
        host_id=vm.host_id,
        host_name=vm.host.name,
        host_up=vm.host.connection == Connection.UP,
        host_error=vm.host.error_detail,
        missing=vm.missing_since is not None,
        pinned=vm.pinned,
        busy=busy,
    )


def choice_of(move: MaintenanceMove) -> VmChoice:
    """What is chosen for the VM so far."""
    return VmChoice(move.choice, move.choice_host_id, frozenset(move.relaxed))


def look(job: Maintenance) -> Look:
    """Reads it; whoever acts on it holds the job's row."""
    hosts = list(job.hosts.select_related("host__endpoint"))
    moves = list(job.moves.select_related("vm__host", "operation", "target"))
    under_way = [move.operation_id for move in moves if move.status == MoveStatus.MOVING and move.operation_id]
    migrations = VmMigration.objects.filter(pk__in=under_way).select_related("target")
    host_ids = [row.host_id for row in hosts]
    inbound = VmMigration.objects.filter(ended_at__isnull=True, target_id__in=host_ids).order_by()
    return Look(
        job=job,
        hosts=hosts,
        moves=moves,
        busy=busy_of(move.vm_id for move in moves),
        targets={one.pk: one.target for one in migrations},
        arriving=set(inbound.values_list("target_id", flat=True)) if host_ids else (),
    )


def busy_of(vm_ids: Iterable[UUID]) -> dict[UUID, Operation]:
    """The live operations of these VMs; there is at most one each."""
    keys = [str(pk) for pk in vm_ids]
    rows = Operation.objects.filter(status__in=LIVE, subject_type=Vm._meta.label_lower, subject_id__in=keys)
    return {UUID(row.subject_id): row for row in rows.order_by()}


def held_by_others(job: Maintenance | None) -> dict[UUID, str]:
    """Hosts of other live jobs, whatever their turn: they take nothing, and this is why."""
    rows = MaintenanceHost.objects.exclude(status=MaintenanceHostStatus.RELEASED)
    if job is not None:
        rows = rows.exclude(maintenance=job)
    found = rows.select_related("maintenance").order_by()
    return {
        row.host_id: f"it is part of “{row.maintenance.title}” ({row.get_status_display().lower()}), asked for by "
        f"{row.maintenance.requested_by_name}"
        for row in found
    }
