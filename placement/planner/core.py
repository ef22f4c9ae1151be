"""Makes a plan: a host for every VM that has to leave, an order, and reasons for what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from placement.planner import exact
from placement.planner.after import lower_bound, waits
from placement.planner.board import Board, Layout, Unit
from placement.planner.explain import Explainer, amount
from placement.planner.model import Kind, Load, Move, Plan, Problem, Proof, Relaxation, Remedy, Stranded
from placement.planner.order import Order, arrange
from placement.planner.room import WORDS, least_left
from placement.planner.search import ORDERS, Budget, Found, search, take_home
from placement.planner.units import Ceiling, Wanted, wanted

SEARCH_SECONDS = 1.0
EXACT_SECONDS = 10.0
Clock = Callable[[], float]


@dataclass
class _Draft:
    """A plan in the making. ``left``: VMs that stay, with what kept them from being tried, if anything; ``units``: how
    many things of those that were tried. ``least``: no plan leaves fewer, as far as that is proven."""

    board: Board
    layout: Layout
    left: dict[int, Kind | None]
    units: int
    least: int | None
    solver: str
    is_in_time: bool = True

    @property
    def proven(self) -> bool:
        return self.least is not None and self.units <= self.least


def plan(
    problem: Problem,
    *,
    budget_seconds: float = SEARCH_SECONDS,
    exact_seconds: float = EXACT_SECONDS,
    explain: bool = True,
    orders: int = ORDERS,
    clock: Clock = time.perf_counter,
) -> Plan:
    """The best plan found. The search ends after ``budget_seconds``; when it strands VMs whose case is not plain, the
    exact solver gets ``exact_seconds`` (0: never). Equal problems give equal plans as long as neither limit is reached.
    ``explain`` off: stranded VMs are named without blockers and changes, for who tries something else first, perhaps
    with fewer ``orders`` of placing than the search tries otherwise.

    Raises :class:`ValueError` when the problem names hosts or VMs that it does not have.
    """
    began = clock()
    board = Board(problem)
    budget = Budget(began + budget_seconds, clock)
    draft, order, bound = _best(_place(board, budget, exact_seconds, orders), budget)
    stranded = _explained(draft, budget) if explain else _named(draft)
    proof = Proof.PROVEN if draft.proven or not stranded else Proof.NOT_FOUND
    return Plan(
        moves=_moves(board, order),
        stranded=stranded,
        loads=_loads(board, order),
        seconds=order.seconds,
        lower_bound_seconds=bound,
        proof=proof,
        solver=draft.solver,
        planning_seconds=clock() - began,
    )


def _best(drafts: Iterable[_Draft], budget: Budget) -> tuple[_Draft, Order, float]:
    """The first whose moves can all be ordered, else the one that leaves the fewest."""
    tried: list[tuple[_Draft, Order, float]] = []
    for draft in drafts:
        tried.append((draft, *_in_time(draft, budget)))
        if draft.is_in_time:
            break
    return min(tried, key=lambda one: len(one[0].left))


def _place(board: Board, budget: Budget, exact_seconds: float, orders: int) -> list[_Draft]:
    """The exact solver's answer, if it is better, then that of the search."""
    asked = wanted(board)
    left: dict[int, Kind | None] = dict(asked.refused)
    units = []
    ceiling = Ceiling(board)
    for unit in asked.units:
        if ceiling.hopeless(unit) and unit not in asked.anchored:
            left.update(dict.fromkeys(unit.vms))
        else:
            units.append(unit)
    found = search(board, units, budget=budget, orders=orders)
    if any(unit in asked.anchored for unit in found.left):
        units, found = _with_whole_groups(board, asked, units, found, budget)
    answers, least, words = [found], 0 if not found.left else None, ""
    if found.left and not asked.anchored and (short := least_left(board, units, found.left)) >= len(found.left):
        least, words = short, WORDS.format(count=short)
    elif found.left and exact_seconds > 0:
        better, answer = _exactly(board, units, found, exact_seconds)
        answers = [*better, found]
        least, words = answer.left if answer.proven and not asked.anchored else None, answer.words
    return [_drafted(board, one, left, least, words) for one in answers]


