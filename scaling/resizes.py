"""Changing a VM's size: plan it anew, compare with what was shown, claim, and hand it to a worker.

The resize is an operation; ``resize_run`` executes it in a worker, from the rows alone.
"""

from __future__ import annotations

from copy import copy
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from django.db import transaction

from cloudops.core import events, held, live, operations, runtime
from cloudops.core.actors import Actor
from cloudops.core.deadlocks import without_deadlock
from cloudops.core.errors import Refusal
from cloudops.core.models import Operation
from cloudops.core.queue import enqueue
from cloudops.hypervisors.port import Shape
from cloudops.inventory.models import Offering, Vm
from placement import capacity, claims, decisions, power_claims, vm_migrations
from placement.errors import CapacityGone, NoHostFits
from placement.models import Claim, ClaimKind, HostCapacity, VmMigration
from scaling import headroom, memory_hot_add, planning, quotas, resize_words, slot
from scaling.models import Resize
from scaling.next_start import at_next_start as at_next_start
from scaling.next_start import forget_next as forget_next
from scaling.planning import plan_now as plan_now
from scaling.resize_errors import (
    NoRoomToGrow,
    NothingToChange,
    NoWayToMove,
    ResizeNotOver,
    ResizeOver,
    TooLateToCancel,
)
from scaling.values import Plan, Reach, Size, Subject, Wanted

KIND: Final = power_claims.RESIZE
TASK: Final = "scaling.tasks.run_resize"
UNCLAIMED_SECONDS: Final = 30
"""After this long without a worker the operation says that none may be running."""
Mode, Phase, Outcome = Resize.Mode, Resize.Phase, Resize.Outcome
MODES: Final = {Reach.LIVE: Mode.LIVE, Reach.MOVE: Mode.MOVE, Reach.RESTART: Mode.RESTART, Reach.NOW: Mode.NOW}
BEFORE_CHANGES: Final = frozenset({Phase.PREPARING, Phase.MOVING, Phase.STOPPING})


@dataclass(frozen=True, slots=True)
class _Draft:
    """A resize that may begin: everything that was found out about it outside of any transaction."""

    vm: Vm
    subject: Subject
    wanted: Wanted
    plan: Plan
    mode: str
    given: Size
    moves: bool
    shape: Shape
    by: Actor
    now: datetime


def resize(vm: Vm, *, wanted: Wanted, how: Reach, token: str = "", by: Actor, now: datetime) -> Operation:
    """Starts to give the VM this size in this way: live, after a move, with a restart, or now as it is off.

    The hypervisor is asked first and the plan made anew; ``token`` is that of the plan that was shown. Quota, operation
    slot and room are taken in one transaction, all or nothing. Raises ``PlanOutdated``, ``NotReachable``,
    ``NothingToChange``, ``QuotaExceeded``, ``OperationRunning``, ``NoRoomToGrow``, ``NoWayToMove``, ``HostNotUp``,
    ``VmNotResizable`` and ``HypervisorError``.
    """
    vm = planning.read(vm)
    slot.demand_free(vm)
    slot.demand_reported(vm)
    subject, plan = plan_now(vm, wanted, now=now)
    planning.demand_current(token, plan, by=by)
    how = _way(vm, wanted, plan, how)
    mode = MODES[how]
    live_now = how in (Reach.LIVE, Reach.MOVE)
    given = plan.given if live_now else memory_hot_add.size_started_with(subject, wanted.size)
    offering = planning.offering_of(wanted)
    ceiling = headroom.effective_with(vm, offering, given, settings=runtime.current())
    shape = headroom.shape_for(subject, given, ceiling)
    draft = _Draft(vm, subject, wanted, plan, mode, given, plan.moves, shape, by, now)
    try:
        with decisions.recording():
            return without_deadlock(lambda: _start(draft))
    except Refusal as refusal:
        _refused(vm, refusal, by=by, now=now)
        if isinstance(refusal, NoHostFits) and not planning.sees_fleet(by):
            raise NoWayToMove(refusal.tenant_words) from refusal
        raise


def _way(vm: Vm, wanted: Wanted, plan: Plan, how: Reach) -> Reach:
    """How it is really done. What has the size already may still get another offering, in the way that costs least."""
    if plan.reach is Reach.SAME:
        if (str(vm.offering_id or ""), vm.offering_version) == (wanted.offering, wanted.offering_version):
            raise NothingToChange(f"{vm.name} has {resize_words.size(plan.given)} already.")
        return Reach.LIVE if vm.is_running else Reach.NOW
    if how not in planning.WAYS[plan.reach]:
        raise planning.not_reachable(vm, plan, how=str(how))
    return how


