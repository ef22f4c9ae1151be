"""Any fleet, drawn at random: what must hold for every plan."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.evacuation_fleet import Shape, planted
from placement.planner import execute, plan, verify
from placement.planner.model import Kind, Limits, Moving, Problem, Remedy, Rule
from tests.placement.planner.small import GIB, host, problem, relaxed, vm

BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

shapes = st.builds(
    Shape,
    name=st.just("drawn"),
    hosts=st.integers(4, 24),
    sources=st.integers(1, 3),
    fill=st.sampled_from([0.8, 0.9, 0.95, 0.98]),
    shuffled=st.integers(0, 30),
    tagged=st.sampled_from([0.2, 0.4, 0.7]),
    bound=st.sampled_from([0.1, 0.3, 0.5]),
    apart=st.sampled_from([0.1, 0.3]),
)


@BOUNDED
@given(shape=shapes, seed=st.integers(0, 10_000))
def test_a_fleet_with_a_hidden_answer_is_emptied(shape: Shape, seed: int) -> None:
    asked = planted(shape, seed)

    found = plan(asked, budget_seconds=5)

    assert verify(asked, found) == ()
    assert found.stranded == ()


@st.composite
def any_fleet(draw: st.DrawFn) -> Problem:
    """Small, often impossible, with every kind of demand at once."""
    count = draw(st.integers(2, 6))
    rng = draw(st.randoms(use_true_random=False))
    hosts = [
        host(
            f"h{i}",
            rng.choice([32, 64, 100]),
            rng.choice([8, 16, 32]),
            can_receive=rng.random() < 0.9,
            console_limit=rng.choice([None, None, 2, 4]),
            used_memory_mib=rng.choice([0, 0, 4096]),
        )
        for i in range(count)
    ]
    some = [Rule(Kind.TAG, f"t{i}", rng.getrandbits(count), liftable=rng.random() < 0.5) for i in range(3)]
    vms = []
    for i in range(rng.randint(1, 5 * count)):
        vms.append(
            vm(
                f"v{i}",
                f"h{rng.randrange(count)}",
                rng.choice([0, 2, 8, 16, 32]),
                rng.choice([1, 2, 4]),
                rules=tuple(rng.sample(some, rng.choice([0, 0, 1, 2]))),
                apart=(f"a{rng.randrange(3)}",) if rng.random() < 0.3 else (),
                together=(f"g{rng.randrange(4)}",) if rng.random() < 0.2 else (),
                consoles=rng.choice([0, 0, 0, 1]),
                movable=rng.random() < 0.95,
                pinned=rng.random() < 0.03,
            )
        )
    sources = [one.id for one in rng.sample(hosts, rng.randint(0, 2))]
    others = [one.id for one in hosts if one.id not in sources]
    fixed = {one.id: rng.choice(others) for one in vms if others and rng.random() < 0.1}
    movable = [one for one in vms if one.movable and not one.pinned and one.id not in fixed]
    moving = tuple(Moving(one.id, rng.choice(others), 5.0) for one in movable if others and rng.random() < 0.05)
    moving = tuple(one for one in moving if next(v.host for v in vms if v.id == one.vm) != one.target)
    return problem(
        hosts,
        vms,
        *sources,
        limits=Limits(rng.choice([0, 1, 2, 4]), rng.choice([0, 0, 1, 3]), GIB, 1.0),
        fixed=fixed,
        tried={one.id: frozenset({rng.choice(hosts).id}) for one in vms if rng.random() < 0.1},
        moving=moving,
        residents_may_move=rng.random() < 0.8,
        seed=rng.randrange(100),
    )


@BOUNDED
@given(asked=any_fleet(), seed=st.integers(0, 1000))
def test_no_plan_is_illegal_at_any_instant_whatever_the_moves_take(asked: Problem, seed: int) -> None:
    found = plan(asked, exact_seconds=0)
    rng = random.Random(seed)

    assert verify(asked, found) == ()
    assert execute(asked, found, lambda index, move: move.seconds * rng.choice([0.01, 0.5, 1, 3, 50])).wrong == ()


@BOUNDED
@given(asked=any_fleet())
def test_everything_stranded_has_a_reason(asked: Problem) -> None:
    for stranded in plan(asked, exact_seconds=0).stranded:
        assert stranded.blockers
        assert stranded.relaxations or all(one.id in asked.sources or one.id == stranded.host for one in asked.hosts)


@BOUNDED
@given(asked=any_fleet())
def test_equal_problems_have_equal_plans(asked: Problem) -> None:
    first, second = (plan(asked, budget_seconds=60, exact_seconds=0) for _ in range(2))

    assert replace(first, planning_seconds=0) == replace(second, planning_seconds=0)


@pytest.mark.parametrize("seed", range(12))
def test_the_change_offered_for_a_lone_vm_lets_it_go(seed: int) -> None:
    """In fleets that were solvable until one more VM was put on a host to be emptied."""
    asked = planted(Shape("full", 8, 1, 0.98, shuffled=5), seed)
    source = next(iter(asked.sources))
    extra = replace(vm("extra", source, 400, 8), rules=asked.vms[0].rules)
    asked = replace(asked, vms=(*asked.vms, extra))

    found = plan(asked, exact_seconds=0)

    assert verify(asked, found) == ()
    (stranded,) = found.stranded
    assert stranded.vm == "extra"
    for change in stranded.relaxations:
        if change.remedy is Remedy.SEVERAL:
            continue
        freer = relaxed(asked, stranded, change)
        again = plan(freer)
        assert verify(freer, again) == ()
        assert again.stranded == (), change


def test_a_problem_that_names_what_it_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        plan(problem([host("a")], [vm("v", "a")], "nowhere"))


def test_together_means_one_host() -> None:
    asked = problem(
        [host("a"), host("b", 60), host("c", 90)],
        [vm("v", "a", 30, together=("app",)), vm("w", "a", 40, together=("app",)), vm("u", "b", 5)],
        "a",
    )

    found = plan(asked)

    assert verify(asked, found) == ()
    assert {move.target for move in found.moves} == {"c"}


def test_a_group_moves_as_a_whole_when_one_more_does_not_fit_beside_it() -> None:
    asked = problem(
        [host("a"), host("b", 60), host("c", 90)],
        [vm("v", "a", 30, together=("app",)), vm("w", "b", 40, together=("app",))],
        "a",
    )

    found = plan(asked)

    assert verify(asked, found) == ()
    assert {(move.vm, move.target, move.resident) for move in found.moves} == {("v", "c", False), ("w", "c", True)}
