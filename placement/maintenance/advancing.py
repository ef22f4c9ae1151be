"""Goes on with a job from its rows alone: any worker, at any time, as often as it likes.

A look settles what became of the VMs, the planner is asked outside of any lock, and what is due is begun. A worker that
dies in between leaves rows that the next one goes on from; two at once do everything once, as each step holds the
job's row or compares before it sets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog
from django.db.models import Q

from cloudops.core import live, runtime
from cloudops.core.deadlocks import without_deadlock
from cloudops.core.queue import enqueue
from placement.maintenance import jobs, planning
from placement.maintenance.concluding import conclude
from placement.maintenance.ground import Asked
from placement.maintenance.launching import launch
from placement.maintenance.looking import Look
from placement.maintenance.settling import settle
from placement.maintenance.solving import Solution, solve
from placement.models import Maintenance

log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
MOST_ROUNDS: Final = 20
"""Enough for many turns that need nothing; the rest is done at the next look."""
HANDED_OUT_SECONDS: Final = 5.0
EXACT_SECONDS: Final = 1.0
STUMBLE_SECONDS: Final = 30.0


def advance(maintenance_id: UUID, *, clock: Clock) -> bool:
    """One look at one job, and everything that is due. False when another worker has it in hand, or it is gone.

    What nobody foresaw is raised, and stands in the job until a later look succeeds.
    """
    try:
        for _ in range(MOST_ROUNDS):
            done = _round(maintenance_id, clock)
            if done is not False:
                return done is not None
    except Exception as error:
        _stumble(maintenance_id, error, clock())
        raise
    return True


def _stumble(maintenance_id: UUID, error: Exception, now: datetime) -> None:
    """Neither silence nor a loop: it is said, and tried again after a pause. Everything else was rolled back."""
    log.exception("maintenance_stumbled", maintenance=str(maintenance_id))
    words = f"Something unexpected happened: {type(error).__name__}: {error}"[:500]
    words += f"; it is tried again in {STUMBLE_SECONDS:.0f} s."
    with contextlib.suppress(Exception):  # the database may be what failed: then the tick comes again by itself
        live_job = Maintenance.objects.filter(pk=maintenance_id).exclude(status__in=jobs.OVER)
        live_job.update(blocked_reason=words)
        Maintenance.objects.filter(pk=maintenance_id).update(wake_at=now + timedelta(seconds=STUMBLE_SECONDS))
        live.publish("maintenance", f"maintenance:{maintenance_id}")


def _round(maintenance_id: UUID, clock: Clock) -> bool | None:
    """None: another worker has it. False: there is more to do at once."""
    found = without_deadlock(partial(_look, maintenance_id, clock))
    if found is None or isinstance(found, bool):
        return found
    plan, asked = found
    capacity = planning.fingerprint()
    # The exact solver is asked once for each state of the fleet: another time it would say the same.
    exact_seconds = EXACT_SECONDS if plan.get("capacity") != capacity else 0.0
    solution = solve(asked, settings=runtime.current(), now=clock(), exact_seconds=exact_seconds)
    return without_deadlock(partial(_apply, maintenance_id, clock, solution, capacity))


def _look(maintenance_id: UUID, clock: Clock) -> bool | tuple[dict[str, Any], Asked] | None:
    """What a plan is needed for, with the present one; else it has acted already, and answers as :func:`_round`."""
    job = _take(maintenance_id)
    if job is None:
        return None
    now = clock()
    seen = settle(job, by=jobs.acting_for(job), now=now)
    if job.status in jobs.OVER or not planning.needs_plan(seen, now=now):
        return _act(seen, clock())
    return job.plan, planning.asked(seen, now=now)


def _apply(maintenance_id: UUID, clock: Clock, solution: Solution, capacity: list[int]) -> bool | None:
    job = _take(maintenance_id)
    if job is None:
        return None
    by, now = jobs.acting_for(job), clock()
    seen = settle(job, by=by, now=now)
    if job.status not in jobs.OVER:
        planning.apply(seen, solution, capacity=capacity, by=by, now=now)
    return _act(seen, now)


def _take(maintenance_id: UUID) -> Maintenance | None:
    rows = Maintenance.objects.select_for_update(of=("self",), skip_locked=True)
    return rows.filter(pk=maintenance_id).first()


def _act(seen: Look, now: datetime) -> bool:
    """Begins what is due and adds up; True when nothing is left to do at once."""
    job, stale = seen.job, False
    by = jobs.acting_for(job)
    if job.status not in jobs.OVER:
        stale = launch(seen, by=by, now=now)
        if stale:
            Maintenance.objects.filter(pk=job.pk).update(planned_at=None)
    more = conclude(seen, by=by, now=now)
    jobs.tell(job, [row.host_id for row in seen.hosts])
    return not more and not stale


def advance_due(*, now: datetime) -> list[UUID]:
    """The jobs that are to be looked at now, each told to one caller only; for the tick."""
    found = []
    due = Maintenance.objects.filter(wake_at__lte=now).order_by("wake_at")
    for pk, wake_at in due.values_list("pk", "wake_at"):
        later = now + timedelta(seconds=HANDED_OUT_SECONDS)
        if Maintenance.objects.filter(pk=pk, wake_at=wake_at).update(wake_at=later):
            found.append(pk)
    return found


def on_migration_ended(*, maintenance_id: UUID | None, now: datetime, **_: Any) -> None:
    """A place is free now, or a VM needs another one: its job goes on at once, and so do others that wait for room."""
    unended = Maintenance.objects.exclude(status__in=jobs.OVER)
    mine = Q(pk=maintenance_id) if maintenance_id is not None else Q(pk__in=[])
    wanted = list(unended.filter(mine | Q(status__in=["draining", "blocked", "planning"])).values_list("pk", flat=True))
    Maintenance.objects.filter(pk__in=wanted).update(wake_at=now)
    first = [pk for pk in wanted if pk == maintenance_id]
    for pk in first:
        enqueue(jobs.TASK, str(pk))
