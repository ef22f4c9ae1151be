"""A proof that needs no solver: some VMs can only be on some hosts, and together these hosts are too small for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from placement.planner.board import Board, Column, Unit

WORDS = "It is proven that at least {count} cannot be moved: the hosts they may go to have too little room in all."


def least_left(board: Board, units: Sequence[Unit], left: Iterable[Unit]) -> int:
    """So many of ``units`` have no place in any plan, judged by the room in all on the hosts that those ``left`` may go
    to, and on all hosts. 0: nothing is proven."""
    columns = {unit.legal.tobytes(): unit.legal for unit in left}
    columns[board.receives.tobytes()] = board.receives
    confined = _Residents(board, units)
    return max(_least(board, units, column, confined) for column in columns.values())


class _Residents:
    """Where everything that need not be placed may be."""

    def __init__(self, board: Board, units: Sequence[Unit]) -> None:
        self.board = board
        placed = {v for unit in units for v in unit.vms}
        receiving = _mask(board.receives)
        self.options: list[tuple[int, int, int]] = []
        for v, host in enumerate(board.at):
            if v in placed:
                continue
            home = 1 << (board.moving[v][0] if v in board.moving else host)
            free = board.rules_mask(board.vms[v].rules) & receiving if board.resident_may_move(v) else 0
            self.options.append((home | free, board.memory[v], board.vcpus[v]))

    def within(self, mask: int) -> tuple[int, int]:
        """Memory and vCPUs of what cannot leave these hosts."""
        inside = [(memory, vcpus) for where, memory, vcpus in self.options if not where & ~mask]
        return sum(memory for memory, _ in inside), sum(vcpus for _, vcpus in inside)


def _least(board: Board, units: Sequence[Unit], column: Column, residents: _Residents) -> int:
    mask = _mask(column)
    confined = [unit for unit in units if not (unit.legal & ~column).any()]
    memory, vcpus = residents.within(mask)
    room = _room(board, column)
    return max(
        _too_many([unit.memory for unit in confined], room[0] - memory),
        _too_many([unit.vcpus for unit in confined], room[1] - vcpus),
    )


def _room(board: Board, column: Column) -> tuple[int, int]:
    """What the hosts may hold; one that holds more than that already may keep it."""
    held = {int(host): [0, 0] for host in np.flatnonzero(column)}
    for v, host in enumerate(board.at):
        if host in held:
            held[host][0] += board.memory[v]
            held[host][1] += board.vcpus[v]
    memory = sum(max(board.hosts[h].memory_mib - board.hosts[h].used_memory_mib, m) for h, (m, _) in held.items())
    vcpus = sum(max(board.hosts[h].vcpus - board.hosts[h].used_vcpus, c) for h, (_, c) in held.items())
    return memory, vcpus


def _too_many(needs: list[int], room: int) -> int:
    """How many have to go before the rest fits, the biggest first."""
    excess, count = sum(needs) - room, 0
    for need in sorted(needs, reverse=True):
        if excess <= 0:
            break
        excess -= need
        count += 1
    return count


def _mask(column: Column) -> int:
    return int.from_bytes(np.packbits(column, bitorder="little").tobytes(), "little")
