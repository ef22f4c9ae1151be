"""Each kind of blocker: what is said, and that the change that is offered is enough."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from placement.planner import plan, verify
from placement.planner.model import Kind, Problem, Proof, Remedy
from tests.placement.planner.small import host, kinds, problem, relaxed, rule, vm


@dataclass(frozen=True)
class Case:
    """A problem that strands just the VM "v"."""

    name: str
    asked: Problem
    blocker: Kind
    remedy: Remedy
    words: str
    proof: Proof = Proof.PROVEN


TWO = (host("a"), host("b"))
FULL_B = vm("big", "b", 95, movable=False)

CASES = [
    Case(
        "tag",
        problem(TWO, [vm("v", "a", rules=(rule(Kind.TAG, "gpu", [0]),))], "a"),
        Kind.TAG,
        Remedy.MEET_RULE,
        "let b offer tag gpu: it has room",
    ),
    Case(
        "soft tag",
        problem(TWO, [vm("v", "a", rules=(rule(Kind.SOFT_TAG, "ssd", [0], liftable=True),))], "a"),
        Kind.SOFT_TAG,
        Remedy.LIFT_RULE,
        "drop soft tag ssd: b has room",
    ),
    Case(
        "cluster",
        problem(TWO, [vm("v", "a", rules=(rule(Kind.CLUSTER, "west", [0], liftable=True),))], "a"),
        Kind.CLUSTER,
        Remedy.LIFT_RULE,
        "allow it to leave cluster west: b has room",
    ),
    Case(
        "network",
        problem(TWO, [vm("v", "a", rules=(rule(Kind.NETWORK, "dmz", [0]),))], "a"),
        Kind.NETWORK,
        Remedy.MEET_RULE,
        "let b offer network dmz: it has room",
    ),
    Case(
        "datastore",
        problem(TWO, [vm("v", "a", rules=(rule(Kind.DATASTORE, "nfs {1}", [0]),))], "a"),
        Kind.DATASTORE,
        Remedy.MEET_RULE,
        "let b offer datastore nfs {1}: it has room",
    ),
    Case(
        "local disk",
        problem(TWO, [vm("v", "a", rules=(rule(Kind.LOCAL_DISK, "vda", [0], liftable=True),))], "a"),
        Kind.LOCAL_DISK,
        Remedy.LIFT_RULE,
        "copy its local disk vda: b has room",
    ),
    Case(
        "CPU model",
        problem(TWO, [vm("v", "a", rules=(rule(Kind.CPU_MODEL, "EPYC", [0]),))], "a"),
        Kind.CPU_MODEL,
        Remedy.MEET_RULE,
        "let b offer CPU model EPYC: it has room",
    ),
    Case(
        "memory",
        problem(TWO, [vm("v", "a", 10), FULL_B], "a"),
        Kind.MEMORY,
        Remedy.ADD_CAPACITY,
        "5 GiB more on b",
    ),
    Case(
        "memory on a tagged host",
        problem(TWO, [vm("v", "a", 96, rules=(rule(Kind.TAG, "gpu", [1]),)), FULL_B], "a"),
        Kind.MEMORY,
        Remedy.ADD_CAPACITY,
        "91 GiB more on b or another host with tag gpu",
    ),
    Case(
        "vCPUs",
        problem(TWO, [vm("v", "a", 1, 4), vm("w", "b", 1, 61, movable=False)], "a"),
        Kind.VCPUS,
        Remedy.ADD_CAPACITY,
        "1 vCPU more on b",
    ),
    Case(
        "console slots",
        problem([host("a"), host("b", console_limit=40, used_consoles=39)], [vm("v", "a", consoles=2)], "a"),
        Kind.CONSOLES,
        Remedy.FREE_CONSOLES,
        "free 1 console slot on b",
    ),
    Case(
        "apart",
        problem(TWO, [vm("v", "a", apart=("db",)), vm("w", "b", apart=("db",), movable=False)], "a"),
        Kind.APART,
        Remedy.LIFT_GROUP,
        "lift group db: b has room for v",
    ),
    Case(
        "together",
        problem(
            [*TWO, host("c")],
            [vm("v", "a", 10, together=("app",)), vm("w", "b", 95, together=("app",), movable=False)],
            "a",
        ),
        Kind.TOGETHER,
        Remedy.LIFT_GROUP,
        "lift group app: c has room for v alone",
    ),
    Case(
        "not receiving",
        problem([host("a"), host("b", can_receive=False, why_not="cordoned")], [vm("v", "a")], "a"),
        Kind.NOT_RECEIVING,
        Remedy.RECEIVE,
        "let b receive VMs again (cordoned): it has room",
    ),
    Case(
        "tried",
        problem(TWO, [vm("v", "a")], "a", tried={"v": frozenset({"b"})}),
        Kind.TRIED,
        Remedy.RETRY,
        "try b again, where moving v failed",
    ),
    Case(
        "fixed",
        problem([*TWO, host("c")], [vm("v", "a"), FULL_B], "a", fixed={"v": "b"}),
        Kind.FIXED,
        Remedy.UNFIX,
        "let v go elsewhere: c has room",
    ),
    Case(
        "pinned",
        problem(TWO, [vm("v", "a", pinned=True)], "a"),
        Kind.PINNED,
        Remedy.UNPIN,
        "unpin v: b has room",
    ),
    Case(
        "not movable",
        problem(TWO, [vm("v", "a", movable=False, why_not="a resize is running")], "a"),
        Kind.NOT_MOVABLE,
        Remedy.WAIT,
        "wait until v can be moved (a resize is running): b has room",
    ),
    Case(
        "residents stay",
        problem(
            [*TWO, host("c")],
            [vm("v", "a", 60), vm("w", "b", 50, rules=(rule(Kind.TAG, "x", [1, 2]),)), vm("u", "c", 50)],
            "a",
            residents_may_move=False,
        ),
        Kind.MEMORY,
        Remedy.MOVE_RESIDENTS,
        "let VMs of other hosts move to make room",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_blocker_is_named_with_the_smallest_change(case: Case) -> None:
    found = plan(case.asked, exact_seconds=0)

    assert verify(case.asked, found) == ()
    (stranded,) = found.stranded
    assert stranded.vm == "v"
    assert case.blocker in kinds(stranded)
    first = stranded.relaxations[0]
    assert (first.remedy, first.words) == (case.remedy, case.words)
    assert not first.host or stranded.nearest == first.host
    assert stranded.proof is case.proof


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_change_that_is_offered_is_enough_alone(case: Case) -> None:
    (stranded,) = plan(case.asked, exact_seconds=0).stranded

    for change in stranded.relaxations:
        freer = relaxed(case.asked, stranded, change)
        again = plan(freer, exact_seconds=0)
        assert not again.stranded, change
        assert verify(freer, again) == ()


def test_room_is_told_in_numbers() -> None:
    asked = problem([host("a"), host("b"), host("c")], [vm("v", "a", 90), vm("x", "b", 60), vm("y", "c", 70)], "a")

    (stranded,) = plan(asked, exact_seconds=0).stranded

    (memory,) = [blocker for blocker in stranded.blockers if blocker.kind == Kind.MEMORY]
    assert (memory.hosts, memory.needed, memory.available) == (2, 90 * 1024, 40 * 1024)
    offers = {change.remedy: change.words for change in stranded.relaxations}
    assert offers == {Remedy.ADD_CAPACITY: "50 GiB more on b", Remedy.SHUT_DOWN: "shut down x on b"}


def test_several_things_at_once_are_told_when_no_single_change_is_enough() -> None:
    asked = problem(TWO, [vm("v", "a", rules=(rule(Kind.TAG, "gpu", [0]),)), FULL_B], "a")

    (stranded,) = plan(asked, exact_seconds=0).stranded

    (only,) = stranded.relaxations
    assert only.remedy is Remedy.SEVERAL
    assert only.words == "on b several things are in the way at once: tag gpu, 5 GiB"


def test_what_stays_by_choice_is_not_reported() -> None:
    asked = problem(TWO, [vm("v", "a", pinned=True), vm("w", "a")], "a", stays=frozenset({"v"}))

    found = plan(asked)

    assert found.stranded == ()
    assert [move.vm for move in found.moves] == ["w"]


def test_a_fleet_without_another_host_says_so_and_offers_nothing() -> None:
    (stranded,) = plan(problem([host("a")], [vm("v", "a")], "a")).stranded

    assert stranded.relaxations == ()
    assert stranded.proof is Proof.PROVEN


def test_without_explanations_the_same_vms_are_named() -> None:
    asked = problem([host("leaving"), host("b", 10)], [vm("big", "leaving", 50), vm("fits", "leaving", 5)], "leaving")
    bare, told = plan(asked, explain=False), plan(asked)
    assert bare.moves == told.moves
    assert [one.vm for one in bare.stranded] == [one.vm for one in told.stranded] == ["big"]
    assert told.stranded[0].blockers
    assert not bare.stranded[0].blockers
