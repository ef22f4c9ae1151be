"""What each move has to wait for, whatever the others' durations turn out to be, and how fast any order could be.

A move to host H counts every arrival on H before it in the plan as there, whether or not it has started, and as gone
only what it waits for. So H is never overfull: of all arrivals that have started, look at the one latest in the plan;
it counted all the others and has seen gone what it needs gone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from placement.planner.board import NO_LIMIT, Board
from placement.planner.order import Transfer


def waits(board: Board, transfers: Sequence[Transfer]) -> list[tuple[int, ...]]:
    """For each transfer (in the order of their starts) the indices of those that must have ended before it starts."""
    arrivals: dict[int, list[int]] = defaultdict(list)
    departures: dict[int, list[int]] = defaultdict(list)
    moves_of: dict[int, list[int]] = defaultdict(list)
    for i, transfer in enumerate(transfers):
        arrivals[transfer.target].append(i)
        departures[transfer.source].append(i)
        moves_of[transfer.vm].append(i)
    found: list[set[int]] = [set() for _ in transfers]
    residents: dict[int, list[int]] = defaultdict(list)
    for v, host in enumerate(board.at):
        residents[host].append(v)
    for host, incoming in arrivals.items():
        leaving = sorted(departures.get(host, ()), key=lambda i: transfers[i].ended)
        _for_room(board, transfers, host, incoming, leaving, residents[host], found)
    _for_groups(board, transfers, moves_of, found)
    for moves in moves_of.values():
        for before, after in pairwise(moves):
            found[after].add(before)
    return [() if transfer.running else tuple(sorted(found[i])) for i, transfer in enumerate(transfers)]


def _for_room(
    board: Board,
    transfers: Sequence[Transfer],
    host: int,
    incoming: Sequence[int],
    leaving: Sequence[int],
    residents: Sequence[int],
    found: list[set[int]],
) -> None:
    one = board.hosts[host]
    limit = NO_LIMIT if one.console_limit is None else one.console_limit
    free = [one.memory_mib - one.used_memory_mib, one.vcpus - one.used_vcpus, limit - one.used_consoles]
    for v in residents:
        _count(free, board, v, -1)
    gone = 0
    for i in incoming:
        v = transfers[i].vm
        _count(free, board, v, -1)
        needs = (board.memory[v], board.vcpus[v], board.consoles[v])
        while not transfers[i].running and gone < len(leaving) and _overfull(free, needs):
            _count(free, board, transfers[leaving[gone]].vm, 1)
            gone += 1
        found[i].update(leaving[:gone])


def _overfull(free: Sequence[int], needs: Sequence[int]) -> bool:
    """Consoles count only for who brings some, as a host may be over its limit for other reasons."""
    return free[0] < 0 or free[1] < 0 or (needs[2] > 0 and free[2] < 0)


def _count(free: list[int], board: Board, v: int, sign: int) -> None:
    free[0] += sign * board.memory[v]
    free[1] += sign * board.vcpus[v]
    free[2] += sign * board.consoles[v]


def _for_groups(
    board: Board, transfers: Sequence[Transfer], moves_of: dict[int, list[int]], found: list[set[int]]
) -> None:
    """A VM arrives once those that it must be apart from, and that were or will have come there, have left."""
    for i, transfer in enumerate(transfers):
        for mate in board.mates_apart(transfer.vm):
            for j in moves_of.get(mate, ()):
                if transfers[j].source == transfer.target and transfers[j].end <= transfer.start:
                    found[i].add(j)


def lower_bound(board: Board, targets: Sequence[tuple[int, int]]) -> float:
    """Seconds that no order of these moves can undercut: each host's work over its slots, the whole plan's over the
    total, the longest move, and, on a full host, the quickest departure before an arrival."""
    limits = board.problem.limits
    work: dict[int, list[float]] = defaultdict(list)
    leaving: dict[int, list[float]] = defaultdict(list)
    jobs = [(board.at[v], target, limits.seconds(board.vms[v]), v) for v, target in targets]
    running = [(board.at[v], target, seconds, v) for v, (target, seconds) in board.moving.items()]
    for source, target, seconds, _ in (*jobs, *running):
        work[source].append(seconds)
        work[target].append(seconds)
        leaving[source].append(seconds)
    every = [seconds for _, _, seconds, _ in (*jobs, *running)]
    bound = max(every, default=0.0)
    begun = Counter(host for source, target, _, _ in running for host in (source, target))
    if limits.host_parallel:
        slots = {host: max(limits.host_parallel, begun[host]) for host in work}
        bound = max([bound, *(_of_slots(seconds, slots[host]) for host, seconds in work.items())])
    if limits.total:
        bound = max(bound, _of_slots(every, max(limits.total, len(running))))
    free = _free_memory(board)
    for _, target, seconds, v in jobs:
        if free[target] < board.memory[v] and leaving[target]:
            bound = max(bound, min(leaving[target]) + seconds)
    return bound


def _of_slots(seconds: list[float], slots: int) -> float:
    """Jobs on equal machines: the average, and the two smallest of the slots + 1 longest share one."""
    longest = sorted(seconds, reverse=True)
    pair = longest[slots - 1] + longest[slots] if len(longest) > slots else 0.0
    return max(sum(seconds) / slots, pair)


def _free_memory(board: Board) -> list[int]:
    free = [host.memory_mib - host.used_memory_mib for host in board.hosts]
    for v, host in enumerate(board.at):
        free[host] -= board.memory[v]
    return free
