"""Puts moves in time: every move starts as soon as its room, its groups and the limits allow it, never in steps.

A VM holds room on both hosts while it moves. Where moves wait for each other in a circle, one VM goes by way of a third
host. Several priorities are tried and the fastest result is kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from placement.planner.board import NO_LIMIT, Board

NEAR_ENOUGH = 1.02


@dataclass(slots=True)
class Transfer:
    """One move to be ordered; the times are filled in when it starts. ``then``: where a parked VM goes on to."""

    vm: int
    source: int
    target: int
    seconds: float
    then: int | None = None
    running: bool = False
    start: float = -1.0
    ended: int = -1

    @property
    def end(self) -> float:
        return self.start + self.seconds


@dataclass
class Order:
    """Transfers in the order of their starts, and those that could not be ordered."""

    transfers: list[Transfer]
    stuck: list[Transfer]
    seconds: float


Key = Callable[["Clockwork", Transfer], tuple[float, ...]]


@dataclass
class Clockwork:
    """One run of the clock over a set of transfers."""

    board: Board
    key: Key
    waiting: list[set[int]] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    running: list[tuple[float, int]] = field(default_factory=list)
    now: float = 0.0
    ends: int = 0

    def __post_init__(self) -> None:
        board = self.board
        count = len(board.hosts)
        self.limit = board.problem.limits.host_parallel or NO_LIMIT
        self.total = board.problem.limits.total or NO_LIMIT
        self.waiting = [set() for _ in range(count)]
        self.busy = [0] * count
        self.work = [0.0] * count
        self.memory = [host.memory_mib - host.used_memory_mib for host in board.hosts]
        self.vcpus = [host.vcpus - host.used_vcpus for host in board.hosts]
        self.consoles = [
            NO_LIMIT if host.console_limit is None else host.console_limit - host.used_consoles for host in board.hosts
        ]
        self.places: list[tuple[int, ...]] = [(host,) for host in board.at]
        for v, host in enumerate(board.at):
            self._hold(v, host, 1)

    def _hold(self, v: int, host: int, sign: int) -> None:
        self.memory[host] -= sign * self.board.memory[v]
        self.vcpus[host] -= sign * self.board.vcpus[v]
        self.consoles[host] -= sign * self.board.consoles[v]

    def add(self, transfer: Transfer) -> int:
        """Lets the transfer wait for its turn."""
        index = len(self.transfers)
        self.transfers.append(transfer)
        for host in (transfer.source, transfer.target):
            self.waiting[host].add(index)
            self.work[host] += transfer.seconds
        return index

    def has_room(self, v: int, host: int) -> bool:
        """Whether the VM could be sent there now."""
        board = self.board
        need = board.consoles[v]
        if self.memory[host] < board.memory[v] or self.vcpus[host] < board.vcpus[v]:
            return False
        if need and self.consoles[host] < need:
            return False
        return not any(host in self.places[w] for w in board.mates_apart(v))

    def may_start(self, transfer: Transfer) -> bool:
        return (
            len(self.running) < self.total
            and self.busy[transfer.source] < self.limit
            and self.busy[transfer.target] < self.limit
            and self.has_room(transfer.vm, transfer.target)
        )

    def start(self, index: int) -> None:
        transfer = self.transfers[index]
        transfer.start = self.now
        for host in (transfer.source, transfer.target):
            self.waiting[host].discard(index)
            self.busy[host] += 1
        self._hold(transfer.vm, transfer.target, 1)
        self.places[transfer.vm] = (transfer.source, transfer.target)
        self.started.append(index)
        heapq.heappush(self.running, (transfer.end, index))

    def finish_next(self) -> set[int]:
        """Lets time pass until something ends; the hosts it touched."""
        touched: set[int] = set()
        self.now = self.running[0][0]
        while self.running and self.running[0][0] <= self.now:
            transfer = self.transfers[heapq.heappop(self.running)[1]]
            transfer.ended, self.ends = self.ends, self.ends + 1
            for host in (transfer.source, transfer.target):
                self.busy[host] -= 1
                self.work[host] -= transfer.seconds
                touched.add(host)
            self._hold(transfer.vm, transfer.source, -1)
            self.places[transfer.vm] = (transfer.target,)
            if transfer.then is not None:
                self.add(Transfer(transfer.vm, transfer.target, transfer.then, transfer.seconds))
                touched.add(transfer.then)
        return touched

    def run(self) -> Order:
        """Until nothing waits, or nothing that waits can ever start."""
        touched = set(range(len(self.waiting)))
        while True:
            waiting: set[int] = set()
            full = len(self.running) >= self.total
            for host in touched:
                waiting |= self.waiting[host]
            for index in sorted(waiting, key=lambda i: self.key(self, self.transfers[i])):
                if len(self.running) >= self.total:
                    break
                if self.may_start(self.transfers[index]):
                    self.start(index)
            full = full or len(self.running) >= self.total
            if self.running:
                touched = self.finish_next()
                if full:
                    touched = {host for host, found in enumerate(self.waiting) if found}
            elif not self._park():
                break
            else:
                touched = set(range(len(self.waiting)))
        stuck = [transfer for transfer in self.transfers if transfer.start < 0]
        done = [self.transfers[index] for index in self.started]
        return Order(done, stuck, max((transfer.end for transfer in done), default=0.0))

    def _park(self) -> bool:
        """Breaks a circle: a VM on a host that others wait for goes by way of a third host. False when none can."""
        waiting = [index for index, transfer in enumerate(self.transfers) if transfer.start < 0]
        wanted = {self.transfers[index].target for index in waiting}
        waiting = [i for i in waiting if self.transfers[i].source in wanted and self.transfers[i].then is None]
        for index in sorted(waiting, key=lambda i: (self.transfers[i].seconds, i)):
            transfer = self.transfers[index]
            host = self._parking_host(transfer)
            if host is not None:
                for end in (transfer.source, transfer.target):
                    self.waiting[end].discard(index)
                self.work[transfer.target] -= transfer.seconds
                transfer.then, transfer.target = transfer.target, host
                self.waiting[transfer.source].add(index)
                self.waiting[host].add(index)
                self.work[host] += transfer.seconds
                return True
        return False

    def _parking_host(self, transfer: Transfer) -> int | None:
        """The legal host with the most room; a VM that has been parked is not parked again."""
        if any(t.vm == transfer.vm and t.start >= 0 for t in self.transfers):
            return None
        legal = self.board.legal(transfer.vm, on_the_way=True)
        hosts = [
            host
            for host in range(len(self.waiting))
            if legal[host] and host not in (transfer.source, transfer.target) and self.has_room(transfer.vm, host)
        ]
        return max(hosts, key=lambda host: (self.memory[host], -host), default=None)


def _by_work(clock: Clockwork, transfer: Transfer) -> tuple[float, ...]:
    """What makes room first, then what the busiest hosts take part in, long ones first."""
    a, b = transfer.source, transfer.target
    makes_room = clock.board.receives[a]
    return (not makes_room, -max(clock.work[a], clock.work[b]), -transfer.seconds, transfer.vm)


def _by_length(clock: Clockwork, transfer: Transfer) -> tuple[float, ...]:
    """What makes room first, then the long ones."""
    a, b = transfer.source, transfer.target
    return (not clock.board.receives[a], -transfer.seconds, -clock.work[a] - clock.work[b], transfer.vm)


def _by_both_ends(clock: Clockwork, transfer: Transfer) -> tuple[float, ...]:
    """The busiest pair of hosts first."""
    a, b = transfer.source, transfer.target
    return (-clock.work[a] - clock.work[b], -transfer.seconds, transfer.vm)


KEYS: tuple[Key, ...] = (_by_work, _by_length, _by_both_ends)


def arrange(board: Board, targets: Sequence[tuple[int, int]], *, bound: float, over: Callable[[], bool]) -> Order:
    """The fastest order found for these (VM, target) pairs. Once nothing is stuck, stops trying when it is near
    ``bound`` seconds or ``over()``."""
    orders: list[Order] = []
    for key in KEYS:
        clock = Clockwork(board, key)
        _take_up_running(clock)
        for v, target in targets:
            clock.add(Transfer(v, board.at[v], target, board.problem.limits.seconds(board.vms[v])))
        order = clock.run()
        orders.append(order)
        if not order.stuck and (over() or order.seconds <= NEAR_ENOUGH * bound):
            break
    return min(orders, key=lambda order: (len(order.stuck), order.seconds))


def _take_up_running(clock: Clockwork) -> None:
    """Migrations that run already have started at once, whatever the limits say."""
    for v, (target, seconds) in sorted(clock.board.moving.items()):
        index = clock.add(Transfer(v, clock.board.at[v], target, seconds, running=True))
        clock.start(index)
