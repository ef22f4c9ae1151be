"""When a job needs a (new) plan, what it asks of the planner, and how the answer becomes rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import Count, Max, Sum

from cloudops.core.actors import Actor
from cloudops.hypervisors.port import PowerState
from placement.maintenance import words
from placement.maintenance.ground import ALIVE, Asked
from placement.maintenance.judging import BY_HAND, BY_ITSELF
from placement.maintenance.looking import Look, choice_of, held_by_others
from placement.maintenance.options import Choice, Mode
from placement.maintenance.rows import shift, update
from placement.maintenance.settling import back_off
from placement.maintenance.solving import Cannot, Solution, explain
from placement.models import (
    HostCapacity,
    Maintenance,
    MaintenanceHostStatus,
    MaintenanceMove,
    MoveStatus,
)
from placement.planner.model import Move

OWN_REASONS: Final = BY_ITSELF | BY_HAND
LEAST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 5.0
WORTH: Final = 20.0
"""After a plan that left VMs blocked, the next is not made before so many times what that took."""


def is_planned(move: MaintenanceMove) -> bool:
    """Whether the planner has a say in it: it waits to move, or was found to have no place."""
    if move.status == MoveStatus.BLOCKED:
        return move.reason_code not in OWN_REASONS
    return move.status == MoveStatus.WAITING and move.choice != Choice.STOP


def fingerprint() -> list[int]:
    """Changes whenever any host's capacity, claims, hold or openness does."""
    found = HostCapacity.objects.aggregate(count=Count("pk"), last=Max("version"), total=Sum("version"))
    claimed = HostCapacity.objects.aggregate(memory=Sum("memory_claimed_mib"), capacity=Sum("memory_capacity_mib"))
    return [int(value or 0) for value in (*found.values(), *claimed.values())]


def needs_plan(seen: Look, *, now: datetime) -> bool:
    """Something waits without a destination, its destination takes nothing any more, or what blocked may have gone."""
    job = seen.job
    planned = [move for move in seen.moves if is_planned(move)]
    if not planned:
        return False
    if job.planned_at is None:
        return True
    spent = float(job.plan.get("planning_seconds", 0.0))
    pause = timedelta(seconds=min(LONGEST_PAUSE_SECONDS, max(LEAST_PAUSE_SECONDS, WORTH * spent)))
    waiting = [move for move in planned if move.status == MoveStatus.WAITING]
    if any(move.target_id is None and _due(move, now) for move in waiting):
        return True
    if _closed_targets(waiting):
        return True
    if job.planned_at + pause > now:
        return False
    blocked = [move for move in planned if move.status == MoveStatus.BLOCKED]
    if any(_due(move, now) for move in blocked):
        return True
    return bool(blocked) and job.plan.get("capacity") != fingerprint()


def _due(move: MaintenanceMove, now: datetime) -> bool:
    return move.retry_at is None or move.retry_at <= now


def _closed_targets(waiting: Iterable[MaintenanceMove]) -> bool:
    targets = {move.target_id for move in waiting if move.target_id is not None}
    if not targets:
        return False
    return HostCapacity.objects.filter(pk__in=targets, open=True, hold="").count() < len(targets)


def asked(seen: Look, *, now: datetime) -> Asked:
    """What the plan is to do. VMs that others hold up, or that stay, are no part of it, but their room is."""
    job = seen.job
    planned = [move for move in seen.moves if is_planned(move)]
    for move in planned:
        if move.tried_hosts and move.status == MoveStatus.BLOCKED and _due(move, now):
            update(move, tried_hosts=[])  # waited long enough: every host may be tried again
    going = {move.vm_id for move in planned if not makes_room(job, move)}
    waiting = [row.host for row in seen.hosts if row.status == MaintenanceHostStatus.WAITING]
    return Asked(
        leaving=frozenset() if job.mode == Mode.RETURN else seen.active,
        closed=_closed(seen),
        later={host.pk: f"it waits for its own turn in “{job.title}”" for host in waiting},
        choices={move.vm_id: choice_of(move) for move in seen.moves},
        tried={move.vm_id: _tried(move) for move in planned if move.tried_hosts},
        stays=frozenset(move.vm_id for move in seen.moves if move.vm_id not in going and not _may_make_room(move)),
        off=frozenset(move.vm_id for move in planned if move.vm_id in going and move.vm.power_state not in ALIVE),
        homes={move.vm_id: home for move in planned if (home := home_of(job, move)) is not None},
        across_clusters=job.across_clusters,
        host_parallel=job.host_parallel,
    )


def makes_room(job: Maintenance, move: MaintenanceMove) -> bool:
    """Whether the VM moves only for others' sake."""
    return move.leaves_id is not None and home_of(job, move) is None


def _may_make_room(move: MaintenanceMove) -> bool:
    return move.status == MoveStatus.MOVED or is_planned(move)


def home_of(job: Maintenance, move: MaintenanceMove) -> UUID | None:
    """Where a VM that is brought home goes: to the host it was chosen for, and nowhere else."""
    return move.choice_host_id if job.mode == Mode.RETURN and not move.resident else None


def _tried(move: MaintenanceMove) -> frozenset[UUID]:
    return frozenset(UUID(one["host_id"]) for one in move.tried_hosts if one.get("host_id"))