def _start(draft: _Draft) -> Operation:
    vm, now = draft.vm, draft.now
    quotas.demand(vm, draft.given)
    row = _row(draft)
    steps = resize_words.steps(row)
    operation = operations.start(
        kind=KIND,
        title=resize_words.title(vm.name, draft.given),
        subject=vm,
        steps=[words for _, words in steps],
        by=draft.by,
        now=now,
        params={"offering": draft.wanted.offering_name, "how": str(draft.mode), "size": asdict(draft.given)},
        resumable=True,
    )
    row.operation = operation
    for item in operation.steps[: resize_words.moving_steps(row)]:
        item["inside"] = True
    if draft.moves:
        _move(draft, operation)
    else:
        _claim(draft, operation)
    row.save(force_insert=True)
    live.publish("vms", f"vm:{vm.pk}", f"host:{vm.host_id}", "capacity")
    if not draft.moves:
        transaction.on_commit(partial(enqueue, TASK, str(operation.pk)), robust=True)
    return operation


def _row(draft: _Draft) -> Resize:
    vm, wanted, plan = draft.vm, draft.wanted, draft.plan
    runs = draft.mode in {Mode.LIVE, Mode.MOVE}
    return Resize(
        vm=vm,
        offering=planning.offering_of(wanted),
        offering_name=wanted.offering_name,
        offering_version=wanted.offering_version,
        from_offering=vm.offering,
        from_offering_version=vm.offering_version,
        mode=draft.mode,
        moves=draft.moves,
        phase=Phase.MOVING if draft.moves else Phase.PREPARING,
        from_size=asdict(draft.subject.size),
        to_size=asdict(wanted.size),
        given_size=asdict(draft.given),
        steps=[asdict(one) | {"done": False} for one in plan.steps] if runs else [],
        shape=asdict(draft.shape),
        plan=_told(plan, wanted),
        created_at=draft.now,
    )


def _told(plan: Plan, wanted: Wanted) -> dict[str, Any]:
    parts = [
        {
            "resource": str(one.resource),
            "reach": str(one.reach),
            "current": one.current,
            "wanted": one.wanted,
            "given": one.given,
            "ceiling": one.ceiling,
            "step": one.step,
        }
        for one in plan.resources
    ]
    return {"reach": str(plan.reach), "resources": parts, "tags": list(wanted.tags)}


def _claim(draft: _Draft, operation: Operation) -> None:
    """What the VM is to have beyond its own claim, on its host. One that is off takes no room before it starts."""
    vm, now = draft.vm, draft.now
    more_vcpus = more_memory = 0
    if draft.mode != Mode.NOW:
        own = Claim.objects.filter(vm=vm, kind=ClaimKind.VM, host=vm.host_id).first()
        more_vcpus = max(0, draft.given.vcpus - (own.vcpus if own else 0))
        more_memory = max(0, draft.given.memory_mib - (own.memory_mib if own else 0))
    if (more_vcpus or more_memory) and vm.host.total_memory_mib:
        _take(vm, operation, more_vcpus, more_memory, draft.by, now)
    operations.step(operation, 0, "done", now=now, detail=resize_words.kept(more_vcpus, more_memory))


def _take(vm: Vm, operation: Operation, vcpus: int, memory_mib: int, by: Actor, now: datetime) -> None:
    if not HostCapacity.objects.filter(pk=vm.host_id).exists():
        capacity.refresh(host_ids=[vm.host_id], now=now)
    claims.release(vm=vm, kinds=[ClaimKind.RESIZE], now=now)  # an ended one's: the slot is this operation's
    try:
        claims.take(
            host_id=vm.host_id,
            vm=vm,
            kind=ClaimKind.RESIZE,
            vcpus=vcpus,
            memory_mib=memory_mib,
            operation=operation,
            now=now,
        )
    except CapacityGone as error:
        if not planning.sees_fleet(by):
            raise NoRoomToGrow(f"The host of {vm.name} has no room for that.") from error
        numbers: dict[str, Any] = error.numbers
        raise NoRoomToGrow(error.detail, **numbers) from error


def _move(draft: _Draft, operation: Operation) -> None:
    """Room for whatever it has at any moment there, found by the scheduler, and a migration as the first steps."""
    twin = copy(draft.vm)
    twin.offering = planning.offering_of(draft.wanted)
    twin.vcpus = max(draft.given.vcpus, draft.subject.size.vcpus)
    twin.memory_mib = max(draft.given.memory_mib, draft.subject.size.memory_mib)
    options = vm_migrations.Options.of(runtime.current())
    spec = vm_migrations.spec_of_move(twin, options, now=draft.now)
    try:
        vm_migrations.migrate(
            draft.vm, to=None, options=options, spec=spec, operation=operation, by=draft.by, now=draft.now
        )
    except Refusal as error:
        if planning.sees_fleet(draft.by) or isinstance(error, NoHostFits):  # that one's decision is kept first
            raise
        raise NoWayToMove(f"{draft.vm.name} cannot be moved to another host now.") from error


def _refused(vm: Vm, refusal: Refusal, *, by: Actor, now: datetime) -> None:
    reason = getattr(refusal, "tenant_words", "") or refusal.title
    told = {"code": refusal.code}
    events.record("vm.resize_refused", by=by, now=now, subject=vm, reason=reason, severity="notice", data=told)


