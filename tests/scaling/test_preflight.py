"""Preflight's rules, case by case: what is done live, what needs a move or a restart, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudops.hypervisors.port import Kind, PowerState, ResizeKind, ResizeStep, ScalingFacts
from scaling import cpu, memory
from scaling.preflight import preflight
from scaling.values import GuestSupport, Plan, Reach, Resource, Room, Size, Subject, Wanted
from scaling.words import REMEDIES, headline, sentence
from tests.scaling.cases import codes, dimm, facts, grown, place, reason, subject, virtio, wish

VIRTIO, BALLOON, DIMM = ResizeKind.VIRTIO_MEM, ResizeKind.BALLOON, ResizeKind.DIMM


def memory_steps(plan: Plan) -> list[tuple[ResizeKind, int, str]]:
    return [(one.kind, one.value, one.alias) for one in plan.steps if one.kind in (VIRTIO, BALLOON, DIMM)]


def of_memory(told: ScalingFacts, wanted_mib: int, **values: Any) -> Plan:
    return preflight(subject(told, **values), wish(1, wanted_mib), place())


# The seed case


def test_the_seed_case_grows_live_all_the_way() -> None:
    """500 MHz 1–2 cores 256–512 MiB, then 1000 MHz 2–3 cores 512–1024, then 1500 MHz 1–3 cores 1025–1500."""
    told = facts(256, virtio(2_048), max_vcpus=4, cpu_shares=50)
    vm = subject(told, size=Size(1, 256, 500))
    first = preflight(vm, wish(2, 512, 1_000), place())
    assert first.reach is Reach.LIVE
    assert first.steps == (
        ResizeStep(ResizeKind.VCPUS, 2),
        ResizeStep(VIRTIO, 256, "ua-virtiomem0"),
        ResizeStep(ResizeKind.CPU, 200),
    )
    vm = replace(vm, facts=grown(told, first), size=first.given)
    second = preflight(vm, wish(3, 1_025, 1_500), place())
    assert second.reach is Reach.LIVE
    assert second.given == Size(3, 1_026, 1_500)
    assert second.steps == (
        ResizeStep(ResizeKind.VCPUS, 3),
        ResizeStep(VIRTIO, 770, "ua-virtiomem0"),
        ResizeStep(ResizeKind.CPU, 450),
    )
    part = second.of(Resource.MEMORY)
    assert (part.current, part.wanted, part.given, part.ceiling, part.step) == (512, 1_025, 1_026, 2_304, 2)
    told_why = "Its guest gets memory in steps of 2 MiB, so it gets 1,026 MiB."
    assert [sentence(one) for one in second.reasons] == [told_why]


def test_the_seed_case_without_headroom_is_refused_with_the_ceiling_and_three_ways_out() -> None:
    """What elsewhere ends as "would exceed domain's maxMemory config size '524288'"."""
    told = facts(512, max_vcpus=3, balloon_mib=256)
    vm = subject(told, size=Size(1, 256, 500), used_mib=90)
    first = preflight(vm, wish(2, 512, 1_000), place())
    assert (first.reach, memory_steps(first)) == (Reach.LIVE, [(BALLOON, 512, "")])
    vm = replace(vm, facts=grown(told, first), size=first.given)
    second = preflight(vm, wish(1, 1_025, 1_500), place())
    assert second.reach is Reach.RESTART
    assert second.steps == ()
    assert reason(second, "memory-ceiling") == {"current": 512, "ceiling": 512, "wanted": 1_025}
    why = next(one for one in second.reasons if one.code == "memory-ceiling")
    assert why.remedies == ("smaller-size", "restart-now", "next-start")
    assert sentence(why) == "It can grow to 512 MiB while it runs; 1,025 MiB are wanted."
    assert all(REMEDIES[code] for code in why.remedies)
    assert second.given.memory_mib == second.shape.memory_mib == 1_025  # a restart rounds nothing
    assert headline(second) == "It can be given 1 vCPU and 1,025 MiB only with a restart."


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


# vCPUs and CPU speed


@pytest.mark.parametrize(
    ("values", "has", "wanted", "reach", "code"),
    [
        ({"max_vcpus": 4}, 1, 4, Reach.LIVE, None),
        ({"max_vcpus": 4}, 1, 5, Reach.RESTART, "vcpu-ceiling"),
        ({"removable_vcpus": 2}, 4, 2, Reach.LIVE, None),
        ({"removable_vcpus": 1}, 4, 2, Reach.RESTART, "vcpus-stay"),
        ({"removable_vcpus": 0}, 2, 1, Reach.RESTART, "vcpus-stay"),
        ({"cpu_hot_add": False}, 1, 2, Reach.RESTART, "cpu-hot-add-off"),
    ],
)
def test_vcpus(values: dict[str, Any], has: int, wanted: int, reach: Reach, code: str | None) -> None:
    plan = preflight(subject(facts(512, **values), size=Size(has, 512)), wish(wanted, 512), place())
    assert plan.reach is reach
    assert plan.steps == ((ResizeStep(ResizeKind.VCPUS, wanted),) if reach is Reach.LIVE else ())
    assert codes(plan) == ([code] if code else [])


@pytest.mark.parametrize(
    ("size", "shares"),
    [
        (Size(1, 512, 500), 50),
        (Size(2, 512, 1_000), 200),
        (Size(1, 512, 0), 0),
        (Size(64, 512, 4_000), 10_000),
        (Size(1, 512, 10), 2),
    ],
)
def test_speed_becomes_shares_that_both_cgroups_take(size: Size, shares: int) -> None:
    assert cpu.shares(size) == shares


@pytest.mark.parametrize(
    ("size", "host_mhz", "percent"),
    [
        (Size(2, 512, 500, cpu_cap=True), 2_000, 50),
        (Size(2, 512, 500), 2_000, 0),
        (Size(2, 512, 3_000, cpu_cap=True), 2_000, 200),
        (Size(2, 512, 500, cpu_cap=True), 0, 0),
    ],
)
def test_a_hard_limit_is_percent_of_one_thread(size: Size, host_mhz: int, percent: int) -> None:
    assert cpu.quota_percent(size, host_mhz) == percent


def test_speed_is_changed_live_and_last() -> None:
    plan = preflight(subject(facts(512)), wish(2, 512, 1_000, cpu_cap=True), place())
    assert plan.reach is Reach.LIVE
    assert plan.steps == (
        ResizeStep(ResizeKind.VCPUS, 2),
        ResizeStep(ResizeKind.CPU, 200, quota_percent=100),
    )


@pytest.mark.parametrize(
    ("values", "mhz", "code"),
    [
        ({"cpu_control": False}, 500, "speed-not-enforced"),
        ({}, 2_500, "speed-above-host"),
        ({"host_mhz": 0}, 500, "host-speed-unknown"),
    ],
)
def test_a_speed_that_has_no_effect_is_never_an_error(values: dict[str, Any], mhz: int, code: str) -> None:
    plan = preflight(subject(facts(512), **values), wish(1, 512, mhz, cpu_cap=True), place())
    assert (plan.reach, codes(plan)) == (Reach.LIVE, [code])


def test_a_speed_that_is_there_already_is_no_change() -> None:
    vm = subject(facts(512, cpu_shares=50), size=Size(1, 512, 500))
    assert preflight(vm, wish(1, 512, 500), place()).reach is Reach.SAME
    recorded = subject(facts(512), size=Size(1, 512, 500), cpu_control=False)
    assert preflight(recorded, wish(1, 512, 500), place()).reach is Reach.SAME
    assert preflight(recorded, wish(1, 512, 600), place()).reach is Reach.LIVE


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


# Gates


@pytest.mark.parametrize(
    ("values", "of_offering", "code"),
    [
        ({"installation_allows": False}, {}, "installation-not-dynamic"),
        ({"vm_allows": False}, {}, "vm-not-dynamic"),
        ({}, {"dynamic": False}, "offering-not-dynamic"),
    ],
)
def test_a_closed_gate_leaves_the_restart(values: dict[str, Any], of_offering: dict[str, Any], code: str) -> None:
    vm, wanted = subject(facts(512, virtio(512)), **values), wish(2, 701, **of_offering)
    plan = preflight(vm, wanted, place())
    assert (plan.reach, codes(plan), plan.given.memory_mib) == (Reach.RESTART, [code], 701)
    away = preflight(vm, wanted, place(free_vcpus=0, elsewhere=3))
    assert (away.reach, away.moves) == (Reach.RESTART, True)
    off = preflight(replace(vm, power_state=PowerState.OFF), wanted, place())
    assert off.reach is Reach.NOW
    same = preflight(vm, wish(1, 512, **of_offering), place())
    assert same.reach is Reach.SAME  # nothing to do needs no gate


@pytest.mark.parametrize(
    ("values", "of_offering", "code"),
    [
        ({"reported": False}, {}, "not-reported"),
        ({"host_up": False}, {}, "host-down"),
        ({"power_state": PowerState.UNKNOWN}, {}, "power-unknown"),
        ({"power_state": PowerState.PAUSED}, {}, "paused"),
        ({"power_state": PowerState.CRASHED}, {}, "crashed"),
        ({}, {"enabled": False}, "offering-disabled"),
    ],
)
def test_what_makes_it_impossible(values: dict[str, Any], of_offering: dict[str, Any], code: str) -> None:
    plan = preflight(subject(**values), wish(2, **of_offering), place(elsewhere=5))
    assert (plan.reach, plan.moves, plan.steps) == (Reach.IMPOSSIBLE, False, ())
    assert codes(plan)[0] == code


def test_an_operation_at_work_is_told_but_changes_nothing() -> None:
    plan = preflight(subject(busy="Migrate web-7"), wish(2), place())
    assert (plan.reach, codes(plan)) == (Reach.LIVE, ["busy"])


def test_a_vm_that_is_off_gets_it_at_once_whatever_the_ceiling() -> None:
    vm = subject(facts(512, max_vcpus=1), power_state=PowerState.OFF)
    plan = preflight(vm, wish(8, 4_001), place(free_vcpus=0, free_memory_mib=0, here_open=False))
    assert (plan.reach, plan.steps, plan.given) == (Reach.NOW, (), Size(8, 4_001))
    assert (plan.shape.vcpus, plan.shape.max_vcpus, plan.shape.memory_mib) == (8, 8, 4_001)


def test_a_vm_whose_hypervisor_tells_nothing_needs_a_restart() -> None:
    vm = subject(None, facts=None)
    assert codes(preflight(vm, wish(2, 512), place())) == ["no-facts"]
    assert preflight(vm, wish(1, 512), place()).reach is Reach.SAME


# Room and quota


@pytest.mark.parametrize(
    ("room", "reach", "code"),
    [
        (place(free_vcpus=1), Reach.LIVE, None),
        (place(free_vcpus=0, elsewhere=2), Reach.MOVE, "no-room-vcpus"),
        (place(free_vcpus=0), Reach.IMPOSSIBLE, "no-room-vcpus"),
        (place(free_memory_mib=511, elsewhere=1), Reach.MOVE, "no-room-memory"),
        (place(free_memory_mib=512), Reach.LIVE, None),
        (place(free_memory_mib=-300, elsewhere=1), Reach.MOVE, "no-room-memory"),
        (place(here_open=False, elsewhere=1), Reach.MOVE, "host-closed"),
        (place(here_open=False), Reach.IMPOSSIBLE, "host-closed"),
    ],
)
def test_room(room: Room, reach: Reach, code: str | None) -> None:
    plan = preflight(subject(facts(512, virtio(512))), wish(2, 1_024), room)
    assert (plan.reach, plan.moves) == (reach, reach is Reach.MOVE)
    assert bool(plan.steps) == (reach is not Reach.IMPOSSIBLE)
    assert (code in codes(plan)) if code else codes(plan) == []
    assert ("no-room-elsewhere" in codes(plan)) == (reach is Reach.IMPOSSIBLE)


def test_what_does_not_grow_needs_no_room() -> None:
    vm = subject(facts(512, virtio(512, 512), removable_vcpus=1), size=Size(2, 1_024))
    closed = place(free_vcpus=-5, free_memory_mib=-5, here_open=False, quota_vcpus=0, quota_memory_mib=0)
    assert preflight(vm, wish(1, 512), closed).reach is Reach.LIVE


def test_rounding_needs_room_too() -> None:
    told = facts(512, dimm_limit_mib=4_096, memory_slots=4)
    assert preflight(subject(told), wish(1, 600), place(free_memory_mib=127, elsewhere=1)).reach is Reach.MOVE
    assert preflight(subject(told), wish(1, 600), place(free_memory_mib=128)).reach is Reach.LIVE


def test_host_tags_that_are_missing_ask_for_a_move() -> None:
    wanted = wish(1, 512, tags=("gpu", "linux"))
    plan = preflight(subject(), wanted, place(elsewhere=1))
    assert (plan.reach, plan.moves) == (Reach.MOVE, True)
    assert reason(plan, "host-tags")["missing"] == ["gpu"]
    assert preflight(subject(), wanted, place()).reach is Reach.IMPOSSIBLE
    off = preflight(subject(power_state=PowerState.OFF), wanted, place(elsewhere=1))
    assert (off.reach, off.moves) == (Reach.NOW, True)


@pytest.mark.parametrize(
    ("wanted", "code"), [(wish(9, 512), "beyond-host-vcpus"), (wish(1, 16_385), "beyond-host-memory")]
)
def test_what_is_beyond_the_whole_host_is_not_reached_by_a_restart_either(wanted: Wanted, code: str) -> None:
    vm: Subject = subject(facts(512, virtio(65_536), max_vcpus=16))
    alone = preflight(vm, wanted, place())
    assert (alone.reach, code in codes(alone)) == (Reach.IMPOSSIBLE, True)
    assert preflight(vm, wanted, place(elsewhere=1)).reach is Reach.MOVE
    short = preflight(subject(), wanted, place(elsewhere=1))
    assert (short.reach, short.moves) == (Reach.RESTART, True)


@pytest.mark.parametrize(
    ("room", "reach", "code"),
    [
        (place(quota_vcpus=2, quota_memory_mib=1_024), Reach.LIVE, None),
        (place(quota_vcpus=1), Reach.IMPOSSIBLE, "quota-vcpus"),
        (place(quota_memory_mib=1_023), Reach.IMPOSSIBLE, "quota-memory"),
        (place(quota_vcpus=-4), Reach.IMPOSSIBLE, "quota-vcpus"),
    ],
)
def test_quota(room: Room, reach: Reach, code: str | None) -> None:
    vm = subject(facts(512, virtio(512)))
    plan = preflight(vm, wish(2, 1_024), room)
    assert (plan.reach, codes(plan)) == (reach, [code] if code else [])
    off = preflight(replace(vm, power_state=PowerState.OFF), wish(2, 1_024), room)
    assert (off.reach is Reach.IMPOSSIBLE) == (code is not None)


def test_reasons_come_with_the_worst_first_and_every_number_is_there() -> None:
    vm = subject(facts(512, max_vcpus=2), used_mib=100)
    plan = preflight(vm, wish(4, 4_096), place(free_vcpus=2, elsewhere=0))
    assert codes(plan)[0] == "no-room-vcpus"
    assert {"vcpu-ceiling", "memory-ceiling"} <= set(codes(plan))
    part = plan.of(Resource.VCPUS)
    assert (part.current, part.wanted, part.ceiling, part.free_here, part.step) == (1, 4, 2, 2, 1)
    with pytest.raises(KeyError):
        replace(plan, resources=()).of(Resource.ROOM)


def test_the_shape_keeps_the_headroom_that_there_is() -> None:
    told = facts(512, virtio(3_584), dimm_limit_mib=8_192, memory_slots=8, max_vcpus=8)
    plan = preflight(subject(told, installation_allows=False), wish(2, 1_025, 500), place())
    made = plan.shape
    assert (made.vcpus, made.max_vcpus, made.memory_mib, made.cpu_shares) == (2, 8, 1_025, 100)
    assert (made.virtio_mem_mib, made.max_memory_mib, made.memory_slots) == (3_070, 8_192, 8)
