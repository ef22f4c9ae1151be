"""Moves in time: both ends, groups, limits, circles, and migrations that run already."""

from __future__ import annotations

from placement.planner import execute, plan, verify
from placement.planner.model import Kind, Limits, Moving
from tests.placement.planner.small import GIB, host, problem, rule, targets, vm

SLOW = Limits(host_parallel=2, rate_mib_per_second=GIB, setup_seconds=0.0)


def test_a_vm_waits_until_the_one_that_makes_room_has_left() -> None:
    asked = problem(
        [host("a"), host("b"), host("c")],
        [vm("v", "a", 60, rules=(rule(Kind.TAG, "x", [1]),)), vm("w", "b", 50), vm("u", "b", 30), vm("t", "c", 40)],
        "a",
    )

    found = plan(asked)

    assert verify(asked, found) == ()
    first, second = found.moves
    assert (first.vm, first.resident, first.after, first.start_seconds) == ("w", True, (), 0.0)
    assert (second.vm, second.resident, second.after, second.start_seconds) == ("v", False, (0,), 50.0)
    assert found.seconds == found.lower_bound_seconds == 110.0
    (load,) = [load for load in found.loads if load.host == "b"]
    assert load.memory_mib == (80 * GIB, 90 * GIB, 90 * GIB)


def test_anti_affinity_holds_while_both_move() -> None:
    only_b, only_c = (rule(Kind.TAG, "x", [1]),), (rule(Kind.TAG, "y", [2]),)
    asked = problem(
        [host("a"), host("b"), host("c")],
        [vm("v", "a", apart=("g",), rules=only_b), vm("w", "b", apart=("g",), rules=only_c)],
        "a",
    )

    found = plan(asked)

    assert verify(asked, found) == ()
    assert [(move.vm, move.after) for move in found.moves] == [("w", ()), ("v", (0,))]


def test_two_vms_that_swap_hosts_go_by_way_of_a_third() -> None:
    asked = problem(
        [host("a", 100), host("b", 100), host("c", 60)],
        [vm("v", "a", 60), vm("w", "b", 60)],
        fixed={"v": "b", "w": "a"},
    )

    found = plan(asked)

    assert verify(asked, found) == ()
    assert targets(found) == {"v": "b", "w": "a"}
    assert [move.parked for move in found.moves] == [True, False, False]
    assert found.moves[0].target == "c"
    assert not execute(asked, found, lambda index, move: move.seconds * (5 - index)).wrong


def test_a_circle_that_nothing_can_break_is_said() -> None:
    asked = problem([host("a"), host("b")], [vm("v", "a", 60), vm("w", "b", 60)], fixed={"v": "b", "w": "a"})

    found = plan(asked)

    assert verify(asked, found) == ()
    assert found.moves == ()
    assert {one.vm for one in found.stranded} == {"v", "w"}
    assert {one.blockers[0].kind for one in found.stranded} == {Kind.ORDER}
    assert all(one.relaxations for one in found.stranded)


def test_limits_per_host_and_in_all_are_kept_and_nothing_waits_for_a_step_to_end() -> None:
    vms = [vm(f"v{i}", "a", size) for i, size in enumerate((30, 10, 10, 10))]
    hosts = [host("a"), host("b"), host("c")]

    two = plan(problem(hosts, vms, "a", limits=SLOW))
    one = plan(problem(hosts, vms, "a", limits=Limits(0, 1, GIB, 0.0)))

    assert two.seconds == two.lower_bound_seconds == 30.0
    assert sorted(move.start_seconds for move in two.moves) == [0.0, 0.0, 10.0, 20.0]
    assert one.seconds == one.lower_bound_seconds == 60.0


def test_a_migration_that_runs_already_holds_room_and_a_slot() -> None:
    asked = problem(
        [host("a"), host("b", 50)],
        [vm("v", "a", 10), vm("w", "b", 45), vm("u", "a", 5)],
        "a",
        moving=(Moving("u", "b", 7.0),),
        residents_may_move=False,
    )

    found = plan(asked)

    assert verify(asked, found) == ()
    (running,) = found.moves
    assert (running.vm, running.running, running.start_seconds, running.seconds) == ("u", True, 0.0, 7.0)
    assert [one.vm for one in found.stranded] == ["v"]


def test_a_vm_may_go_where_another_is_leaving_only_after_that_has_ended() -> None:
    asked = problem(
        [host("a"), host("b", 60), host("c")],
        [vm("v", "a", 60, rules=(rule(Kind.TAG, "x", [1]),)), vm("w", "b", 20)],
        "a",
        moving=(Moving("w", "c", 25.0),),
    )

    found = plan(asked)

    assert verify(asked, found) == ()
    assert [(move.vm, move.after, move.start_seconds) for move in found.moves] == [("w", (), 0.0), ("v", (0,), 25.0)]


def test_vms_are_brought_home() -> None:
    asked = problem(
        [host("a"), host("b"), host("c")], [vm("v", "b"), vm("w", "c"), vm("u", "c")], fixed={"v": "a", "w": "a"}
    )

    found = plan(asked)

    assert verify(asked, found) == ()
    assert targets(found) == {"v": "a", "w": "a"}
    assert not any(move.resident for move in found.moves)


def test_a_vm_that_holds_nothing_moves_in_the_time_it_takes_to_set_up() -> None:
    off = vm("off", "a", 0, 0, copy_mib=0)
    found = plan(problem([host("a"), host("b")], [off], "a", limits=Limits(setup_seconds=3.0)))

    assert [move.seconds for move in found.moves] == [3.0]