def _drafted(board: Board, found: Found, refused: dict[int, Kind | None], least: int | None, words: str) -> _Draft:
    left = dict(refused)
    for unit in found.left:
        left.update((v, None) for v in unit.vms if v in board.movers)
    take_home(board, found.layout, board.movers)
    return _Draft(board, found.layout, left, len(found.left), least, words)


def _with_whole_groups(
    board: Board, asked: Wanted, units: list[Unit], found: Found, budget: Budget
) -> tuple[list[Unit], Found]:
    """Where joining a group failed, the whole group may go elsewhere; kept when it strands fewer."""
    other = [asked.anchored[unit] if unit in found.left and unit in asked.anchored else unit for unit in units]
    again = search(board, other, budget=Budget(budget.deadline, budget.clock))
    return (other, again) if len(again.left) < len(found.left) else (units, found)


def _exactly(
    board: Board, units: Sequence[Unit], found: Found, seconds: float
) -> tuple[tuple[Found, ...], exact.Answer]:
    """What the exact solver makes of it, if that is better, and what it says."""
    answer = exact.solve(board, units, hint=found.layout, seconds=seconds, seed=board.problem.seed)
    if not answer.places or answer.left >= len(found.left):
        return (), answer
    layout = Layout(board)
    placed = set()
    for unit, host in answer.places:
        placed.add(unit)
        for v in unit.vms:
            if layout.at[v] != host:
                layout.move(v, host)
    return (Found(layout, tuple(unit for unit in units if unit not in placed)),), answer


def _in_time(draft: _Draft, budget: Budget) -> tuple[Order, float]:
    """Orders the moves; what cannot be ordered stays where it is."""
    board = draft.board
    while True:
        targets = [(v, host) for v, host in enumerate(draft.layout.at) if host != board.at[v] and v not in board.moving]
        bound = lower_bound(board, targets)
        order = arrange(board, targets, bound=bound, over=budget.over)
        if not order.stuck:
            return order, bound
        movers = frozenset(board.movers)
        for transfer in order.stuck:
            v = transfer.vm
            mates = board.mates_together(v)
            draft.units += any(w in movers and draft.layout.at[w] != board.at[w] for w in mates)
            for w in mates:
                if w in movers and draft.layout.at[w] != board.at[w]:
                    draft.left[w] = Kind.ORDER
                if w not in board.moving:
                    draft.layout.move(w, board.at[w])
        draft.is_in_time = False


def _named(draft: _Draft) -> tuple[Stranded, ...]:
    vms, hosts = draft.board.vms, draft.board.hosts
    return tuple(Stranded(vms[v].id, hosts[draft.board.at[v]].id, (), (), Proof.NOT_FOUND) for v in sorted(draft.left))


def _explained(draft: _Draft, budget: Budget) -> tuple[Stranded, ...]:
    explainer = Explainer(draft.board, draft.layout)
    found = [explainer.stranded(v, refused=refused, proven=draft.proven) for v, refused in sorted(draft.left.items())]
    problem = draft.board.problem
    if not found or problem.residents_may_move:
        return tuple(found)
    freer = Board(replace(problem, residents_may_move=True))
    units = wanted(freer).units
    still = search(freer, units, budget=Budget(budget.clock() + SEARCH_SECONDS, budget.clock))
    left = {freer.vms[v].id for unit in still.left for v in unit.vms}
    asked = {freer.vms[v].id for unit in units for v in unit.vms}
    words = "let VMs of other hosts move to make room"
    move = Relaxation(Remedy.MOVE_RESIDENTS, "", words)
    return tuple(replace(one, relaxations=(move, *one.relaxations)) if one.vm in asked - left else one for one in found)


