"""How a resize ends: row, claims, sizes, operation and what others are told, in one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import structlog

from cloudops.core import events, live, operations
from cloudops.core.deadlocks import without_deadlock
from cloudops.core.errors import Refusal
from cloudops.core.models import Operation
from cloudops.hypervisors.port import HypervisorError, PowerState, ResizeKind, ScalingState, VmNotFound
from cloudops.inventory.models import Vm
from placement import claims
from scaling import confirming, headroom, history
from scaling.confirming import Seen
from scaling.models import Resize
from scaling.resize_errors import Cancelled, Ending, PartlyApplied
from scaling.resize_hold import LIVE, RUNNER, Hold, Silent
from scaling.resize_words import CONFIRM

log = structlog.get_logger(__name__)
Mode, Phase, Outcome = Resize.Mode, Resize.Phase, Resize.Outcome
ALIVE: Final = (PowerState.RUNNING, PowerState.PAUSED)
FULL: Final = (Outcome.APPLIED, Outcome.UNCONFIRMED)


def well(hold: Hold, seen: Seen, outcome: str, now: datetime) -> None:
    """The VM has what it was to be given."""
    hold.say(CONFIRM, "done", seen.words)
    _end(hold, outcome, seen, None, now)


def by(hold: Hold, ending: Refusal, now: datetime) -> None:
    """It ends with these words. What the VM has by now decides whether a part was applied: that is read once more."""
    seen = look_again(hold)
    _badly(hold, seen, ending, now)


def by_error(hold: Hold, error: HypervisorError, now: datetime) -> None:
    """A hypervisor refused a step."""
    by(hold, as_ending(error), now)


def cancelled(hold: Hold, now: datetime) -> None:
    """Somebody asked for that before anything was changed."""
    row = hold.row
    words = f"Cancelled by {row.cancel_requested_by}; {row.vm.name} keeps its size."
    if row.phase == Phase.STOPPING:
        words += " Its guest was asked to shut down: if it still does, start the VM again."
    by(hold, Cancelled(words), now)


def with_its_move(hold: Hold, now: datetime) -> None:
    """The migration that was to come first ended the operation: the size is as it was."""
    _end(hold, Outcome.NOTHING, look_again(hold), None, now)


def as_ending(error: HypervisorError) -> Ending:
    """A hypervisor's error in an operation's terms."""
    ending = Ending(error.detail or error.title, remedy=error.remedy)
    ending.code = error.code[:64]
    return ending


def stored(ending: Refusal) -> dict[str, Any]:
    """As it is kept in the row until the VM is in order again."""
    was_cancelled = isinstance(ending, Ending) and ending.cancelled
    return {
        "code": ending.code,
        "detail": ending.detail,
        "remedy": ending.remedy_text,
        "cancelled": was_cancelled,
    }


def read(values: dict[str, Any]) -> Ending:
    """What :func:`stored` was given."""
    kind = Cancelled if values["cancelled"] else Ending
    ending = kind(values["detail"], remedy=values["remedy"])
    ending.code = values["code"]
    return ending


def look(hold: Hold, state: ScalingState) -> Seen:
    """What the VM has, against what it was to be given."""
    row = hold.row
    return confirming.look(
        state,
        was=hold.was,
        given=hold.given,
        kinds=frozenset(ResizeKind(one["kind"]) for one in row.steps),
        started=row.mode in {Mode.RESTART, Mode.NOW},
        guest_was_mib=row.progress.get("guest_mib"),
    )


def look_again(hold: Hold) -> Seen | None:
    """The same from the hypervisor itself, the inventory brought in step; None when it cannot be asked."""
    try:
        hold.refresh()
        return look(hold, hold.truth())
    except (Silent, VmNotFound) as error:
        log.info("vm_not_read", operation=str(hold.row.pk), error=str(error))
        return None


def _badly(hold: Hold, seen: Seen | None, ending: Refusal, now: datetime) -> None:
    row = hold.row
    outcome = Outcome.PARTLY if _changed(hold, seen) else Outcome.NOTHING
    told = ending
    if outcome == Outcome.PARTLY:
        has = f"{row.vm.name} has {seen.size.vcpus} vCPUs and {seen.taken_mib:,} MiB. " if seen is not None else ""
        told = PartlyApplied(f"{has}{ending.detail}", remedy=f"{PartlyApplied.remedy} {ending.remedy_text}")
    hold.say(hold.current_step(), "failed", ending.detail)
    _end(hold, outcome, seen, told, now)


def _changed(hold: Hold, seen: Seen | None) -> bool:
    row, was = hold.row, hold.was
    if seen is None:
        return any(one["done"] for one in row.steps)
    if any(one["done"] and one["kind"] == ResizeKind.CPU for one in row.steps):
        return True
    return row.mode != Mode.NOW and (seen.size.vcpus, seen.size.memory_mib) != (was.vcpus, was.memory_mib)


def _end(hold: Hold, outcome: str, seen: Seen | None, ending: Refusal | None, now: datetime) -> None:
    without_deadlock(lambda: _write(hold, outcome, seen, ending, now))


def _write(hold: Hold, outcome: str, seen: Seen | None, ending: Refusal | None, now: datetime) -> None:
    row = hold.row
    row.operation.refresh_from_db()
    vm = Vm.objects.select_related("host").get(pk=row.vm_id)
    told = {**row.progress, **({"ending": stored(ending)} if ending is not None else {})}
    hold.write(
        now,
        phase=Phase.ENDED,
        outcome=outcome,
        seen=seen.to_json() if seen is not None else {},
        progress=told,
        ended_at=now,
        runner="",
        runner_until=None,
    )
    _note_size(hold, vm, outcome, seen, now)
    if row.operation.status in LIVE:
        claims.settle(vm=vm, operation=row.operation, running=vm.power_state in ALIVE, now=now)
        _end_operation(row, seen, ending, now)
    words = seen.words if seen is not None and ending is None else (ending.detail if ending is not None else "")
    severity = "info" if outcome in FULL else "warning" if outcome == Outcome.PARTLY else "notice"
    kind = "vm.resized" if outcome != Outcome.NOTHING else "vm.not_resized"
    events.record(kind, by=RUNNER, now=now, subject=vm, reason=words, severity=severity, data={"outcome": outcome})
    history.note([vm.pk], now=now, guest_mib={vm.pk: seen.taken_mib} if seen is not None else None)
    live.publish("vms", "capacity", f"vm:{vm.pk}", f"host:{vm.host_id}", f"operation:{row.pk}")


def _end_operation(row: Resize, seen: Seen | None, ending: Refusal | None, now: datetime) -> None:
    operation: Operation = row.operation
    if ending is None:
        result = {"outcome": str(row.outcome), "words": seen.words if seen is not None else ""}
        operations.succeed(operation, by=RUNNER, now=now, result=result)
        return
    end = operations.cancel if isinstance(ending, Ending) and ending.cancelled else operations.fail
    end(operation, by=RUNNER, now=now, code=ending.code, detail=ending.detail, remedy=ending.remedy_text)


def _note_size(hold: Hold, vm: Vm, outcome: str, seen: Seen | None, now: datetime) -> None:
    """What it was given, its offering once it has all of that, and whether its guest takes memory live."""
    row, given = hold.row, hold.given
    if outcome == Outcome.NOTHING:
        return
    size = headroom.size_row(vm, now=now)
    if outcome in FULL or any(one["done"] and one["kind"] == ResizeKind.CPU for one in row.steps):
        size.cpu_mhz, size.cpu_cap = given.cpu_mhz, given.cpu_cap
    size.vcpus, size.memory_mib, size.changed_at = given.vcpus, given.memory_mib, now
    used = any(one["done"] and one["kind"] == ResizeKind.VIRTIO_MEM for one in row.steps)
    size.virtio_mem_seen |= bool(used and outcome in FULL)
    if outcome in FULL:
        size.next_size, size.next_offering, size.next_offering_version = None, None, None
        size.next_headroom, size.next_by_name, size.next_at = False, "", None
        vm.offering, vm.offering_version = row.offering, row.offering_version
        vm.save(update_fields=["offering", "offering_version"])
    size.save()