def continue_(resize_: Resize, *, by: Actor, now: datetime) -> Operation:
    """What is left of a resize that was applied in part, in the easiest way that there is now without a restart.

    Raises :class:`ResizeNotOver` and what :func:`resize` raises.
    """
    row = _open(resize_)
    size = Size(**row.to_size)
    return _again(row, size, row.offering, row.offering_name, row.offering_version, by=by, now=now)


def roll_back(resize_: Resize, *, by: Actor, now: datetime) -> Operation:
    """Gives the VM the size and the offering that it had before a resize that was applied in part, without a restart.

    Raises :class:`ResizeNotOver` and what :func:`resize` raises.
    """
    row = _open(resize_)
    size, was = Size(**row.from_size), row.from_offering
    return _again(row, size, was, was.name if was else "", row.from_offering_version, by=by, now=now)


def _open(resize_: Resize) -> Resize:
    row = Resize.objects.select_related("vm", "offering", "from_offering").get(pk=resize_.pk)
    later = Resize.objects.filter(vm=row.vm_id, created_at__gt=row.created_at).exists()
    if later or row.ended_at is None or row.outcome != Outcome.PARTLY:
        raise ResizeNotOver(f"There is nothing to continue or to roll back for {row.vm.name}.")
    return row


def _again(
    row: Resize, size: Size, offering: Offering | None, name: str, version: int | None, *, by: Actor, now: datetime
) -> Operation:
    """What was once chosen is not chosen anew: whether the offering may be does not count."""
    tags = tuple(sorted(tag.name for tag in offering.host_tags.all())) if offering is not None else ()
    wanted = Wanted(
        size=size,
        offering=str(offering.pk) if offering is not None else "",
        offering_name=name,
        offering_version=version or 0,
        dynamic=True,
        enabled=True,
        tags=tags,
    )
    _, plan = plan_now(row.vm, wanted, now=now)
    how = plan.reach if plan.reach in (Reach.MOVE, Reach.NOW) else Reach.LIVE
    return resize(row.vm, wanted=wanted, how=how, by=by, now=now)


def cancel(resize_: Resize, *, by: Actor, now: datetime) -> None:
    """Asks its runner to end it before anything is changed: while it waits, moves, or waits for the guest to shut down.
    Doing it twice is harmless. Raises :class:`ResizeOver` and :class:`TooLateToCancel`."""
    with transaction.atomic():
        row = Resize.objects.select_for_update(of=("self",)).select_related("operation", "vm").get(pk=resize_.pk)
        if row.ended_at is not None:
            raise ResizeOver(f"It {row.operation.get_status_display().lower()} at {row.ended_at:%H:%M:%S} UTC.")
        if row.phase not in BEFORE_CHANGES:
            raise TooLateToCancel(f"{row.vm.name}: {row.get_phase_display().lower()}.")
        if row.cancel_requested_at is None:
            row.cancel_requested_at, row.cancel_requested_by = now, by.name[:200]
            row.save(update_fields=["cancel_requested_at", "cancel_requested_by"])
            events.record("vm.resize_cancel_asked", by=by, now=now, subject=row.vm, severity="notice")
            live.publish(f"operation:{row.pk}", f"vm:{row.vm_id}")
        move = VmMigration.objects.filter(pk=row.pk, ended_at__isnull=True).first()
        if move is not None:
            vm_migrations.abort(move, by=by, now=now)
        elif not row.runner:
            transaction.on_commit(partial(enqueue, TASK, str(row.pk)), robust=True)


def recover(*, now: datetime) -> int:
    """Queues every resize that no worker has in hand and that waits for none; returns how many. The next runner asks
    the hypervisor what the VM has before it does anything."""
    rows = Resize.objects.filter(held.lost(now=now)).select_related("operation", "operation__migration")
    count = 0
    for row in rows.order_by("created_at", "pk"):
        if is_moving(row) or not held.send_for(row, now=now):
            continue
        _say_if_nobody_comes(row, now)
        if not enqueue(TASK, str(row.pk), expires_seconds=held.REQUEUE_SECONDS):
            break
        count += 1
    return count


def is_moving(row: Resize) -> bool:
    """Its first part, the migration, goes on: there is nothing to do for it here until that has ended."""
    move = getattr(row.operation, "migration", None)
    return row.phase == Phase.MOVING and move is not None and move.ended_at is None


def _say_if_nobody_comes(row: Resize, now: datetime) -> None:
    waited = (now - row.created_at).total_seconds()
    if row.operation.status == Operation.Status.PENDING and waited > UNCLAIMED_SECONDS:
        words = f"No worker has taken it up for {waited:.0f} s. Is a worker for the queue “hypervisors” running?"
        index = next(number for number, item in enumerate(row.operation.steps) if item["status"] != "done")
        operations.step(row.operation, index, "pending", now=now, detail=words)


# Receivers, connected in ``apps``


def on_migration_ended(*, operation: Operation, now: datetime, **_: Any) -> None:
    """The move was the first part of a resize: a worker goes on with it, or ends it."""
    row = Resize.objects.filter(pk=operation.pk, ended_at__isnull=True).first()
    if row is not None and held.send_for(row, now=now):
        enqueue(TASK, str(row.pk), expires_seconds=held.REQUEUE_SECONDS)
