"""Brings a job's rows in step with what became of its VMs: ended migrations, VMs that came, went, stopped or are held
up. Called with the job's row locked."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from cloudops.core import events
from cloudops.core.actors import Actor
from cloudops.inventory.models import Vm
from placement.maintenance import jobs, words
from placement.maintenance.judging import BY_ITSELF, Verdict, judge
from placement.maintenance.looking import Look, busy_of, look
from placement.maintenance.options import Choice, Mode
from placement.maintenance.outlook import Remedy
from placement.maintenance.rows import shift, update
from placement.models import Maintenance, MaintenanceMove, MoveStatus

PASSING: Final = BY_ITSELF | {words.OPERATION_RUNNING}
"""Reasons that are wiped once they do not hold any more; others tell what happened and stay to be read."""
NOTHING_SAID: Final[dict[str, Any]] = {"reason_code": "", "reason": "", "remedy": "", "remedies": []}
FIRST_BACK_OFF_SECONDS: Final = 5.0
LONGEST_BACK_OFF_SECONDS: Final = 300.0


def back_off(attempts: int) -> timedelta:
    """How long to wait before something that did not work is tried again by itself."""
    return timedelta(seconds=min(LONGEST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2 ** min(attempts, 10)))


def settle(job: Maintenance, *, by: Actor, now: datetime) -> Look:
    """The rows as they are to be from now on. ``planned_at`` is emptied when the plan does not hold any more."""
    seen = look(job)
    if job.mode != Mode.RETURN and _discover(seen, by=by, now=now):
        job.planned_at = None
    stale = False
    for move in seen.moves:
        verdict = judge(
            seen.row(move), seen.seen(move), leaving=seen.leaving(move), move_powered_off=job.move_powered_off
        )
        stale |= _apply(move, verdict, job, by=by, now=now)
    if stale or job.planned_at is None:
        Maintenance.objects.filter(pk=job.pk).update(planned_at=None)
        job.planned_at = None
    return seen


def _discover(seen: Look, *, by: Actor, now: datetime) -> int:
    """VMs on the hosts that the job does not know yet: its first look at a host, or they came meanwhile."""
    active = seen.active
    if not active or seen.job.status in jobs.OVER:
        return 0
    known = {move.vm_id for move in seen.moves}
    new = [vm for vm in Vm.objects.filter(host_id__in=active).select_related("host") if vm.pk not in known]
    late = seen.job.plan.get("known", [])
    rows = []
    for vm in new:
        said = words.appeared() if str(vm.host_id) in late else words.NOTHING
        row = MaintenanceMove(maintenance=seen.job, vm=vm, source_id=vm.host_id, updated_at=now)
        row.reason_code, row.reason = said.code, said.words
        rows.append(row)
        if said.code:
            data = {"maintenance": str(seen.job.pk)}
            events.record("maintenance.vm_appeared", by=by, now=now, subject=vm, reason=said.words, data=data)
    MaintenanceMove.objects.bulk_create(rows)
    seen.moves.extend(rows)
    seen.busy = {**seen.busy, **busy_of(row.vm_id for row in rows)}
    hosts = sorted(map(str, active))
    if hosts != late:
        seen.job.plan = {**seen.job.plan, "known": hosts}
        Maintenance.objects.filter(pk=seen.job.pk).update(plan=seen.job.plan)
    return len(rows)


def _apply(move: MaintenanceMove, verdict: Verdict, job: Maintenance, *, by: Actor, now: datetime) -> bool:
    """Writes what changed; True when the plan has to be made anew."""
    if job.status in jobs.OVER and move.status != MoveStatus.MOVING:
        return False
    fields = _fields(move, verdict, now)
    if verdict.status == move.status:
        changed = {name: value for name, value in fields.items() if getattr(move, name) != value}
        if changed:
            update(move, updated_at=now, **changed)
        return False
    was = move.status
    shift(move, to=verdict.status, by=by, now=now, **fields)
    if verdict.status in {MoveStatus.WAITING, MoveStatus.BLOCKED}:
        return True
    return verdict.status == MoveStatus.MOVED and (move.resident or was != MoveStatus.MOVING)


def _fields(move: MaintenanceMove, verdict: Verdict, now: datetime) -> dict[str, Any]:
    said = verdict.said
    changes = verdict.status != move.status
    fields: dict[str, Any] = {}
    if said.code:
        fields.update(reason_code=said.code, reason=said.words, remedy=said.remedy, remedies=_remedies(move, verdict))
    elif _is_over(move, verdict, changes=changes):
        fields.update(NOTHING_SAID)
    if said.code == words.STOP_FAILED:
        fields.update(choice=Choice.NONE)  # what comes next is to power it off: that is chosen again, or not done
    if not changes:
        return fields
    if verdict.status == MoveStatus.MOVED:
        fields.update(target_id=move.vm.host_id, retry_at=None, leaves_id=None)
    elif verdict.status in {MoveStatus.BLOCKED, MoveStatus.SKIPPED, MoveStatus.WAITING}:
        fields.update(target_id=None, after=[], retry_at=None)
    if verdict.status == MoveStatus.WAITING and move.leaves_id is not None:
        fields.update(leaves_id=move.vm.host_id)  # parked on its way: it goes on from there
    if (failed := verdict.failed) is not None:
        tried = {"host_id": failed.target_id, "host_name": failed.target_name, "code": failed.code}
        tried |= {"detail": failed.detail, "at": now.isoformat()}
        fields.update(tried_hosts=[*move.tried_hosts, tried], attempts=move.attempts + 1)
    return fields


def _is_over(move: MaintenanceMove, verdict: Verdict, *, changes: bool) -> bool:
    """Whether what was said of the VM holds no more."""
    if verdict.status == MoveStatus.WAITING:
        return move.reason_code in PASSING
    return changes and verdict.status in {MoveStatus.MOVED, MoveStatus.STOPPED}


def _remedies(move: MaintenanceMove, verdict: Verdict) -> list[dict[str, Any]]:
    """The buttons that go with what was judged here; a plan brings its own."""
    runs = move.vm.power_state in {"running", "paused"}
    found: list[Remedy] = []
    if verdict.status == MoveStatus.BLOCKED:
        if verdict.said.code == words.STOP_FAILED:
            return [one.to_json() for one in words.after_failed_stop(runs=runs)]
        again = {words.PINNED: Choice.MOVE_PINNED, words.ABORTED: Choice.NONE}
        if (choice := again.get(verdict.said.code)) is not None:
            found.append(words.remedy(choice))
        found.extend(words.last_resorts(runs=runs))
    elif verdict.status == MoveStatus.SKIPPED and move.choice == Choice.SKIP:
        found.append(words.remedy(Choice.NONE))
    return [one.to_json() for one in found]
