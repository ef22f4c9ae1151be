"""How a migration ends: row, claims, operation and what others are told, in one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import structlog
from django.db import transaction

from cloudops.core import events, live, operations
from cloudops.core.errors import NotFound, Refusal, Unavailable
from cloudops.hypervisors.port import HypervisorError, PowerState
from cloudops.inventory import sync
from cloudops.inventory.models import Host, Vm
from cloudops.inventory.notices import after_commit
from placement import claims, signals
from placement.migration_errors import Cancelled, Ending, HostFenced
from placement.migration_hold import RUNNER, Hold
from placement.models import VmMigration
from placement.vm_migrations import CLEAN, COPY

log = structlog.get_logger(__name__)
DOWN: Final = frozenset({PowerState.OFF, PowerState.CRASHED})


def well(hold: Hold, vm: Vm, left: str, now: datetime) -> None:
    """The VM is on its destination. ``left``: words about what could not be tidied up at the source. An operation of
    which the move is only a part goes on."""
    row = hold.row
    hold.say(CLEAN, "done", left or f"Nothing is left on {row.source.name}.")
    result = {"host": str(row.target_id), "power_state": str(vm.power_state), "leftover": left}
    with transaction.atomic():
        _end_row(hold, now)
        claims.arrive(vm=vm, operation=row.operation, running=vm.power_state not in DOWN, now=now)
        if not row.continues:
            operations.succeed(row.operation, by=RUNNER, now=now, result=result)
        if left:
            events.record("vm.migration_leftover", by=RUNNER, now=now, subject=vm, reason=left, severity="warning")
        _tell(hold, True, "", "", "", now)


def by_error(hold: Hold, error: dict[str, str], now: datetime) -> None:
    """The VM stays at its source because a hypervisor said so (:func:`migration_words.stored_error`)."""
    _badly(hold, error["code"], error["detail"], error["remedy"], False, now)


def by(hold: Hold, ending: Refusal, now: datetime) -> None:
    """It ends with these words, cancelled or failed; what was kept on the destination is given back."""
    cancelled = isinstance(ending, Ending) and ending.cancelled
    _badly(hold, ending.code, ending.detail, ending.remedy_text, cancelled, now)


def aborted(hold: Hold, now: datetime) -> None:
    """Somebody asked for that, and it was not too late."""
    row = hold.row
    by(hold, Cancelled(f"Aborted by {row.abort_requested_by}; {row.vm.name} stays on {row.source.name}."), now)


def fenced(hold: Hold, host: Host, *, went: bool, now: datetime) -> None:
    """An administrator declared a host dead that would have to be asked. ``went``: the VM had left its source for it,
    so it and its room are there now, and its power is unknown."""
    row = hold.row
    if went:
        sync.assume_moved(row.vm, row.target, now=now)
        claims.arrive(vm=row.vm, operation=row.operation, now=now)
    by(hold, HostFenced(f"{host.name} was fenced while {row.vm.name} moved."), now)


def elsewhere(hold: Hold, ending: Ending, now: datetime) -> None:
    """The VM is on a third host, as its row says; what the source may still hold of it changes nothing."""
    _badly(hold, ending.code, ending.detail, ending.remedy_text, False, now, read_source=False)


def _badly(
    hold: Hold, code: str, detail: str, remedy: str, cancelled: bool, now: datetime, *, read_source: bool = True
) -> None:
    row = hold.row
    if read_source:
        _read_source_again(hold, now)
    index = next((number for number, item in enumerate(row.operation.steps) if item["status"] != "done"), COPY)
    hold.say(index, "failed", detail)
    with transaction.atomic():
        _end_row(hold, now)
        claims.release(operation=row.operation, now=now)
        end = operations.cancel if cancelled else operations.fail
        end(row.operation, by=RUNNER, now=now, code=code, detail=detail, remedy=remedy)
        _tell(hold, False, code, detail, remedy, now)


def _read_source_again(hold: Hold, now: datetime) -> None:
    """What the inventory did not believe while the VM moved, such as that it was shut down, holds now."""
    source = hold.row.source
    try:
        hold.hold_during(source)
        sync.hand_over(source.endpoint, hold.row.vm.ref, now=now)
    except (HypervisorError, NotFound, Unavailable) as error:
        log.info("source_not_read", operation=str(hold.row.pk), error=str(error))


def _end_row(hold: Hold, now: datetime) -> None:
    hold.write(now, phase=VmMigration.Phase.ENDED, ended_at=now, runner="", runner_until=None)


def _tell(hold: Hold, ok: bool, code: str, detail: str, remedy: str, now: datetime) -> None:
    row = hold.row
    live.publish("migrations", "capacity", f"vm:{row.vm_id}", f"host:{row.source_id}", f"host:{row.target_id}")
    after_commit(
        signals.migration_ended,
        operation=row.operation,
        vm_id=row.vm_id,
        ok=ok,
        code=code,
        detail=detail,
        remedy=remedy,
        maintenance_id=row.maintenance_id,
        now=now,
    )
