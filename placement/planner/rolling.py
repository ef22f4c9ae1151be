"""Maintenance of many hosts, a few at a time, planned ahead: which ones together, in which order, and which cannot be
emptied whatever the order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.planner.core import EXACT_SECONDS, plan
from placement.planner.model import Plan, Problem, Stranded, Vm

TRY_SECONDS = 0.15
PUSHING_STEPS = 10
"""So many hosts are emptied at the cost of third VMs before it is tried again without: what they leave is room."""


@dataclass(frozen=True)
class Step:
    """These hosts are emptied together, maintained, and back in use before the next step. ``home``: how their VMs
    return, when that was asked for."""

    hosts: tuple[str, ...]
    leave: Plan
    home: Plan | None = None

    @property
    def moves(self) -> int:
        return len(self.leave.moves) + (len(self.home.moves) if self.home else 0)

    @property
    def seconds(self) -> float:
        """Time spent moving VMs, the maintenance itself not counted."""
        return self.leave.seconds + (self.home.seconds if self.home else 0.0)


@dataclass(frozen=True)
class Rolling:
    """``stuck``: hosts that cannot be emptied, with what is in the way when all others are done."""

    steps: tuple[Step, ...]
    stuck: Mapping[str, tuple[Stranded, ...]]
    moves: int
    seconds: float
    planning_seconds: float


@dataclass
class _Fleet:
    """Where the VMs are, step after step."""

    problem: Problem
    vms: dict[str, Vm]
    done: list[str] = field(default_factory=list)

    def now(self, sources: Sequence[str] = (), fixed: Mapping[str, str] | None = None) -> Problem:
        return replace(
            self.problem, vms=tuple(self.vms.values()), sources=frozenset(sources), fixed=fixed or {}, moving=()
        )

    def empty(self, batch: Sequence[str], *, exact_seconds: float = 0.0) -> Plan:
        """Hosts that are done already are preferred, so that VMs need not move again."""
        problem = replace(self.now(batch), preferred=frozenset(self.done))
        return plan(problem, budget_seconds=TRY_SECONDS, exact_seconds=exact_seconds)

    def empty_alone(self, batch: Sequence[str]) -> Plan:
        """The same with no VM of another host moving, if that is found quickly."""
        problem = replace(self.now(batch), preferred=frozenset(self.done), residents_may_move=False)
        return plan(problem, budget_seconds=TRY_SECONDS, exact_seconds=0.0, explain=False, orders=2)

    def apply(self, done: Plan) -> None:
        for move in done.moves:
            self.vms[move.vm] = replace(self.vms[move.vm], host=move.target)


def rolling(
    problem: Problem,
    hosts: Sequence[str],
    *,
    at_once: int = 1,
    bring_home: bool = False,
    exact_seconds: float = EXACT_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Rolling:
    """Plans the maintenance of ``hosts``, at most ``at_once`` at a time; the problem's own sources are left aside.

    Hosts that can be emptied without moving VMs of others have their turn first, as each that is done makes room: so
    fewer VMs move twice. A host that cannot be emptied is tried again once others have made room; the exact solver gets
    ``exact_seconds`` in all for those that remain. Raises :class:`ValueError` when a host is unknown or ``at_once`` is
    not positive.
    """
    if at_once < 1:
        raise ValueError("at least one host at a time")
    began = clock()
    fleet = _Fleet(problem, {vm.id: vm for vm in problem.vms})
    steps: list[Step] = []
    waiting = list(dict.fromkeys(hosts))
    together = at_once
    while waiting:
        made, failed = _pass(fleet, waiting, together, fleet.empty_alone, bring_home=bring_home)
        if not made:
            made, failed = _pass(fleet, waiting, together, fleet.empty, bring_home=bring_home, most=PUSHING_STEPS)
        steps += made
        if not made and together == 1:
            break
        waiting, together = failed, together if made else 1
    last, stuck = _last_tries(fleet, waiting, exact_seconds, bring_home=bring_home)
    steps += last
    moves = sum(step.moves for step in steps)
    seconds = sum(step.seconds for step in steps)
    return Rolling(tuple(steps), stuck, moves, seconds, clock() - began)


def _pass(
    fleet: _Fleet,
    hosts: Sequence[str],
    together: int,
    empty: Callable[[Sequence[str]], Plan],
    *,
    bring_home: bool,
    most: int | None = None,
) -> tuple[list[Step], list[str]]:
    """One try for every host, until ``most`` steps are made; the steps and the hosts that failed or are left."""
    steps: list[Step] = []
    failed: list[str] = []
    for start in range(0, len(hosts), together):
        batch = list(hosts[start : start + together])
        step = None
        while batch and step is None:
            step, batch, dropped = _try(fleet, batch, empty, bring_home=bring_home)
            failed += dropped
        if step is not None:
            steps.append(step)
        if most is not None and len(steps) >= most:
            return steps, [*failed, *hosts[start + together :]]
    return steps, failed


def _try(
    fleet: _Fleet, batch: list[str], empty: Callable[[Sequence[str]], Plan], *, bring_home: bool
) -> tuple[Step | None, list[str], list[str]]:
    """A step for the batch; or none, with those left to try and those dropped, as VMs of theirs were stranded."""
    leave = empty(batch)
    if leave.stranded:
        blocked = {one.host for one in leave.stranded}
        return None, [host for host in batch if host not in blocked], [host for host in batch if host in blocked]
    return _done(fleet, batch, leave, bring_home=bring_home), batch, []


def _done(fleet: _Fleet, batch: Sequence[str], leave: Plan, *, bring_home: bool) -> Step:
    homes = {move.vm: fleet.vms[move.vm].host for move in leave.moves}
    fleet.apply(leave)
    fleet.done += batch
    if not bring_home:
        return Step(tuple(batch), leave)
    home = plan(fleet.now(fixed=homes), budget_seconds=TRY_SECONDS, exact_seconds=0)
    fleet.apply(home)
    return Step(tuple(batch), leave, home)


def _last_tries(
    fleet: _Fleet, hosts: Sequence[str], exact_seconds: float, *, bring_home: bool
) -> tuple[list[Step], dict[str, tuple[Stranded, ...]]]:
    """The exact solver's turn, host by host: steps after all, and what is in the way on the others."""
    each = exact_seconds / len(hosts) if hosts else 0.0
    steps: list[Step] = []
    stuck: dict[str, tuple[Stranded, ...]] = {}
    for host in hosts:
        leave = fleet.empty([host], exact_seconds=each)
        if leave.stranded:
            stuck[host] = leave.stranded
        else:
            steps.append(_done(fleet, [host], leave, bring_home=bring_home))
    return steps, stuck
