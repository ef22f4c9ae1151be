"""Finds a host for every VM that has to move: evenly where there is room, else by best fit and ejection chains.

A chain makes room for a VM on a host by sending another one (or two) from there elsewhere, which may need a chain of
its own. Small VMs are pushed before big ones, and of equals those that move anyway before residents. When an order
strands VMs, the next one places them earlier. Everything is counted in steps, not in time, so that equal problems give
equal plans; the deadline only ends what takes too long.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from placement.planner.board import Board, Column, Layout, Unit
from placement.planner.room import least_left

HOSTS_TRIED = 12
SINGLES_TRIED = 6
PAIRS_TRIED = 6
CHAIN_DEPTHS = (0, 1, 2)
DEEP = 3
CHAIN_STEPS = 1500
ORDERS = 60
NOISE = 0.3


@dataclass(frozen=True)
class Found:
    """The best layout found, the units it leaves where they are, and in which order VMs were put."""

    layout: Layout
    left: tuple[Unit, ...]


@dataclass
class Budget:
    """Ends a search that takes too long."""

    deadline: float
    clock: Callable[[], float]

    def over(self) -> bool:
        return self.clock() > self.deadline


@dataclass
class Chains:
    """One try: a layout and what may be done to it. ``heed``: soft groups count."""

    board: Board
    layout: Layout
    units: dict[int, Unit]
    budget: Budget
    rng: random.Random
    steps: int = 0
    evenly: bool = False
    heed: bool = True
    movers: set[int] = field(default_factory=set)

    def unit_of(self, v: int) -> Unit | None:
        """What moves when this VM is pushed; None when it may not be pushed."""
        if v in self.units:
            return self.units[v]
        if not self.board.resident_may_move(v):
            return None
        mates = self.board.mates_together(v)
        if len(mates) > 1 and not all(
            self.board.resident_may_move(w) and self.layout.at[w] == self.layout.at[v] for w in mates
        ):
            return None
        unit = self.board.unit(mates)
        for w in mates:
            self.units[w] = unit
        return unit

    def place(self, unit: Unit, depth: int, banned: tuple[int, ...] = ()) -> bool:
        """Puts the unit somewhere, pushing others if need be. Nothing has changed when it returns False."""
        self.steps -= 1
        ok = self.layout.fits(unit)
        for host in banned:
            ok[host] = False
        hosts = np.flatnonzero(ok)
        if hosts.size:
            hosts = self._liked(unit, hosts)
            self.layout.put(unit, self._emptiest(unit, hosts) if self.evenly else self._best(hosts))
            return True
        if depth == 0 or self.steps < 0 or self.budget.over():
            return False
        return any(self._push_to(unit, host, depth, banned) for host in self._hosts_to_clear(unit, banned))

    def _liked(
        self, unit: Unit, hosts: np.ndarray[tuple[int], np.dtype[np.intp]]
    ) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Of these the preferred ones, if there are any, and of those the ones that soft groups like best."""
        preferred = hosts[self.board.preferred[hosts]]
        hosts = preferred if preferred.size else hosts
        likings = self.layout.likings(unit) if self.heed else None
        if likings is not None:
            hosts = hosts[likings[hosts] == likings[hosts].max()]
        return hosts

    def _best(self, hosts: np.ndarray[tuple[int], np.dtype[np.intp]]) -> int:
        """The fullest."""
        return int(hosts[np.argmin(self.layout.free_memory[hosts])])

    def _emptiest(self, unit: Unit, hosts: np.ndarray[tuple[int], np.dtype[np.intp]]) -> int:
        """The host with most left of what it has too little of, near home if there are any."""
        near = self.board.same_cluster(unit.vms[0])
        if near[hosts].any():
            hosts = hosts[near[hosts]]
        memory = (self.layout.free_memory[hosts] - unit.memory) / np.maximum(self.board.host_memory[hosts], 1)
        vcpus = (self.layout.free_vcpus[hosts] - unit.vcpus) / np.maximum(self.board.host_vcpus[hosts], 1)
        return int(hosts[np.argmax(np.minimum(memory, vcpus))])

    def _hosts_to_clear(self, unit: Unit, banned: tuple[int, ...]) -> list[int]:
        """Legal hosts, those with the least missing first."""
        ok = unit.legal.copy()
        for host in (*banned, *(self.layout.at[v] for v in unit.vms)):
            if host != self.layout.nowhere:
                ok[host] = False
        hosts = np.flatnonzero(ok)
        missing = np.maximum(unit.memory - self.layout.free_memory[hosts], 0) + 1024 * np.maximum(
            unit.vcpus - self.layout.free_vcpus[hosts], 0
        )
        order = np.argsort(missing, kind="stable")
        return [int(host) for host in hosts[order][:HOSTS_TRIED]]

    def _push_to(self, unit: Unit, host: int, depth: int, banned: tuple[int, ...]) -> bool:
        layout = self.layout
        for pushed in self._choices(unit, host, depth):
            if self.steps < 0:
                return False
            mark = layout.mark()
            if all(self.place(other, depth - 1, (*banned, host)) for other in pushed) and layout.fits(unit)[host]:
                layout.put(unit, host)
                return True
            layout.undo(mark)
        return False

    def _choices(self, unit: Unit, host: int, depth: int) -> Iterator[tuple[Unit, ...]]:
        """What could leave the host so that the unit fits: cheapest first."""
        layout, board = self.layout, self.board
        memory = unit.memory - int(layout.free_memory[host])
        vcpus = unit.vcpus - int(layout.free_vcpus[host])
        consoles = unit.consoles - int(layout.free_consoles[host]) if unit.consoles else 0
        clashing = {w for v in unit.vms for w in board.mates_apart(v) if layout.at[w] == host}
        must: list[Unit] = []
        for v in sorted(clashing):
            other = self.unit_of(v)
            if other is None or other in must:
                return
            must.append(other)
        for other in must:
            memory, vcpus, consoles = memory - other.memory, vcpus - other.vcpus, consoles - other.consoles
        if memory <= 0 and vcpus <= 0 and consoles <= 0:
            yield tuple(must)
            return
        yield from self._room_makers(unit, host, depth, tuple(must), (memory, vcpus, consoles))

    def _room_makers(
        self, unit: Unit, host: int, depth: int, must: tuple[Unit, ...], missing: tuple[int, int, int]
    ) -> Iterator[tuple[Unit, ...]]:
        memory, vcpus, consoles = missing
        others = [other for other in self._pushable(host) if other not in must and self._smaller(other, unit, depth)]
        enough = [o for o in others if o.memory >= memory and o.vcpus >= vcpus and o.consoles >= consoles]
        for other in enough[:SINGLES_TRIED]:
            yield (*must, other)
        rest = [o for o in others if o not in enough]
        pairs = [
            (a, b)
            for a, b in combinations(rest, 2)
            if a.memory + b.memory >= memory and a.vcpus + b.vcpus >= vcpus and a.consoles + b.consoles >= consoles
        ]
        pairs.sort(key=lambda pair: pair[0].memory + pair[1].memory)
        for a, b in pairs[:PAIRS_TRIED]:
            yield (*must, b, a) if b.memory > a.memory else (*must, a, b)

    def _pushable(self, host: int) -> list[Unit]:
        """Units on the host that may be pushed; movers first, then by size. One of each size and set of hosts would do,
        but groups differ, so all are kept."""
        found: dict[int, Unit] = {}
        for v in sorted(self.layout.on[host]):
            unit = self.unit_of(v)
            if unit is not None:
                found[unit.vms[0]] = unit
        return sorted(found.values(), key=lambda unit: (unit.memory, unit.vcpus, unit.vms[0] not in self.movers))

    @staticmethod
    def _smaller(other: Unit, unit: Unit, depth: int) -> bool:
        """Deep chains may push equals, as these may have hosts that the unit has not."""
        return other.memory < unit.memory + (1 if depth > 1 else 0) or other.vcpus < unit.vcpus


