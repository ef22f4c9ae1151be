"""Soft groups are wishes: they decide between hosts that are as good, and nothing is stranded for them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from bench.evacuation_fleet import Shape, planted
from placement.planner import plan, verify
from placement.planner.model import Kind
from tests.placement.planner.small import host, problem, rule, targets, vm


def test_vms_that_should_be_apart_are_where_there_is_a_second_host() -> None:
    hosts = [host("a"), host("b", 100), host("c", 30)]
    vms = [vm("one", "a"), vm("two", "a")]
    assert set(targets(plan(problem(hosts, vms, "a"))).values()) == {"b"}  # the emptier one after the first, too

    apart = [replace(one, soft_apart=("web",)) for one in vms]

    assert set(targets(plan(problem(hosts, apart, "a"))).values()) == {"b", "c"}


def test_vms_that_should_be_together_stay_so() -> None:
    hosts = [host("a"), host("b"), host("c")]
    vms = [vm("one", "a"), vm("two", "a")]
    assert set(targets(plan(problem(hosts, vms, "a"))).values()) == {"b", "c"}

    together = [replace(one, soft_together=("app",)) for one in vms]

    assert len(set(targets(plan(problem(hosts, together, "a"))).values())) == 1


def test_one_joins_those_that_do_not_move() -> None:
    mates = [vm("mate", "c", 40, soft_together=("app",)), vm("other", "b", 1, soft_apart=("web",))]
    leaves = [vm("joins", "a", soft_together=("app",)), vm("avoids", "a", soft_apart=("web",))]

    found = plan(problem([host("a"), host("b"), host("c")], [*mates, *leaves], "a"))

    assert targets(found) == {"joins": "c", "avoids": "c"}


def test_a_wish_that_cannot_be_met_strands_nobody() -> None:
    apart = [vm(f"v{i}", "a", soft_apart=("web",)) for i in range(3)]
    gpu = (rule(Kind.TAG, "gpu", [1]),)
    torn = [vm("x", "a", soft_together=("app",), rules=gpu), vm("y", "c", soft_together=("app",))]

    found = plan(problem([host("a"), host("b"), host("c")], [*apart, *torn], "a"))

    assert found.stranded == ()
    assert targets(found)["x"] == "b"


def test_a_wish_takes_no_room_that_another_needs() -> None:
    """The small one would like to be on b, the only host that the big one fits on."""
    vms = [
        vm("mate", "b", 10, soft_together=("app",)),
        vm("small", "a", 20, soft_together=("app",)),
        vm("big", "a", 19, rules=(rule(Kind.TAG, "gpu", [1]),)),
    ]

    found = plan(problem([host("a"), host("b", 30), host("c", 30)], vms, "a", residents_may_move=False))

    assert found.stranded == ()
    assert targets(found) == {"big": "b", "small": "c"}


@pytest.mark.parametrize("seed", range(6))
def test_wishes_strand_nobody_in_tight_fleets(seed: int) -> None:
    asked = planted(Shape("tight", 10, 1, 0.98, shuffled=10), seed)
    rng = random.Random(seed)
    names = [f"g{i}" for i in range(12)]
    wishing = tuple(
        replace(one, soft_apart=(rng.choice(names),), soft_together=(rng.choice(names),)) for one in asked.vms
    )
    asked = replace(asked, vms=wishing)
    plain = replace(asked, vms=tuple(replace(one, soft_apart=(), soft_together=()) for one in wishing))

    found = plan(asked, budget_seconds=10)

    assert verify(asked, found) == ()
    assert len(found.stranded) <= len(plan(plain, budget_seconds=10).stranded)