def _closed(seen: Look) -> dict[UUID, str]:
    closed = held_by_others(seen.job)
    rolling = seen.job.hosts_at_once < len(seen.hosts)
    if seen.job.mode == Mode.DRAIN and not rolling:
        # Hosts that are drained together take none of each other's VMs, whoever is empty first.
        released = (row.host_id for row in seen.hosts if row.status == MaintenanceHostStatus.RELEASED)
        closed |= dict.fromkeys(released, "it was emptied just now")
    return closed


def apply(seen: Look, solution: Solution, *, capacity: list[int], by: Actor, now: datetime) -> None:
    """Writes the plan into the rows that still wait for it. Called with the job's row locked."""
    legs: dict[UUID, Move] = {}
    position: dict[UUID, int] = {}
    for index, leg in enumerate(solution.plan.moves):
        if not leg.running and UUID(leg.vm) not in legs:
            legs[UUID(leg.vm)], position[UUID(leg.vm)] = leg, index
    _drop_idle(seen, legs, by, now)
    _add_residents(seen, legs, by, now)
    cannot = {UUID(one.vm): one for one in solution.plan.stranded}
    changed = []
    for move in [one for one in seen.moves if is_planned(one)]:
        if (mine := legs.get(move.vm_id)) is not None:
            _send(move, mine, position[move.vm_id], solution, by, now)
            changed.append(move)
        elif move.vm_id in cannot:
            runs = move.vm.power_state in {PowerState.RUNNING, PowerState.PAUSED}
            _block(move, explain(cannot[move.vm_id], solution, runs=runs), by, now)
    columns = ["target", "position", "after", "expected_seconds", "updated_at"]
    MaintenanceMove.objects.bulk_update(changed, columns, batch_size=200)
    _keep_gist(seen.job, solution, capacity, now)


def _drop_idle(seen: Look, legs: dict[UUID, Move], by: Actor, now: datetime) -> None:
    """VMs that were to make room and need not any more: a row that only did so goes, one with a story stays moved."""
    idle = [
        move
        for move in seen.moves
        if makes_room(seen.job, move)
        and move.status in {MoveStatus.WAITING, MoveStatus.BLOCKED}
        and move.vm_id not in legs
    ]
    for move in idle:
        if move.operation_id is not None:
            shift(move, to=MoveStatus.MOVED, by=by, now=now, leaves_id=None, target_id=move.vm.host_id)
    gone = {move.pk for move in idle if move.operation_id is None}
    MaintenanceMove.objects.filter(pk__in=gone).delete()
    seen.moves = [move for move in seen.moves if move.pk not in gone]


def _add_residents(seen: Look, legs: dict[UUID, Move], by: Actor, now: datetime) -> None:
    """VMs on other hosts that make room, and VMs of this job that move once more for others' sake."""
    known = {move.vm_id: move for move in seen.moves}
    new = []
    for vm_id, leg in legs.items():
        row, source = known.get(vm_id), UUID(leg.source)
        if row is None:
            new.append(
                MaintenanceMove(
                    maintenance=seen.job, vm_id=vm_id, source_id=source, leaves_id=source, resident=True, updated_at=now
                )
            )
        elif row.status == MoveStatus.MOVED and row.vm.host_id == source:
            shift(row, to=MoveStatus.WAITING, by=by, now=now, leaves_id=source)
    created = MaintenanceMove.objects.bulk_create(new)
    fresh = MaintenanceMove.objects.filter(pk__in=[row.pk for row in created])
    seen.moves.extend(fresh.select_related("vm__host", "operation", "target"))


def _send(move: MaintenanceMove, leg: Move, position: int, solution: Solution, by: Actor, now: datetime) -> None:
    before = [solution.plan.moves[index].vm for index in leg.after]
    if move.status == MoveStatus.BLOCKED:
        shift(
            move,
            to=MoveStatus.WAITING,
            by=by,
            now=now,
            reason_code="",
            reason="",
            remedy="",
            remedies=[],
            retry_at=None,
        )
    move.target_id, move.position, move.after = UUID(leg.target), position, before
    move.expected_seconds, move.updated_at = leg.seconds, now


def _block(move: MaintenanceMove, why: Cannot, by: Actor, now: datetime) -> None:
    fields: dict[str, Any] = {
        "reason_code": words.NO_HOST,
        "reason": why.words,
        "remedy": why.remedy,
        "remedies": [one.to_json() for one in why.remedies],
        "target_id": None,
        "after": [],
    }
    if move.status == MoveStatus.BLOCKED:
        if _due(move, now):
            fields.update(attempts=move.attempts + 1, retry_at=now + back_off(move.attempts + 1))
        update(move, **fields)
        return
    fields.update(retry_at=now + back_off(move.attempts))
    shift(move, to=MoveStatus.BLOCKED, by=by, now=now, severity="warning", **fields)


def _keep_gist(job: Maintenance, solution: Solution, capacity: list[int], now: datetime) -> None:
    plan = solution.plan
    job.plan = {
        **job.plan,
        "moves": sum(1 for move in plan.moves if not move.running),
        "residents": sum(1 for move in plan.moves if move.resident),
        "stranded": len(plan.stranded),
        "seconds": round(plan.seconds, 1),
        "lower_bound_seconds": round(plan.lower_bound_seconds, 1),
        "planning_seconds": round(plan.planning_seconds, 3),
        "proof": str(plan.proof) if plan.stranded else "",
        "solver": plan.solver,
        "capacity": capacity,
    }
    job.planned_at = now
    Maintenance.objects.filter(pk=job.pk).update(plan=job.plan, planned_at=now)
