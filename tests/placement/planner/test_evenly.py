"""Where there is room to spare, VMs are spread and stay near home; where there is not, they are packed."""

from __future__ import annotations

from collections import Counter

from placement.planner import plan, verify
from tests.placement.planner.small import host, problem, targets, vm


def test_hosts_fill_evenly_when_there_is_room() -> None:
    """Best fit alone would put all six onto one host."""
    asked = problem(
        [host("leaving"), host("b"), host("c"), host("d")], [vm(f"v{n}", "leaving", 10) for n in range(6)], "leaving"
    )
    found = plan(asked)
    assert Counter(targets(found).values()) == {"b": 2, "c": 2, "d": 2}
    assert not verify(asked, found)


def test_a_vm_stays_in_its_cluster_when_that_has_room() -> None:
    asked = problem(
        [host("leaving", cluster="near"), host("small", 20, cluster="near"), host("huge", 500, cluster="far")],
        [vm("v", "leaving", 10), vm("w", "leaving", 15)],
        "leaving",
    )
    assert targets(plan(asked)) == {"w": "small", "v": "huge"}


def test_too_tight_to_spread_is_packed_without_leaving_anybody() -> None:
    """Spreading would leave 10 GiB free on each of two hosts, and 20 GiB nowhere."""
    asked = problem(
        [host("leaving", 60), host("b", 30), host("c", 30)],
        [vm("big", "leaving", 20), vm("one", "leaving", 10), vm("two", "leaving", 10), vm("three", "leaving", 20)],
        "leaving",
    )
    found = plan(asked)
    assert not found.stranded
    assert not verify(asked, found)
