"""The exact solver: finds what the search has missed, proves that no plan can do better, and says how much room is
missing. Needs the optional package ortools (CP-SAT); without it nothing is proven and :data:`MISSING` says so.

Its time limit makes its answers depend on the machine; what it proves does not.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from placement.planner.board import Board, Layout, Unit

MISSING = "The exact solver is not installed (package ortools), so it is not proven that no more VMs could be moved."
WHOLE_PAIRS = 150_000
NEIGHBOURHOOD_HOSTS = 30
CALM_SECONDS = 3.0
CALM_GAP = 2.0
Places = tuple[tuple[Unit, int], ...]


@dataclass(frozen=True)
class Answer:
    """``places``: a host for every unit that the solver moved or kept. ``left``: how many have none. ``proven``: no
    answer leaves fewer. ``words`` tells what happened."""

    places: Places
    left: int
    proven: bool
    words: str


@dataclass
class _Model:
    """One CP-SAT model: a boolean per unit and host it may be on."""

    board: Board
    cp: Any
    model: Any
    x: dict[tuple[int, int], Any]
    units: list[Unit]
    movers: int
    missing: list[Any]


def available() -> bool:
    """Whether the solver is installed."""
    return importlib.util.find_spec("ortools") is not None


def solve(board: Board, movers: Sequence[Unit], *, hint: Layout, seconds: float, seed: int) -> Answer:
    """Places as many of ``movers`` as possible, moving residents as far as the problem allows it.

    Fleets too big for the solver are solved around the VMs that are left over; that proves nothing.
    """
    if not available():
        return Answer((), len(movers), proven=False, words=MISSING)
    residents = resident_units(board, movers)
    whole = sum(int(np.count_nonzero(unit.legal)) + 1 for unit in (*movers, *residents)) <= WHOLE_PAIRS
    hosts = None if whole else _neighbourhood(board, movers, hint, seed)
    made = _build(board, movers, residents, hint, hosts)
    for unit in range(made.movers):
        made.model.AddExactlyOne(_row(made, unit))
    over_at = time.monotonic() + seconds
    limit = seconds / 2 if whole else seconds * 0.8
    status, places = _run(made, limit, seed)
    if places is not None:
        places = _calmly(board, movers, residents, hint, hosts, places, over_at, seed)
        return Answer(places, 0, proven=True, words="The exact solver found a place for every VM.")
    if not whole or status != "INFEASIBLE":
        words = f"The exact solver found nothing better within {limit:g} seconds and proved nothing."
        return Answer((), len(movers), proven=False, words=words)
    return _most(board, movers, residents, hint, over_at, seed)


def _most(
    board: Board, movers: Sequence[Unit], residents: Sequence[Unit], hint: Layout, over_at: float, seed: int
) -> Answer:
    """Not all can be placed: how many can?"""
    made = _build(board, movers, residents, hint, None)
    rows = [_row(made, unit) for unit in range(made.movers)]
    for row in rows:
        made.model.AddAtMostOne(row)
    made.model.Maximize(sum(one for row in rows for one in row))
    status, places = _run(made, (over_at - time.monotonic()) * 0.7, seed, workers=1)
    if places is None:
        return Answer(
            (), len(movers), False, "The exact solver proved that not every VM can be moved, but not how many."
        )
    placed = {unit for unit, _ in places}
    left = sum(unit not in placed for unit in movers)
    if left < sum(hint.at[unit.vms[0]] == board.at[unit.vms[0]] for unit in movers):
        places = _calmly(board, movers, residents, hint, None, places, over_at, seed)
    if status == "OPTIMAL":
        return Answer(places, left, True, f"The exact solver proved that at least {left} cannot be moved.")
    return Answer(places, left, False, "The exact solver proved that not every VM can be moved, but not how many.")


def _calmly(
    board: Board,
    movers: Sequence[Unit],
    residents: Sequence[Unit],
    hint: Layout,
    hosts: set[int] | None,
    places: Places,
    over_at: float,
    seed: int,
) -> Places:
    """As good an answer with about as few residents moving as possible: the solver moves them for no reason, and the
    more of them move the less likely is an order in which all have room at every instant."""
    start = Layout(board)
    for unit, host in places:
        for v in unit.vms:
            if start.at[v] != host:
                start.move(v, host)
    made = _build(board, movers, residents, hint, hosts, start=start)
    rows = [_row(made, unit) for unit in range(made.movers)]
    for row in rows:
        made.model.AddAtMostOne(row)
    placed = {unit for unit, _ in places}
    made.model.Add(sum(one for row in rows for one in row) >= sum(unit in placed for unit in movers))
    homes = [made.x.get((i, board.at[unit.vms[0]])) for i, unit in enumerate(made.units) if i >= made.movers]
    made.model.Maximize(sum(home for home in homes if home is not None))
    seconds = min(CALM_SECONDS, over_at - time.monotonic())
    return _run(made, seconds, seed, workers=1, gap=CALM_GAP)[1] or places


def missing_room(
    board: Board, movers: Sequence[Unit], *, hint: Layout, seconds: float, seed: int
) -> dict[int, tuple[int, int]] | None:
    """The least memory (MiB) and vCPUs to add, per host, so that every unit can be placed; None when that was not found
    in time or room is not what is missing."""
    residents = resident_units(board, movers)
    if not available() or sum(int(np.count_nonzero(u.legal)) + 1 for u in (*movers, *residents)) > WHOLE_PAIRS:
        return None
    made = _build(board, movers, residents, hint, None, elastic=True)
    for unit in range(made.movers):
        if not _row(made, unit):
            return None
        made.model.AddExactlyOne(_row(made, unit))
    made.model.Minimize(sum(weight * room for weight, room, _, _ in made.missing))
    solver = _solver(made, seconds, seed)
    if solver.StatusName(solver.Solve(made.model)) != "OPTIMAL":
        return None
    found: dict[int, tuple[int, int]] = {}
    for _, room, host, resource in made.missing:
        amount = solver.Value(room)
        if amount:
            memory, vcpus = found.get(host, (0, 0))
            found[host] = (memory + amount, vcpus) if resource == 0 else (memory, vcpus + amount)
    return found


def resident_units(board: Board, movers: Sequence[Unit]) -> list[Unit]:
    """Everything else that may be moved."""
    if not board.problem.residents_may_move:
        return []
    taken = {v for unit in movers for v in unit.vms}
    units = []
    for v, host in enumerate(board.at):
        if v in taken or host in board.sources or not board.resident_may_move(v):
            continue
        mates = board.mates_together(v)
        if all(board.resident_may_move(w) and board.at[w] == host and w not in taken for w in mates):
            taken.update(mates)
            units.append(board.unit(mates))
    return units


def _neighbourhood(board: Board, movers: Sequence[Unit], hint: Layout, seed: int) -> set[int]:
    """Hosts around what is left over: those it may go to with the most room, and a few others."""
    rng = random.Random(seed)
    left = [unit for unit in movers if hint.at[unit.vms[0]] == board.at[unit.vms[0]]]
    legal = np.zeros(len(board.hosts), bool)
    for unit in left:
        legal |= unit.legal
    near = sorted(np.flatnonzero(legal), key=lambda host: -int(hint.free_memory[host]))[: NEIGHBOURHOOD_HOSTS // 2]
    rest = [int(host) for host in np.flatnonzero(board.receives) if host not in near]
    rng.shuffle(rest)
    return {int(host) for host in near} | set(rest[: NEIGHBOURHOOD_HOSTS - len(near)])


def _build(
    board: Board,
    movers: Sequence[Unit],
    residents: Sequence[Unit],
    hint: Layout,
    hosts: set[int] | None,
    *,
    start: Layout | None = None,
    elastic: bool = False,
) -> _Model:
    """``start``: an answer that is known already, if not ``hint``."""
    cp = importlib.import_module("ortools.sat.python.cp_model")
    made = _Model(board, cp, cp.CpModel(), {}, [*movers, *residents], len(movers), [])
    known = start or hint
    for index, unit in enumerate(made.units):
        allowed = [int(host) for host in np.flatnonzero(unit.legal)]
        now = hint.at[unit.vms[0]]
        if hosts is not None:
            allowed = [host for host in allowed if host in hosts] if now in hosts or now in board.sources else [now]
        if index >= len(movers):
            allowed = sorted({*allowed, board.at[unit.vms[0]]}) if hosts is None else sorted({*allowed, now})
        for host in allowed:
            made.x[index, host] = made.model.NewBoolVar("")
            made.model.AddHint(made.x[index, host], int(host == known.at[unit.vms[0]]))
        if index >= len(movers):
            made.model.AddExactlyOne(_row(made, index))
    _capacity(made, elastic=elastic)
    _groups(made)
    return made


def _row(made: _Model, unit: int) -> list[Any]:
    return [made.x[unit, host] for host in range(len(made.board.hosts)) if (unit, host) in made.x]


def _capacity(made: _Model, *, elastic: bool) -> None:
    """No host takes more than it has; one that holds more already may keep that."""
    board = made.board
    free_units = {v for unit in made.units for v in unit.vms}
    by_host: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    for (unit, host), variable in made.x.items():
        by_host[host].append((unit, variable))
    kept: dict[int, list[int]] = defaultdict(list)
    for v in range(len(board.vms)):
        if v not in free_units:
            kept[board.moving[v][0] if v in board.moving else board.at[v]].append(v)
    now: dict[int, list[int]] = defaultdict(list)
    for v, host in enumerate(board.at):
        now[host].append(v)
    for host, row in by_host.items():
        one = board.hosts[host]
        resources = [
            (board.memory, one.memory_mib - one.used_memory_mib, [unit.memory for unit in made.units]),
            (board.vcpus, one.vcpus - one.used_vcpus, [unit.vcpus for unit in made.units]),
        ]
        if one.console_limit is not None:
            free = one.console_limit - one.used_consoles
            resources.append((board.consoles, free, [unit.consoles for unit in made.units]))
        for resource, (sizes, free, needs) in enumerate(resources):
            room = max(free, sum(sizes[v] for v in now[host])) - sum(sizes[v] for v in kept[host])
            load = sum(needs[unit] * variable for unit, variable in row)
            if elastic and resource < 2 and board.receives[host]:
                more = made.model.NewIntVar(0, sum(needs[unit] for unit in range(made.movers)), "")
                made.missing.append((1 if resource == 0 else 1024, more, host, resource))
                made.model.Add(load <= room + more)
            else:
                made.model.Add(load <= room)


def _groups(made: _Model) -> None:
    """At most one member of a group on a host, or as many as were there before."""
    board = made.board
    index = {v: i for i, unit in enumerate(made.units) for v in unit.vms}
    for members in board.apart.values():
        before: dict[int, int] = defaultdict(int)
        fixed: dict[int, int] = defaultdict(int)
        rows: dict[int, list[Any]] = defaultdict(list)
        for v in members:
            before[board.at[v]] += 1
            if v not in index:
                fixed[board.moving[v][0] if v in board.moving else board.at[v]] += 1
                continue
            for host in range(len(board.hosts)):
                if (index[v], host) in made.x:
                    rows[host].append(made.x[index[v], host])
        for host, row in rows.items():
            if len(row) + fixed[host] > 1:
                made.model.Add(sum(row) + fixed[host] <= max(1, before[host], fixed[host]))


def _solver(made: _Model, seconds: float, seed: int, workers: int = 8, gap: float = 0.0) -> Any:
    solver = made.cp.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.1, seconds)
    solver.parameters.absolute_gap_limit = gap
    solver.parameters.num_workers = min(workers, len(os.sched_getaffinity(0)))
    solver.parameters.random_seed = seed & 0x7FFFFFFF
    return solver


def _run(made: _Model, seconds: float, seed: int, *, workers: int = 8, gap: float = 0.0) -> tuple[str, Places | None]:
    """One worker bounds these objectives faster than several that search, and gives the same answer each time."""
    solver = _solver(made, seconds, seed, workers, gap)
    status = solver.StatusName(solver.Solve(made.model))
    if status not in ("OPTIMAL", "FEASIBLE"):
        return status, None
    return status, tuple((made.units[unit], host) for (unit, host), x in made.x.items() if solver.Value(x))