def _moves(board: Board, order: Order) -> tuple[Move, ...]:
    movers = frozenset(board.movers)
    return tuple(
        Move(
            vm=board.vms[transfer.vm].id,
            source=board.hosts[transfer.source].id,
            target=board.hosts[transfer.target].id,
            after=after,
            start_seconds=transfer.start,
            seconds=transfer.seconds,
            resident=transfer.vm not in movers and not transfer.running,
            parked=transfer.then is not None,
            running=transfer.running,
        )
        for transfer, after in zip(order.transfers, waits(board, order.transfers), strict=True)
    )


def _loads(board: Board, order: Order) -> tuple[Load, ...]:
    """Of every host that the plan touches or empties."""
    events = [(transfer.start, 1, transfer) for transfer in order.transfers]
    events += [(transfer.end, 0, transfer) for transfer in order.transfers]
    events.sort(key=lambda event: event[:2])
    touched = set(board.sources) | {host for t in order.transfers for host in (t.source, t.target)}
    before = {
        h: [board.hosts[h].used_memory_mib, board.hosts[h].used_vcpus, board.hosts[h].used_consoles] for h in touched
    }
    for v, host in enumerate(board.at):
        if host in before:
            _add(before[host], board, v, 1)
    now = {host: list(held) for host, held in before.items()}
    peak = {host: list(held) for host, held in before.items()}
    for _, begins, transfer in events:
        host = transfer.target if begins else transfer.source
        _add(now[host], board, transfer.vm, 1 if begins else -1)
        peak[host] = [max(pair) for pair in zip(peak[host], now[host], strict=True)]
    return tuple(
        Load(board.hosts[h].id, *((before[h][i], now[h][i], peak[h][i]) for i in range(3))) for h in sorted(touched)
    )


def _add(held: list[int], board: Board, v: int, sign: int) -> None:
    held[0] += sign * board.memory[v]
    held[1] += sign * board.vcpus[v]
    held[2] += sign * board.consoles[v]


@dataclass(frozen=True)
class Verdict:
    """``solvable``: whether every VM can be placed; None when that was not found out in time. ``least_stranded``: at
    least so many cannot be, as far as proven. ``relaxations``: the least room to add, one change per host."""

    solvable: bool | None
    least_stranded: int
    relaxations: tuple[Relaxation, ...]
    words: str


def prove(problem: Problem, *, seconds: float = EXACT_SECONDS, clock: Clock = time.perf_counter) -> Verdict:
    """Whether a place exists for every VM, and if not, the least room that is missing over the whole fleet.

    Uses the optional exact solver; ``words`` says so when it is not installed. VMs that may not be moved at all are
    left aside, as no solver is needed for them. Raises :class:`ValueError` as :func:`plan` does.
    """
    board = Board(problem)
    asked = wanted(board)
    units = asked.units
    found = search(board, units, budget=Budget(clock() + SEARCH_SECONDS, clock))
    if not found.left:
        return Verdict(True, 0, (), "Every VM can be placed.")
    answer = exact.solve(board, units, hint=found.layout, seconds=seconds / 2, seed=problem.seed)
    if answer.proven and answer.left == 0:
        return Verdict(True, 0, (), answer.words)
    if not answer.proven or asked.anchored:
        return Verdict(None, 0, (), answer.words)
    room = exact.missing_room(board, units, hint=found.layout, seconds=seconds / 2, seed=problem.seed)
    return Verdict(False, answer.left, tuple(_room(board, (room or {}).items())), answer.words)


def _room(board: Board, missing: Iterable[tuple[int, tuple[int, int]]]) -> Iterable[Relaxation]:
    for host, (memory, vcpus) in sorted(missing):
        words = f"{amount(memory, vcpus)} more on {board.hosts[host].name}"
        kind = Kind.MEMORY if memory else Kind.VCPUS
        yield Relaxation(Remedy.ADD_CAPACITY, board.hosts[host].id, words, kind, "", memory, vcpus)
