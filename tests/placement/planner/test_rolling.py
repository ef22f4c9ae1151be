"""Maintenance of many hosts, a few at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.evacuation_fleet import Shape, planted
from placement.planner import rolling, verify
from placement.planner.model import Kind, Problem
from placement.planner.rolling import Rolling
from tests.placement.planner.small import host, kinds, problem, rule, vm


def replay(asked: Problem, found: Rolling) -> Problem:
    """Every step is legal on what the steps before it left; the fleet at the end."""
    vms = {one.id: one for one in asked.vms}
    for step in found.steps:
        here = replace(asked, vms=tuple(vms.values()), sources=frozenset(step.hosts))
        assert verify(here, step.leave) == ()
        assert step.leave.stranded == ()
        homes = {move.vm: vms[move.vm].host for move in step.leave.moves}
        for move in step.leave.moves:
            vms[move.vm] = replace(vms[move.vm], host=move.target)
        assert not any(one.host in step.hosts for one in vms.values())
        if step.home is not None:
            back = replace(asked, vms=tuple(vms.values()), sources=frozenset(), fixed=homes)
            assert verify(back, step.home) == ()
            for move in step.home.moves:
                vms[move.vm] = replace(vms[move.vm], host=move.target)
    return replace(asked, vms=tuple(vms.values()))


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("bring_home", [False, True])
def test_every_host_has_its_turn_once(at_once: int, bring_home: bool) -> None:
    asked = planted(Shape("rolling", 20, 0, 0.8, tagged=0.2, bound=0.1), 1)
    ids = [one.id for one in asked.hosts]

    found = rolling(asked, ids, at_once=at_once, bring_home=bring_home)

    replay(asked, found)
    turns = [one for step in found.steps for one in step.hosts]
    assert sorted([*turns, *found.stuck]) == sorted(ids)
    assert not found.stuck
    assert max(len(step.hosts) for step in found.steps) == at_once
    assert found.moves == sum(step.moves for step in found.steps)


def test_vms_are_where_they_were_when_brought_home() -> None:
    asked = planted(Shape("rolling", 12, 0, 0.7, tagged=0.0, bound=0.0), 2)

    found = rolling(asked, [one.id for one in asked.hosts], at_once=2, bring_home=True)

    after = replay(asked, found)
    assert {one.id: one.host for one in after.vms} == {one.id: one.host for one in asked.vms}


def test_a_host_that_cannot_be_emptied_is_named_with_what_is_in_the_way() -> None:
    only_a = (rule(Kind.DATASTORE, "ssd-a", [0]),)
    asked = problem([host("a"), host("b"), host("c")], [vm("v", "a", rules=only_a), vm("w", "b"), vm("u", "c")])

    found = rolling(asked, ["a", "b", "c"], at_once=2)

    replay(asked, found)
    assert list(found.stuck) == ["a"]
    (stranded,) = found.stuck["a"]
    assert (stranded.vm, kinds(stranded)) == ("v", {Kind.DATASTORE})
    assert sorted(one for step in found.steps for one in step.hosts) == ["b", "c"]


def test_a_host_that_is_full_now_has_its_turn_once_another_has_made_room() -> None:
    asked = problem(
        [host("a", 60), host("b", 60), host("c", 200)],
        [vm("v", "a", 60), vm("w", "b", 60, rules=(rule(Kind.TAG, "x", [0, 1]),))],
        residents_may_move=False,
    )

    found = rolling(asked, ["b", "a"])

    replay(asked, found)
    assert [step.hosts for step in found.steps] == [("a",), ("b",)]


def test_hosts_that_need_no_third_vm_have_their_turn_first() -> None:
    """In the order asked for, w would make way for v and be moved again with its own host."""
    asked = problem(
        [host("a", 100), host("b", 100), host("c", 100)],
        [vm("v", "a", 70), vm("w", "b", 40), vm("u", "c", 45)],
    )

    found = rolling(asked, ["a", "b", "c"])

    after = replay(asked, found)
    assert [step.hosts for step in found.steps] == [("b",), ("c",), ("a",)]
    assert found.moves == len(after.vms) + 1


def test_few_vms_of_a_full_fleet_move_more_than_once() -> None:
    asked = planted(Shape("rolling", 40, 0, 0.88), 3)

    found = rolling(asked, [one.id for one in asked.hosts], exact_seconds=0.0)

    replay(asked, found)
    assert len(found.stuck) <= 3
    assert found.moves <= 1.25 * len(asked.vms)


def test_at_least_one_host_at_a_time() -> None:
    with pytest.raises(ValueError, match="at least one"):
        rolling(problem([host("a")], []), ["a"], at_once=0)
