"""Starts what the plan says is due, as far as the limits allow. Called with the job's row locked.

The plan is a hint, the claim decides: ``vm_migrations.migrate`` takes the room or refuses, and a refusal is an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cloudops.core.actors import Actor
from cloudops.core.errors import Refusal
from cloudops.core.models import Operation, RuntimeSettings
from cloudops.core.operations import OperationRunning
from cloudops.hypervisors.port import PowerAction, PowerState
from cloudops.inventory.models import Vm
from cloudops.inventory.power import HostNotUp, power
from placement import vm_migrations
from placement.errors import CapacityGone, NoHostFits
from placement.maintenance import words
from placement.maintenance.looking import LIVE, Look
from placement.maintenance.options import Choice, Mode
from placement.maintenance.outlook import Remedy
from placement.maintenance.rows import shift, update
from placement.maintenance.settling import back_off
from placement.migration_errors import AlreadyThere, DifferentPlatforms, LocalStorage, NothingToReach, VmPinned
from placement.models import Maintenance, MaintenanceMove, MoveStatus, VmMigration

MOST_LOST_ROOM: Final = 5
"""After so many times that others took the room first, the VM counts as blocked until it is planned anew."""


def lock_limits() -> RuntimeSettings:
    """Jobs start migrations one after the other: what each counts is what there is. Returns the settings."""
    found = RuntimeSettings.objects.select_for_update(of=("self",)).filter(pk=1).first()
    return found or RuntimeSettings.objects.get_or_create(pk=1)[0]


@dataclass(slots=True)
class _Slots:
    """How many migrations may still be begun."""

    running: vm_migrations.Running
    total: int
    per_host: int

    def free(self, move: MaintenanceMove) -> bool:
        assert move.target_id is not None  # noqa: S101 - only planned moves are asked for
        hosts = (move.vm.host_id, move.target_id)
        return self.running.total < self.total and all(self.running.on(host) < self.per_host for host in hosts)

    def take(self, move: MaintenanceMove) -> None:
        assert move.target_id is not None  # noqa: S101 - only planned moves are begun
        self.running.out_of[move.vm.host_id] += 1
        self.running.into[move.target_id] += 1
        self.running = vm_migrations.Running(self.running.total + 1, self.running.out_of, self.running.into)


def launch(seen: Look, *, by: Actor, now: datetime) -> bool:
    """Begins migrations and stops; True when one was refused in a way that asks for a new plan."""
    stops = [move for move in seen.moves if move.status == MoveStatus.WAITING and move.choice == Choice.STOP]
    for move in stops:
        if _ready(seen, move, now):
            _stop(move, by=by, now=now)
    due = [move for move in _due(seen) if _ready(seen, move, now)]
    if not due:
        return False
    settings = lock_limits()
    limit = seen.job.host_parallel or settings.migration_host_limit
    slots = _Slots(vm_migrations.running(), settings.migration_total_limit, limit)
    stale = False
    for move in due:
        if slots.running.total >= slots.total:
            break
        if slots.free(move) and _comes_before_none(seen, move):
            if _migrate(seen, move, settings, by=by, now=now):
                slots.take(move)
            else:
                stale = True
    return stale


def _due(seen: Look) -> list[MaintenanceMove]:
    found = [move for move in seen.moves if move.status == MoveStatus.WAITING and move.target_id is not None]
    return sorted(found, key=lambda move: (move.position, str(move.pk)))


def _ready(seen: Look, move: MaintenanceMove, now: datetime) -> bool:
    return move.vm_id not in seen.busy and (move.retry_at is None or move.retry_at <= now)


def _comes_before_none(seen: Look, move: MaintenanceMove) -> bool:
    """Whether everything that has to end before has ended."""
    waits_for = set(move.after)
    if not waits_for:
        return True
    open_ = {MoveStatus.WAITING, MoveStatus.MOVING, MoveStatus.BLOCKED}
    if any(str(one.vm_id) in waits_for and one.status in open_ for one in seen.moves):
        return False
    return not VmMigration.objects.filter(vm_id__in=waits_for, ended_at__isnull=True).exists()


def _migrate(seen: Look, move: MaintenanceMove, settings: RuntimeSettings, *, by: Actor, now: datetime) -> bool:
    """True when it has begun; else the move says why not."""
    job, relaxed = seen.job, frozenset(move.relaxed)
    across = job.across_clusters or Choice.ACROSS in relaxed or job.mode == Mode.RETURN
    options = vm_migrations.Options.of(
        settings,
        across_clusters=across,
        drop_soft_tags=Choice.DROP_SOFT_TAGS in relaxed,
        copy_storage=Choice.COPY_STORAGE in relaxed,
        force_pinned=Choice.MOVE_PINNED in relaxed,
    )
    try:
        operation = vm_migrations.migrate(move.vm, to=move.target, options=options, maintenance=job, by=by, now=now)
    except Refusal as refusal:
        _refused(seen.job, move, refusal, by=by, now=now)
        return False
    seen.busy = {**seen.busy, move.vm_id: operation}
    shift(
        move,
        to=MoveStatus.MOVING,
        by=by,
        now=now,
        operation=operation,
        reason_code="",
        reason="",
        remedy="",
        remedies=[],
        retry_at=None,
    )
    return True


def _refused(job: Maintenance, move: MaintenanceMove, refusal: Refusal, *, by: Actor, now: datetime) -> None:
    """What each refusal means for the VM: wait, go elsewhere, or be blocked until somebody chooses."""
    said = {"reason_code": refusal.code, "reason": refusal.detail, "remedy": refusal.remedy_text}
    if isinstance(refusal, OperationRunning):
        update(move, **{**said, "reason_code": words.OPERATION_RUNNING, "retry_at": now + timedelta(seconds=1)})
        return
    again: dict[str, object] = {"target_id": None, "after": [], "attempts": move.attempts + 1}
    if isinstance(refusal, NothingToReach | DifferentPlatforms):
        target = move.target
        tried = {"host_id": str(move.target_id), "host_name": target.name if target is not None else ""}
        tried |= {"code": refusal.code, "detail": refusal.detail, "at": now.isoformat()}
        update(move, **said, **again, tried_hosts=[*move.tried_hosts, tried])
    elif isinstance(refusal, NoHostFits | CapacityGone) and move.attempts < MOST_LOST_ROOM:
        # Somebody else took the room since the plan was made. The pause grows, so that two jobs do not race for ever.
        pause = timedelta(seconds=0.5 * 2**move.attempts)
        update(move, **{**said, "reason_code": words.ROOM_TAKEN, **again, "retry_at": now + pause})
    elif isinstance(refusal, AlreadyThere | HostNotUp):
        update(move, **said, **again, retry_at=now + timedelta(seconds=2))
    else:
        buttons = [one.to_json() for one in _buttons(move, refusal)]
        pause = back_off(move.attempts)
        shift(
            move,
            to=MoveStatus.BLOCKED,
            by=by,
            now=now,
            severity="warning",
            **said,
            **again,
            remedies=buttons,
            retry_at=now + pause,
        )


def _buttons(move: MaintenanceMove, refusal: Refusal) -> tuple[Remedy, ...]:
    first: tuple[Remedy, ...] = ()
    if isinstance(refusal, LocalStorage):
        first = (words.remedy(Choice.COPY_STORAGE),)
    elif isinstance(refusal, VmPinned):
        first = (words.remedy(Choice.MOVE_PINNED),)
    runs = move.vm.power_state in {PowerState.RUNNING, PowerState.PAUSED}
    return (*first, words.remedy(Choice.NONE), *words.last_resorts(runs=runs))


def _stop(move: MaintenanceMove, *, by: Actor, now: datetime) -> None:
    """Shuts the VM down, as was chosen for it. Once that was in vain and stop is chosen again, it is powered off."""
    action = PowerAction.SHUTDOWN if move.vm.power_state == PowerState.RUNNING else PowerAction.STOP
    last = move.operation
    if last is not None and last.kind == "vm.power" and last.status == Operation.Status.FAILED:
        action = PowerAction.STOP
    vm = Vm.objects.select_related("host__endpoint").get(pk=move.vm_id)
    try:
        operation = power(vm, action=action, by=by, now=now)
    except Refusal as refusal:
        update(
            move,
            reason_code=refusal.code,
            reason=refusal.detail,
            remedy=refusal.remedy_text,
            retry_at=now + timedelta(seconds=2),
        )
        return
    fields: dict[str, Any] = {"reason_code": "", "reason": "", "remedy": "", "remedies": [], "retry_at": None}
    shift(
        move, to=MoveStatus.STOPPING, by=by, now=now, severity="warning", operation=operation, target_id=None, **fields
    )


def is_under_way(move: MaintenanceMove) -> bool:
    """Its own operation is at work."""
    return move.operation is not None and move.operation.status in LIVE
