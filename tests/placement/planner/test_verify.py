"""The verifier finds what is wrong with a plan that was tampered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from placement.planner import execute, plan, verify
from placement.planner.model import Kind, Move, Plan, Problem
from tests.placement.planner.small import host, problem, rule, vm


def asked() -> Problem:
    return problem(
        [host("a"), host("b"), host("c", console_limit=0)],
        [
            vm("v", "a", 60, rules=(rule(Kind.TAG, "x", [1]),)),
            vm("w", "b", 50, apart=("g",)),
            vm("u", "b", 30),
            vm("t", "c", 40, apart=("h",)),
        ],
        "a",
    )


def moved(**changes: object) -> Callable[[Plan], Plan]:
    """Changes the second move."""
    return lambda plan: replace(plan, moves=(plan.moves[0], replace(plan.moves[1], **changes)))  # type: ignore[arg-type]


def first(**changes: object) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, moves=(replace(plan.moves[0], **changes), plan.moves[1]))  # type: ignore[arg-type]


TAMPERED: list[tuple[str, Callable[[Plan], Plan], str]] = [
    ("too early", moved(start_seconds=10.0), "are needed"),
    ("before what it waits for", moved(start_seconds=10.0), "starts before [0] ended"),
    ("illegal", moved(target="c"), "c breaks tag x"),
    ("to a host to be emptied", first(target="a"), "a does not receive"),
    ("from elsewhere", first(source="c"), "it is on ['b'], not on c"),
    ("no resident", first(resident=False), "is called a resident wrongly"),
    ("nowhere", moved(target="a"), "goes nowhere"),
    ("left out", lambda plan: replace(plan, moves=plan.moves[:1]), "v is left on a, and nobody says so"),
    ("wrong time", lambda plan: replace(plan, seconds=1.0), "seconds, says 1.0"),
    ("wrong bound", lambda plan: replace(plan, lower_bound_seconds=1e6), "faster than its own lower bound"),
    ("wrong load", lambda plan: replace(plan, loads=(replace(plan.loads[0], vcpus=(9, 9, 9)),)), "load of"),
]


@pytest.mark.parametrize(("name", "tamper", "words"), TAMPERED, ids=[name for name, *_ in TAMPERED])
def test_a_tampered_plan_is_found_out(name: str, tamper: Callable[[Plan], Plan], words: str) -> None:
    found = plan(asked())
    assert verify(asked(), found) == ()

    assert any(words in wrong for wrong in verify(asked(), tamper(found))), verify(asked(), tamper(found))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vms": 0, "apart": ("g",)}, "meets w"),
        ({"vms": 0, "consoles": 1, "rules": ()}, None),
        ({"vms": 1, "consoles": 1}, "console slots"),
        ({"vms": 1, "pinned": True}, "may not move"),
        ({"vms": 1, "apart": ("h",)}, "meets t"),
    ],
)
def test_a_plan_for_another_fleet_is_found_out(change: dict[str, object], words: str | None) -> None:
    found = plan(asked())
    index = int(str(change["vms"]))
    more = {name: value for name, value in change.items() if name != "vms"}
    vms = list(asked().vms)
    vms[index] = replace(vms[index], **more)  # type: ignore[arg-type]
    other = replace(asked(), vms=tuple(vms))
    early = replace(found, moves=tuple(replace(move, start_seconds=0.0, after=()) for move in found.moves))

    wrong = verify(other, early)

    assert any((words or "are needed") in one for one in wrong), wrong


def test_limits_are_looked_at() -> None:
    many = problem([host("a"), host("b")], [vm(f"v{i}", "a", 5) for i in range(3)], "a")
    found = plan(many)
    at_once = replace(found, moves=tuple(replace(move, start_seconds=0.0) for move in found.moves))

    assert any("3 moves touch a" in one for one in verify(many, at_once))


def test_an_execution_that_cannot_go_on_is_told() -> None:
    found = plan(asked())
    circle = replace(found, moves=(replace(found.moves[0], after=(1,)), replace(found.moves[1], after=(0,))))

    assert execute(asked(), circle, lambda index, move: move.seconds).wrong == ("2 moves can never start",)


def test_an_execution_without_the_dependencies_overfills() -> None:
    found = plan(asked())
    free = replace(found, moves=tuple(replace(move, after=()) for move in found.moves))

    def seconds(index: int, move: Move) -> float:
        return move.seconds

    assert any("are needed" in one for one in execute(asked(), free, seconds).wrong)
