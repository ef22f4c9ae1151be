"""Which VMs have to be placed, as one thing each or together with others, and which cannot be placed at all."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from placement.planner.board import Board, Unit
from placement.planner.model import Kind


@dataclass
class Wanted:
    """``units`` to place; ``refused``: why a VM cannot even be tried; ``anchored``: units that have to join the rest of
    their group where it is, with the whole group that could move instead."""

    units: list[Unit] = field(default_factory=list)
    refused: dict[int, Kind] = field(default_factory=dict)
    anchored: dict[Unit, Unit] = field(default_factory=dict)


def wanted(board: Board) -> Wanted:
    """What has to be placed."""
    found = Wanted()
    seen: set[int] = set()
    movers = set(board.movers)
    for v in board.movers:
        if v in seen:
            continue
        mates = board.mates_together(v)
        moving = [w for w in mates if w in movers]
        seen.update(moving)
        _take(board, mates, moving, found)
    return found


def _take(board: Board, mates: list[int], moving: list[int], found: Wanted) -> None:
    blocked = [v for v in moving if not board.can_move(v)]
    for v in blocked:
        found.refused[v] = Kind.PINNED if board.vms[v].pinned else Kind.NOT_MOVABLE
    rest = [v for v in mates if v not in moving]
    anchors = {board.moving[v][0] if v in board.moving else board.at[v] for v in rest}
    if blocked or any(host in board.sources for host in anchors):
        for v in moving:
            found.refused.setdefault(v, Kind.TOGETHER)
        return
    unit = board.unit(moving, board.column(anchors) if anchors else None)
    found.units.append(unit)
    if rest and all(board.resident_may_move(v) for v in rest):
        found.anchored[unit] = board.unit(mates)


def hopeless(board: Board, unit: Unit) -> bool:
    """Proven without looking further: no legal host could take the unit even if all that may leave it had left."""
    if not unit.legal.any():
        return True
    for host in np.flatnonzero(unit.legal):
        one = board.hosts[host]
        memory = one.memory_mib - one.used_memory_mib
        vcpus = one.vcpus - one.used_vcpus
        if memory < unit.memory or vcpus < unit.vcpus:
            continue
        held = [v for v in _residents(board, int(host)) if not board.resident_may_move(v)]
        if (
            memory - sum(board.memory[v] for v in held) >= unit.memory
            and vcpus - sum(board.vcpus[v] for v in held) >= unit.vcpus
        ):
            return False
    return True


def _residents(board: Board, host: int) -> list[int]:
    return [v for v, at in enumerate(board.at) if at == host]
