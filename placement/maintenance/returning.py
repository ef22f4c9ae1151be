"""Bringing VMs home after a maintenance: those that still run where it put them and fit; others are told, with why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from cloudops.core import events, runtime
from cloudops.core.actors import Actor
from cloudops.hypervisors.port import PowerState
from cloudops.inventory.models import Connection
from placement.maintenance import jobs, words
from placement.maintenance.errors import HomeInMaintenance, JobStillOn, NothingToBringHome
from placement.maintenance.ground import Asked
from placement.maintenance.looking import held_by_others
from placement.maintenance.options import Choice, Mode, VmChoice
from placement.maintenance.solving import explain, solve
from placement.models import Maintenance, MaintenanceMove, MaintenanceStatus, MoveStatus

MOVED_ON = "moved-on"
HOME_CLOSED = "home-closed"


@dataclass(frozen=True, slots=True)
class Homegoer:
    """A VM that can go home now."""

    vm_id: UUID
    vm_name: str
    from_host_id: UUID
    from_host_name: str
    home_id: UUID
    home_name: str
    relaxed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remains:
    """A VM that stays where it is, and why."""

    vm_id: UUID
    vm_name: str
    host_name: str
    home_name: str
    code: str
    words: str

    def to_json(self) -> dict[str, Any]:
        return {name: str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Homecoming:
    """Who goes home and who does not; ``seconds``: how long it is expected to take."""

    goes: tuple[Homegoer, ...]
    stays: tuple[Remains, ...]
    seconds: float = 0.0


def homecoming(job: Maintenance, *, now: datetime) -> Homecoming:
    """What :func:`bring_home` would do now. Changes nothing."""
    rows = job.moves.filter(operation__isnull=False, status=MoveStatus.MOVED)
    moves = list(rows.select_related("vm__host", "source__endpoint", "target"))
    closed = held_by_others(None)
    goes: dict[UUID, Homegoer] = {}
    stays: list[Remains] = []
    for move in moves:
        if move.vm.host_id == move.source_id:
            continue  # it is home
        why = _why_not(move, closed)
        if why is None:
            goes[move.vm_id] = _goer(move)
        else:
            stays.append(_remains(move, *why))
    if not goes:
        return Homecoming((), tuple(stays))
    asked = Asked(
        closed=closed,
        choices={pk: VmChoice(Choice.HOST, one.home_id, frozenset(one.relaxed)) for pk, one in goes.items()},
        homes={pk: one.home_id for pk, one in goes.items()},
    )
    solution = solve(asked, settings=runtime.current(), now=now)
    by_vm = {move.vm_id: move for move in moves}
    for stranded in solution.plan.stranded:
        if goes.pop(UUID(stranded.vm), None) is not None:
            cannot = explain(stranded, solution, runs=True)
            stays.append(_remains(by_vm[UUID(stranded.vm)], words.NO_HOST, f"{cannot.words} {cannot.remedy}".strip()))
    return Homecoming(tuple(goes.values()), tuple(stays), solution.plan.seconds)


def _goer(move: MaintenanceMove) -> Homegoer:
    here, home = move.vm.host, move.source
    relaxed = {*move.relaxed, Choice.MOVE_PINNED} if move.vm.pinned else {*move.relaxed}
    return Homegoer(move.vm_id, move.vm.name, here.pk, here.name, home.pk, home.name, tuple(sorted(relaxed)))


def _remains(move: MaintenanceMove, code: str, why: str) -> Remains:
    return Remains(move.vm_id, move.vm.name, move.vm.host.name, move.source.name, code, why)


def _why_not(move: MaintenanceMove, closed: dict[UUID, str]) -> tuple[str, str] | None:
    vm, home = move.vm, move.source
    if vm.missing_since is not None:
        return words.MISSING, words.missing(vm.host.name).words
    if vm.host_id != move.target_id:
        put = move.target.name if move.target is not None else "another host"
        return MOVED_ON, f"It is not where the maintenance put it ({put}) any more, so it is left on {vm.host.name}."
    if vm.power_state not in {PowerState.RUNNING, PowerState.PAUSED}:
        return words.POWERED_OFF, f"It is {vm.get_power_state_display().lower()} and stays where it is."
    if home.pk in closed:
        return HOME_CLOSED, f"{home.name} takes no VMs: {closed[home.pk]}."
    if home.connection != Connection.UP:
        return HOME_CLOSED, f"{home.name} cannot be reached."
    if home.platform_maintenance:
        return HOME_CLOSED, f"{home.name} is still in the maintenance mode of {words.platform_of(home)}."
    if not home.schedulable:
        return HOME_CLOSED, f"{home.name} is cordoned."
    return None


def bring_home(job: Maintenance, *, by: Actor, now: datetime) -> Maintenance:
    """A job that moves VMs back to where they were. Asked again while it runs, the same job is returned.

    Raises :class:`JobStillOn` while the maintenance has hosts that were not given back, ``HomeInMaintenance`` and
    ``NothingToBringHome``.
    """
    if job.mode == Mode.RETURN:
        raise NothingToBringHome(f"“{job.title}” brought VMs home itself.")
    plan = homecoming(job, now=now)
    with transaction.atomic():
        origin = jobs.locked(job.pk)
        live = origin.returns.exclude(status__in=jobs.OVER).first()
        if live is not None:
            return live
        if not plan.goes:
            _refuse(origin, plan)
        return _create(origin, plan, by, now)


def _refuse(origin: Maintenance, plan: Homecoming) -> None:
    if any(one.code == HOME_CLOSED for one in plan.stays):
        if origin.status not in jobs.OVER:
            raise JobStillOn(f"“{origin.title}” is {origin.get_status_display().lower()}.", maintenance=str(origin.pk))
        raise HomeInMaintenance("; ".join(f"{one.vm_name}: {one.words}" for one in plan.stays[:3]))
    told = "; ".join(f"{one.vm_name}: {one.words}" for one in plan.stays[:3])
    raise NothingToBringHome(told or "Every VM is where it was.", vms=len(plan.stays))


def _create(origin: Maintenance, plan: Homecoming, by: Actor, now: datetime) -> Maintenance:
    job = Maintenance.objects.create(
        mode=Mode.RETURN,
        status=MaintenanceStatus.PLANNING,
        title=f"Bring home: {origin.title}"[:200],
        origin=origin,
        across_clusters=True,
        host_parallel=origin.host_parallel,
        requested_by_id=by.user_id,
        requested_by_name=by.name[:200],
        plan={"stays": [one.to_json() for one in plan.stays]},
        created_at=now,
        started_at=now,
    )
    MaintenanceMove.objects.bulk_create(_rows(job, plan.goes, now))
    events.record(
        "maintenance.started",
        by=by,
        now=now,
        subject=job,
        severity="notice",
        data={"mode": job.mode, "vms": len(plan.goes), "stay": len(plan.stays), "origin": str(origin.pk)},
    )
    jobs.tell(job)
    jobs.wake(job, now=now)
    return job


def _rows(job: Maintenance, goes: Iterable[Homegoer], now: datetime) -> list[MaintenanceMove]:
    return [
        MaintenanceMove(
            maintenance=job,
            vm_id=one.vm_id,
            source_id=one.from_host_id,
            leaves_id=one.from_host_id,
            choice=Choice.HOST,
            choice_host_id=one.home_id,
            relaxed=list(one.relaxed),
            updated_at=now,
        )
        for one in goes
    ]
