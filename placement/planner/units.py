"""Which VMs have to be placed, as one thing each or together with others, and which cannot be placed at all."""

from __future__ import annotations

from dataclasses import dataclass, field

from placement.planner.board import Board, Layout, Unit
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


class Ceiling:
    """What each host could hold at most: everything gone that may leave it."""

    def __init__(self, board: Board) -> None:
        self.board = board
        layout = Layout(board)
        movers = frozenset(board.movers)
        leaving = [v for v in range(len(board.vms)) if v in movers or board.resident_may_move(v)]
        self.leaving = frozenset(v for v in leaving if board.can_move(v))
        for v in self.leaving:
            layout.move(v, layout.nowhere)
        self.layout = layout

    def hopeless(self, unit: Unit) -> bool:
        """Proven without looking further: no legal host could take the unit, whatever else moves."""
        return not self.layout.fits(unit).any()
