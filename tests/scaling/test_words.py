"""Every reason and remedy in words, and what of them a tenant may read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudops.hypervisors.port import Kind, PowerState, ScalingFacts
from scaling import words
from scaling.preflight import preflight
from scaling.values import Plan, Reach, Reason, Room, Size, Subject, Wanted
from tests.scaling.cases import dimm, facts, place, subject, virtio, wish

SOURCES = ("cpu", "fitting", "gates", "memory", "memory_hot_add", "vcpus")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            Reason("memory-ceiling", {"ceiling": 2_048, "wanted": 4_096}),
            "It can grow to 2,048 MiB while it runs; 4,096 MiB are wanted.",
        ),
        (
            Reason("vcpu-ceiling", {"ceiling": 1, "wanted": 2}),
            "It can grow to 1 vCPU while it runs; 2 vCPUs are wanted.",
        ),
        (
            Reason("memory-rounded", {"step": 2, "given": 1_026}),
            "Its guest gets memory in steps of 2 MiB, so it gets 1,026 MiB.",
        ),
        (
            Reason("memory-slots", {"slots": 1, "ceiling": 640, "wanted": 700}),
            "Its only memory slot is taken, so it can have 640 MiB while it runs; 700 MiB are wanted.",
        ),
        (
            Reason("memory-in-use", {"used": 300, "floor": 364, "wanted": 256}),
            "Its guest uses 300 MiB and must keep 364 MiB; 256 MiB would not be enough.",
        ),
        (
            Reason("vcpus-stay", {"current": 4, "wanted": 1, "removable": 2}),
            "Only 2 of its vCPUs can be taken away while it runs: it could go down to 2.",
        ),
        (
            Reason("no-room-memory", {"needed": 512, "free": 100, "host": "kvm-1"}),
            "kvm-1 has 100 MiB free; 512 MiB more would be needed.",
        ),
        (
            Reason("host-tags", {"missing": ["gpu", "ssd"], "host": "kvm-1", "offering": "Large"}),
            "Large asks for hosts with the tags gpu, ssd, which kvm-1 does not carry.",
        ),
        (
            Reason("guest-behind", {"requested": 256, "taken": 512}),
            "Its guest has not given back 256 MiB that were taken from it before.",
        ),
        (
            Reason("quota-vcpus", {"left": 2, "wanted": 4}),
            "The project's quota leaves it 2 vCPUs; 4 vCPUs are wanted.",
        ),
    ],
)
def test_sentences(reason: Reason, said: str) -> None:
    assert words.sentence(reason) == said
    assert words.sentence(reason, "web-7") == f"web-7: {said}"


def test_every_code_that_is_used_has_words_and_no_words_are_left_over() -> None:
    text = "".join((Path(words.__file__).parent / f"{name}.py").read_text() for name in SOURCES)
    used = set(re.findall(r'Reason\(\s*"([a-z0-9-]+)"', text)) | {"linux-wall", "memory-ceiling"}
    assert used == set(words.SENTENCES)
    remedies = {code for code in words.REMEDIES if f'"{code}"' in text}
    assert remedies == set(words.REMEDIES)
    assert set(words.TENANT_REMEDIES) <= set(words.REMEDIES)


def everything() -> Iterator[tuple[Subject, Wanted, Room]]:
    """Plans that between them give every reason."""
    bare = facts(512)
    tight = place(free_vcpus=0, free_memory_mib=0)
    by_dimm = facts(512, dimm(128), dimm_limit_mib=2_048, memory_slots=1, memory_slots_used=1)
    vsphere: dict[str, Any] = {"has_balloon": False, "balloon_mib": 0, "memory_step_mib": 4, "max_memory_mib": 65_536}
    yield subject(bare, installation_allows=False, vm_allows=False, busy="Move it"), wish(2, 513, dynamic=False), tight
    yield subject(bare), wish(2, enabled=False), tight
    for values in (
        {"reported": False},
        {"host_up": False},
        {"power_state": PowerState.UNKNOWN},
        {"power_state": PowerState.PAUSED},
        {"power_state": PowerState.CRASHED},
        {"facts": None},
    ):
        yield subject(**values), wish(2), tight
    yield subject(bare, size=Size(4, 512)), wish(5, 300), place(quota_vcpus=0, quota_memory_mib=0)
    yield subject(bare, size=Size(4, 512), used_mib=400), wish(2, 300), tight
    yield subject(facts(512, cpu_hot_add=False, has_balloon=False)), wish(2, 300), tight
    yield subject(by_dimm), wish(1, 700, tags=("gpu",)), tight
    yield subject(by_dimm), wish(1, 641), place(here_open=False)
    yield subject(facts(512, dimm(128), dimm(512, "b"), dimm_limit_mib=4_096)), wish(1, 100), place()
    yield subject(facts(512, dimm_limit_mib=4_096, memory_slots=4)), wish(9, 20_000), place()
    yield subject(facts(512, virtio(64, 0, current=64)), used_mib=1), wish(1, 300), place()
    yield subject(facts(512, virtio(64, 32, current=0))), wish(1, 547, 500, cpu_cap=True), place(quota_memory_mib=1)
    yield subject(facts(512, virtio(64))), wish(1, 513, 3_000), place()
    yield subject(bare, cpu_control=False, host_mhz=0), wish(1, 512, 3_000, cpu_cap=True), place()
    for told, wanted in (
        (facts(1_024, **vsphere), 512),
        (facts(1_024, **vsphere), 4_096),
        (facts(1_024, **{**vsphere, "memory_hot_add": False}), 2_048),
    ):
        yield subject(told, kind=Kind.VSPHERE, guest_os="Debian Linux"), wish(1, wanted), place()


def plans() -> list[Plan]:
    return [preflight(*case) for case in everything()]


def test_the_cases_give_every_reason() -> None:
    assert {one.code for plan in plans() for one in plan.reasons} == set(words.SENTENCES)


def test_every_reason_is_a_sentence_for_everybody() -> None:
    for plan in plans():
        for reason in (*plan.reasons, *words.for_tenant(plan).reasons):
            said = words.sentence(reason)
            assert not said[0].islower() or said.startswith("kvm-1")
            assert said.endswith(".")
            assert "{" not in said
            for code in reason.remedies:
                assert words.remedy(code).endswith(".")
                assert words.remedy(code, tenant=True).endswith(".")
        assert words.headline(plan).endswith(".")
        assert len(set(words.remedies(plan))) == len(words.remedies(plan))


def test_tenants_see_no_host_and_nothing_of_others() -> None:
    for plan in plans():
        shown = words.for_tenant(plan)
        assert (shown.reach, shown.given, shown.steps) == (plan.reach, plan.given, plan.steps)
        assert [one.code for one in shown.reasons] == [one.code for one in plan.reasons]
        assert shown.basis == {}
        assert all(part.free_here is None for part in shown.resources)
        told = " ".join(map(words.sentence, shown.reasons)) + str(shown)
        assert "kvm-1" not in told
        assert "gpu" not in told
        assert "Move it" not in told
        for name in ("free", "whole", "host_mhz", "host"):
            assert all(name not in one.numbers for one in shown.reasons)


def test_what_is_the_tenants_own_stays() -> None:
    told: ScalingFacts = facts(512)
    plan = words.for_tenant(preflight(subject(told), wish(1, 1_024), place(quota_memory_mib=600)))
    said = [words.sentence(one) for one in plan.reasons]
    assert "It can grow to 512 MiB while it runs; 1,024 MiB are wanted." in said
    assert "The project's quota leaves it 600 MiB; 1,024 MiB are wanted." in said


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (preflight(subject(), wish(), place()), "It has 1 vCPU and 512 MiB already."),
        (preflight(subject(), wish(2), place()), "It can be given 2 vCPUs and 512 MiB while it runs."),
        (
            preflight(subject(), wish(2), place(free_vcpus=0, elsewhere=1)),
            "It can be given 2 vCPUs and 512 MiB while it runs, once it has moved to another host.",
        ),
        (
            preflight(subject(), wish(9), place(elsewhere=1)),
            "It can be given 9 vCPUs and 512 MiB only with a restart on another host.",
        ),
        (preflight(subject(), wish(9), place()), "It cannot be given 9 vCPUs and 512 MiB."),
        (
            preflight(subject(power_state=PowerState.OFF), wish(9, tags=("gpu",)), place(elsewhere=1)),
            (
                "It is off: it is given 9 vCPUs and 512 MiB after it has been moved to another host "
                "and has them when it starts."
            ),
        ),
    ],
)
def test_headlines(plan: Plan, said: str) -> None:
    assert words.headline(plan) == said
    assert words.REACH_WORDS[plan.reach]
    assert set(words.REACH_WORDS) == set(Reach)