def search(board: Board, units: Sequence[Unit], *, budget: Budget, orders: int = ORDERS) -> Found:
    """The best of several tries, ``orders`` at most: fewest units left, then least memory left. When spreading them
    evenly places all of them, that is it: a fleet with room to spare is not packed. Soft groups are heeded unless fewer
    are left without them."""
    found = _search(board, units, budget, orders, heed=True)
    if found.left and (board.soft_apart or board.soft_together):
        again = _search(board, units, budget, orders, heed=False)
        return again if len(again.left) < len(found.left) else found
    return found


def _search(board: Board, units: Sequence[Unit], budget: Budget, orders: int, *, heed: bool) -> Found:
    rng = random.Random(board.problem.seed)
    even = _evenly(board, units, budget, rng, heed=heed)
    if not even.left:
        return even
    weight = {unit.vms[0]: 1.0 for unit in units}
    best = Found(Layout(board), tuple(units))
    for attempt in range(orders):
        noise = NOISE if attempt > 1 else 0.0
        order = sorted(units, key=lambda unit: _priority(unit, attempt % 2 == 1, weight, noise, rng))
        found = _try(board, order, budget, rng, lifted=attempt % 2 == 0, heed=heed)
        if attempt == 0 or _cost(found) < _cost(best):
            best = found
        if not best.left or budget.over() or len(best.left) <= least_left(board, units, best.left):
            break
        for unit in found.left:
            weight[unit.vms[0]] *= 2.0
    return best


