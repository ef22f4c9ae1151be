"""Preflight's rules of memory, case by case: by which means it grows and shrinks, and what VMware's hot add allows."""

from __future__ import annotations

from typing import Any

import pytest

from cloudops.hypervisors.port import Kind, ResizeKind, ResizeStep, ScalingFacts
from scaling import memory
from scaling.preflight import preflight
from scaling.values import GuestSupport, Plan, Reach, Resource, Size
from tests.scaling.cases import codes, dimm, facts, place, reason, subject, virtio, wish

VIRTIO, BALLOON, DIMM = ResizeKind.VIRTIO_MEM, ResizeKind.BALLOON, ResizeKind.DIMM


def memory_steps(plan: Plan) -> list[tuple[ResizeKind, int, str]]:
    return [(one.kind, one.value, one.alias) for one in plan.steps if one.kind in (VIRTIO, BALLOON, DIMM)]


def of_memory(told: ScalingFacts, wanted_mib: int, **values: Any) -> Plan:
    return preflight(subject(told, **values), wish(1, wanted_mib), place())


# Memory, growing


@pytest.mark.parametrize(
    ("told", "wanted", "given", "steps"),
    [
        (facts(512, virtio(512)), 700, 700, [(VIRTIO, 188, "ua-virtiomem0")]),
        (facts(512, virtio(512)), 701, 702, [(VIRTIO, 190, "ua-virtiomem0")]),
        (facts(512, virtio(512, 100)), 1_024, 1_024, [(VIRTIO, 512, "ua-virtiomem0")]),
        (facts(512, virtio(512), balloon_mib=300), 400, 400, [(BALLOON, 400, "")]),
        (
            facts(512, virtio(512), balloon_mib=300),
            601,
            602,
            [(BALLOON, 512, ""), (VIRTIO, 90, "ua-virtiomem0")],
        ),
        (
            facts(512, virtio(256), virtio(256, alias="ua-virtiomem1")),
            900,
            900,
            [(VIRTIO, 256, "ua-virtiomem0"), (VIRTIO, 132, "ua-virtiomem1")],
        ),
        (facts(512, dimm_limit_mib=2_048, memory_slots=4), 600, 640, [(DIMM, 128, "ua-dimm0")]),
        (
            facts(512, dimm(256), dimm_limit_mib=2_048, memory_slots=4, memory_slots_used=1),
            1_024,
            1_024,
            [(DIMM, 256, "ua-dimm1")],
        ),
        (
            facts(512, virtio(128), dimm_limit_mib=2_048, memory_slots=4),
            1_000,
            1_000,
            [(VIRTIO, 104, "ua-virtiomem0"), (DIMM, 384, "ua-dimm0")],
        ),
    ],
    ids=[
        *("virtio-mem", "rounded up", "to its end", "balloon first", "balloon and virtio-mem", "two devices"),
        *("a DIMM", "a second DIMM", "virtio-mem fills up what DIMMs are too coarse for"),
    ],
)
def test_memory_grows_by_the_finest_means(
    told: ScalingFacts, wanted: int, given: int, steps: list[tuple[ResizeKind, int, str]]
) -> None:
    plan = of_memory(told, wanted)
    assert (plan.reach, plan.given.memory_mib, memory_steps(plan)) == (Reach.LIVE, given, steps)
    assert ("memory-rounded" in codes(plan)) == (given != wanted)


