"""Preflight's rules, case by case: what is done live, what needs a move or a restart, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudops.hypervisors.port import PowerState, ResizeKind, ResizeStep, ScalingFacts
from scaling import cpu
from scaling.preflight import preflight
from scaling.values import Plan, Reach, Resource, Room, Size, Subject, Wanted
from scaling.words import REMEDIES, headline, sentence
from tests.scaling.cases import codes, facts, grown, place, reason, subject, virtio, wish

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
