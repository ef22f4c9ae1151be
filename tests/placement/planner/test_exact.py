"""The exact solver: what it proves, what it finds, and that it is not needed."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from bench.evacuation_fleet import Shape, planted
from placement.planner import core, exact, plan, prove, room, verify
from placement.planner.board import Board, Layout, Unit
from placement.planner.model import Kind, Problem, Proof, Remedy
from placement.planner.search import Budget, Found
from placement.planner.units import wanted
from tests.placement.planner.small import GIB, host, problem, rule, vm


def three_into_two() -> Problem:
    """Each VM fits alone, two do not share a host, and there are two hosts for three."""
    gpu = (rule(Kind.TAG, "gpu", [1, 2]),)
    vms = [vm(f"v{i}", "a", 60, rules=gpu) for i in range(3)]
    return problem([host("a", 200), host("b", 100), host("c", 100)], vms, "a")


def test_what_cannot_be_is_proven_with_the_least_room_that_is_missing() -> None:
    verdict = prove(three_into_two())

    assert verdict.solvable is False
    assert verdict.least_stranded == 1
    (change,) = verdict.relaxations
    assert (change.remedy, change.memory_mib) == (Remedy.ADD_CAPACITY, 20 * GIB)
    assert change.words == f"20 GiB more on {change.host}"


def test_a_plan_says_that_it_cannot_be_better() -> None:
    asked = three_into_two()

    found = plan(asked)

    assert verify(asked, found) == ()
    assert len(found.stranded) == 1
    assert found.proof is found.stranded[0].proof is Proof.PROVEN
    assert found.solver == "The exact solver proved that at least 1 cannot be moved."


def test_without_the_solver_the_plan_is_the_same_and_says_that_nothing_is_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    found = plan(three_into_two())

    assert len(found.moves) == 2
    assert found.proof is found.stranded[0].proof is Proof.NOT_FOUND
    assert found.solver == exact.MISSING
    assert prove(three_into_two()).solvable is None


def test_what_the_search_misses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(board: Board, units: object, **_: object) -> Found:
        assert isinstance(units, list)
        return Found(Layout(board), tuple(units))

    monkeypatch.setattr(core, "search", blind)
    asked = planted(Shape("small", 8, 1, 0.98, shuffled=8), 3)

    found = plan(asked)

    assert verify(asked, found) == ()
    assert found.stranded == ()
    assert found.proof is Proof.PROVEN
    assert found.solver == "The exact solver found a place for every VM."


def test_a_solvable_problem_needs_no_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "solve", lambda *args, **named: pytest.fail("asked"))

    assert prove(planted(Shape("small", 8, 1, 0.95), 1)).solvable is True


def test_too_little_room_in_all_is_proven_without_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "solve", lambda *args, **named: pytest.fail("asked"))
    vms = [vm(f"v{i}", "a", 50) for i in range(6)]

    found = plan(problem([host("a", 400), host("b", 100), host("c", 100)], vms, "a"))

    assert len(found.stranded) == 2
    assert found.proof is Proof.PROVEN
    assert found.solver == room.WORDS.format(count=2)


@pytest.mark.parametrize("seed", range(15))
def test_what_is_proven_by_room_alone_never_exceeds_what_the_solver_proves(seed: int) -> None:
    asked = planted(Shape("full", 6, 1, 0.98, shuffled=5), seed)
    extra = tuple(
        replace(one, id=f"extra-{i}", host=min(asked.sources), apart=())
        for i, one in enumerate(asked.vms[:: 2 + seed % 5])
    )
    board = Board(replace(asked, vms=asked.vms + extra))
    units = [unit for unit in wanted(board).units if unit.legal.any()]

    answer = exact.solve(board, units, hint=Layout(board), seconds=10, seed=1)

    assert answer.proven
    assert room.least_left(board, units, units) <= answer.left


@pytest.mark.timeout(180)
def test_a_better_answer_of_the_solver_can_be_put_in_order() -> None:
    """Its answer moved two hundred VMs of other hosts for no reason, and no order led there: more were stranded than
    without it, and nothing was proven of them."""
    asked = planted(Shape("20 hosts, 98 %", 20, 3, 0.98, shuffled=30), 7)
    rules = next(one.rules for one in asked.vms if one.rules and one.rules[0].kind == Kind.TAG)
    extra = tuple(vm(f"extra{i}", min(asked.sources), 96, 8, rules=rules) for i in range(8))
    asked = replace(asked, vms=asked.vms + extra)
    alone = plan(asked, exact_seconds=0)

    found = plan(asked, exact_seconds=60)

    assert verify(asked, found) == ()
    assert found.solver == "The exact solver proved that at least 6 cannot be moved."
    assert len(found.stranded) == 6 < len(alone.stranded)
    assert all(one.proof is Proof.PROVEN and one.relaxations for one in found.stranded)
    assert sum(move.resident for move in found.moves) <= 20


def test_what_the_search_found_is_kept_when_no_order_leads_to_the_solvers_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two VMs would have to change places, which needs a third place: all that hangs on that would stay."""
    asked = problem(
        [host("a", 200), host("b", 100), host("c", 105), host("d", 20)],
        [vm("one", "b", 80), vm("two", "c", 90), vm("v0", "a", 20), vm("v1", "a", 25)],
        "a",
    )

    def worse(draft: core._Draft, budget: Budget) -> object:
        order = plain(draft, budget)
        in_time.append(draft.is_in_time)
        if not draft.is_in_time:  # as if more hung on it
            draft.left[2] = Kind.ORDER
        return order

    plain = core._in_time
    in_time: list[bool] = []
    monkeypatch.setattr(core, "_in_time", worse)
    monkeypatch.setattr(core, "search", lambda board, units, **_: first_fit(board, units))

    found = plan(asked)

    assert verify(asked, found) == ()
    assert in_time == [False, True]
    assert [one.vm for one in found.stranded] == ["v1"]
    assert found.proof is Proof.NOT_FOUND


def first_fit(board: Board, units: list[Unit]) -> Found:
    """A search that moves nothing else."""
    layout, left = Layout(board), []
    for unit in units:
        hosts = layout.fits(unit).nonzero()[0]
        if hosts.size:
            layout.move(unit.vms[0], int(hosts[0]))
        else:
            left.append(unit)
    return Found(layout, tuple(left))