@pytest.mark.parametrize(
    ("told", "wanted", "code", "ceiling"),
    [
        (facts(512, virtio(512)), 1_025, "memory-ceiling", 1_024),
        (facts(512), 513, "memory-ceiling", 512),
        (facts(512, dimm_limit_mib=700, memory_slots=4), 641, "memory-ceiling", 640),
        (
            facts(512, dimm(128), dimm_limit_mib=2_048, memory_slots=1, memory_slots_used=1),
            700,
            "memory-slots",
            640,
        ),
        (facts(512, virtio(256, 2), balloon_mib=256), 600, "memory-ceiling", 512),
    ],
    ids=["virtio-mem", "no headroom", "whole DIMMs only", "no slot", "the balloon is stuck"],
)
def test_what_is_beyond_the_ceiling_needs_a_restart(told: ScalingFacts, wanted: int, code: str, ceiling: int) -> None:
    plan = of_memory(told, wanted)
    assert (plan.reach, plan.steps) == (Reach.RESTART, ())
    assert reason(plan, code)["ceiling"] == plan.of(Resource.MEMORY).ceiling == ceiling
    assert of_memory(told, ceiling).reach in (Reach.LIVE, Reach.SAME)


def test_free_slots_are_told() -> None:
    told = facts(512, dimm(128), dimm_limit_mib=4_096, memory_slots=8, memory_slots_used=3)
    assert of_memory(told, 1_024).of(Resource.MEMORY).free_slots == 5


# Memory, shrinking


def test_virtio_mem_shrinks_by_whole_blocks() -> None:
    told = facts(512, virtio(512, 512))
    plan = of_memory(told, 701)
    assert (plan.reach, plan.given.memory_mib, memory_steps(plan)) == (
        Reach.LIVE,
        702,
        [(VIRTIO, 190, "ua-virtiomem0")],
    )
    assert of_memory(facts(512, virtio(1_024, 514)), 1_025).reach is Reach.SAME  # 1,026 is what 1,025 are given as


def test_the_balloon_takes_the_rest_once_nothing_of_virtio_mem_is_left() -> None:
    plan = of_memory(facts(512, virtio(512, 256)), 400, used_mib=200)
    assert memory_steps(plan) == [(VIRTIO, 0, "ua-virtiomem0"), (BALLOON, 400, "")]
    assert (plan.reach, plan.given.memory_mib) == (Reach.LIVE, 400)


def test_a_size_that_was_rounded_up_is_no_change_when_it_is_asked_for_again() -> None:
    """Nobody is told to restart for the 127 MiB that a DIMM is too large."""
    with_dimm = facts(512, dimm(128), dimm_limit_mib=2_048, memory_slots=4)
    assert of_memory(with_dimm, 513).reach is Reach.SAME
    assert of_memory(with_dimm, 513).given.memory_mib == 640
    assert of_memory(with_dimm, 512).reach is Reach.RESTART
    assert memory_steps(of_memory(with_dimm, 513, used_mib=100)) == [
        (BALLOON, 385, "")
    ]  # or exactly, where that is safe
    by_fours = subject(vsphere(), kind=Kind.VSPHERE)
    assert preflight(by_fours, wish(1, 4_093), place()).reach is Reach.SAME
    assert preflight(by_fours, wish(1, 4_092), place()).reach is Reach.RESTART


@pytest.mark.parametrize(("used", "least"), [(100, 164), (1_000, 1_100), (1_001, 1_102)])
def test_a_guest_keeps_what_it_uses_and_a_reserve(used: int, least: int) -> None:
    """64 MiB or a tenth, whichever is more."""
    assert memory.floor_mib(used) == least
    told = facts(2_048)
    assert of_memory(told, least, used_mib=used).reach is Reach.LIVE
    refused = of_memory(told, least - 1, used_mib=used)
    assert refused.reach is Reach.RESTART
    assert reason(refused, "memory-in-use") == {
        "current": 2_048,
        "wanted": least - 1,
        "used": used,
        "floor": least,
    }


@pytest.mark.parametrize(
    ("told", "values", "code"),
    [
        (facts(512), {"used_mib": None}, "memory-use-unknown"),
        (facts(512, has_balloon=False), {"used_mib": 50}, "no-balloon"),
        (facts(256, dimm(512), dimm_limit_mib=4_096, memory_slots=4), {"used_mib": 50}, "dimm-stays"),
        (facts(512, virtio(512, 0, current=256)), {"used_mib": 50}, "guest-keeps-memory"),
    ],
)
def test_what_is_not_safe_to_take_needs_a_restart(told: ScalingFacts, values: dict[str, Any], code: str) -> None:
    plan = of_memory(told, 300, **values)
    assert (plan.reach, plan.steps) == (Reach.RESTART, ())
    assert code in codes(plan)