def _evenly(board: Board, units: Sequence[Unit], budget: Budget, rng: random.Random, *, heed: bool) -> Found:
    """Big ones first, each to the emptiest host, nobody pushed; ends at the first that finds no place."""
    chains = Chains(board, Layout(board), {}, budget, rng, evenly=True, heed=heed)
    order = sorted(units, key=lambda unit: (-unit.memory, -unit.vcpus, unit.vms[0]))
    for index, unit in enumerate(order):
        if not chains.place(unit, 0):
            return Found(chains.layout, tuple(order[index:]))
    return Found(chains.layout, ())


def _priority(
    unit: Unit, constrained_first: bool, weight: dict[int, float], noise: float, rng: random.Random
) -> tuple[float, float, int]:
    """Small sorts first. Big ones first, or those with few legal hosts first; stranded ones move forward."""
    hosts = int(np.count_nonzero(unit.legal))
    jitter = (1.0 + noise * rng.random()) * weight[unit.vms[0]]
    size = (unit.memory + 1024.0 * unit.vcpus) if constrained_first else float(unit.memory)
    if constrained_first:
        return -size * jitter / (hosts + 4), hosts, unit.vms[0]
    return -size * jitter, hosts, unit.vms[0]


def _try(board: Board, order: Sequence[Unit], budget: Budget, rng: random.Random, *, lifted: bool, heed: bool) -> Found:
    """One order. ``lifted``: VMs that leave a host which receives others do not count there, so that two may change
    places; those that find no other place need theirs again, or nothing of this try is used."""
    chains = Chains(board, Layout(board), {v: unit for unit in order for v in unit.vms}, budget, rng, heed=heed)
    chains.movers = {v for unit in order for v in unit.vms}
    left = list(order)
    if lifted:
        for v in chains.movers:
            if board.receives[board.at[v]]:
                chains.layout.move(v, chains.layout.nowhere)
    for depth in (*CHAIN_DEPTHS, DEEP):
        rest = []
        for unit in left:
            chains.steps = CHAIN_STEPS * (depth + 1)
            if not chains.place(unit, depth):
                rest.append(unit)
        left = rest
        if not left:
            break
    return Found(chains.layout, tuple(left)) if _put_back(chains, left) else Found(Layout(board), tuple(order))


def _put_back(chains: Chains, left: Sequence[Unit]) -> bool:
    board, layout = chains.board, chains.layout
    for unit in left:
        for v in unit.vms:
            if layout.at[v] == layout.nowhere:
                if not layout.fits(_anywhere(board.unit([v]), board))[board.at[v]]:
                    return False
                layout.move(v, board.at[v])
    return True


def _cost(found: Found) -> tuple[int, int]:
    return len(found.left), sum(unit.memory for unit in found.left)


def take_home(board: Board, layout: Layout, movers: Sequence[int]) -> None:
    """Lets residents stay after all where that is possible: a smaller plan for the same result."""
    moving = set(movers)
    changed = True
    while changed:
        changed = False
        for v, host in enumerate(layout.at):
            home = board.at[v]
            if host == home or v in moving or v in board.moving or len(board.mates_together(v)) > 1:
                continue
            unit = board.unit([v])
            allowed: Column = layout.fits(_anywhere(unit, board))
            if allowed[home]:
                layout.move(v, home)
                changed = True


def _anywhere(unit: Unit, board: Board) -> Unit:
    """Home was good enough before, whatever the rules say of it."""
    return Unit(unit.vms, unit.memory, unit.vcpus, unit.consoles, np.ones(len(board.hosts), bool))