def test_a_guest_that_lags_behind_is_told_of() -> None:
    plan = of_memory(facts(512, virtio(512, 256, current=128)), 900)
    assert plan.of(Resource.MEMORY).guest is GuestSupport.NO
    assert reason(plan, "guest-behind") == {"requested": 256, "taken": 128}


@pytest.mark.parametrize(
    ("told", "values", "support"),
    [
        (facts(512, virtio(512)), {}, GuestSupport.UNKNOWN),
        (facts(512, virtio(512)), {"virtio_mem_seen": True}, GuestSupport.YES),
        (facts(512, virtio(512, 64)), {}, GuestSupport.YES),
        (facts(512), {"used_mib": 100}, GuestSupport.YES),
        (facts(512, dimm_limit_mib=2_048, memory_slots=2), {}, GuestSupport.UNKNOWN),
    ],
)
def test_whether_a_guest_follows_is_only_said_when_it_was_seen(
    told: ScalingFacts, values: dict[str, Any], support: GuestSupport
) -> None:
    assert of_memory(told, 512, **values).of(Resource.MEMORY).guest is support


# vSphere


def vsphere(boot: int = 4_096, **values: Any) -> ScalingFacts:
    given: dict[str, Any] = {"max_vcpus": 16, "max_memory_mib": 1_048_576, "memory_step_mib": 4, "balloon_mib": 0}
    return facts(boot, **{"has_balloon": False, **given, **values})


@pytest.mark.parametrize(
    ("told", "values", "wanted", "reach", "code", "given"),
    [
        (vsphere(), {}, 8_192, Reach.LIVE, None, 8_192),
        (vsphere(), {}, 8_190, Reach.LIVE, "memory-rounded", 8_192),
        (vsphere(), {}, 2_048, Reach.RESTART, "no-live-shrink", 2_048),
        (vsphere(memory_hot_add=False), {}, 8_192, Reach.RESTART, "memory-hot-add-off", 8_192),
        (vsphere(512), {}, 8_192, Reach.LIVE, None, 8_192),
        (vsphere(512), {}, 8_196, Reach.RESTART, "memory-ceiling", 8_196),
        (vsphere(2_048), {"guest_os": "Debian GNU/Linux 12 (64-bit)"}, 3_072, Reach.LIVE, None, 3_072),
        (vsphere(2_048), {"guest_os": "Debian GNU/Linux 12 (64-bit)"}, 3_076, Reach.RESTART, "linux-wall", 3_076),
        (vsphere(2_048), {"guest_os": "Microsoft Windows Server 2022"}, 8_192, Reach.LIVE, None, 8_192),
        (vsphere(3_076), {"guest_os": "Ubuntu Linux (64-bit)"}, 8_192, Reach.LIVE, None, 8_192),
        (vsphere(max_memory_mib=6_144), {}, 6_148, Reach.RESTART, "memory-ceiling", 6_148),
    ],
)
def test_vsphere_memory(
    told: ScalingFacts, values: dict[str, Any], wanted: int, reach: Reach, code: str | None, given: int
) -> None:
    vm = subject(told, kind=Kind.VSPHERE, **values)
    plan = preflight(vm, wish(1, wanted), place(elsewhere=0))
    assert (plan.reach, plan.given.memory_mib) == (reach, given)
    assert codes(plan) == ([code] if code else [])
    assert plan.steps == ((ResizeStep(ResizeKind.MEMORY, given),) if reach is Reach.LIVE else ())


def test_vsphere_takes_no_vcpus_away() -> None:
    vm = subject(vsphere(removable_vcpus=3), kind=Kind.VSPHERE, size=Size(4, 4_096))
    assert codes(preflight(vm, wish(2, 4_096), place())) == ["no-live-shrink"]
