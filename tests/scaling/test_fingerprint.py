"""A plan's fingerprint: it stands while nothing that it rests on has changed, and tells in words what has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudops.core import crypto
from cloudops.hypervisors.port import PowerState
from scaling.fingerprint import NAMES, Change, PlanUnreadable, changes, token
from scaling.preflight import preflight
from scaling.values import Plan, Room, Size, Subject, Wanted
from scaling.words import changes_words
from tests.scaling.cases import facts, place, subject, virtio, wish

VM: Subject = subject(facts(512, virtio(512)), used_mib=100)
WANTED: Wanted = wish(2, 768, 500, tags=("linux",))
ROOM: Room = place()


def plan(vm: Subject = VM, wanted: Wanted = WANTED, room: Room = ROOM) -> Plan:
    return preflight(vm, wanted, room)


def test_a_plan_that_still_stands_has_no_changes() -> None:
    assert changes(token(plan()), plan()) == []


def test_every_part_of_the_basis_has_words() -> None:
    bare = preflight(replace(VM, facts=None), WANTED, ROOM)
    assert set(plan().basis) | set(bare.basis) == {*NAMES, "vm"}


@pytest.mark.parametrize(
    ("now", "change"),
    [
        ({"vm": {"size": Size(1, 512, 400)}}, Change("CPU speed", "no share", "400 MHz")),
        ({"vm": {"power_state": PowerState.OFF}}, Change("Power state", "running", "off")),
        ({"vm": {"vm_allows": False}}, Change("Live scaling of the VM", "yes", "no")),
        ({"vm": {"host": "host-2", "host_name": "kvm-2"}}, Change("Host's name", "kvm-1", "kvm-2")),
        ({"vm": {"host_tags": frozenset()}}, Change("Of these, on its host", "linux", "none")),
        ({"vm": {"facts": facts(512, virtio(256))}}, Change("Limit of memory devices", "1,024 MiB", "768 MiB")),
        ({"vm": {"facts": None}}, Change("Ceiling told by its hypervisor", "yes", "no")),
        ({"wanted": {"offering_version": 2}}, Change("Offering's version", "1", "2")),
        ({"wanted": {"size": Size(2, 700, 500)}}, Change("Wanted memory", "768 MiB", "700 MiB")),
        ({"room": {"free_vcpus": 0, "elsewhere": 2}}, Change("Room", "on its host", "on another host")),
        ({"room": {"free_vcpus": 0}}, Change("How the size is reached", "live", "not possible")),
        ({"room": {"quota_vcpus": 0}}, Change("Project's quota", "enough", "too few vCPUs left")),
    ],
)
def test_what_has_changed_is_named_with_what_it_was(now: dict[str, dict[str, Any]], change: Change) -> None:
    after = plan(
        replace(VM, **now.get("vm", {})), replace(WANTED, **now.get("wanted", {})), replace(ROOM, **now.get("room", {}))
    )
    found = changes(token(plan()), after)
    assert change in found
    assert len({one.name for one in found}) == len(found)
    assert all(one.was != one.now for one in found)
    assert f"{change.name}: {change.was}, now {change.now}." in changes_words(found)


def test_what_does_not_matter_does_not_make_a_plan_stale() -> None:
    """Room and what the guest uses move all the time; only what they come to counts."""
    after = plan(
        replace(VM, used_mib=300, busy="Migrate it"), room=place(free_vcpus=1, free_memory_mib=256, elsewhere=4)
    )
    assert changes(token(plan()), after) == []


def test_a_token_is_of_use_for_its_vm_only() -> None:
    with pytest.raises(PlanUnreadable):
        changes(token(plan()), plan(replace(VM, vm="vm-2")))


@pytest.mark.parametrize("text", ["", "nonsense", "e30:1abc:xyz"])
def test_what_was_not_made_here_is_refused(text: str) -> None:
    with pytest.raises(PlanUnreadable) as refused:
        changes(text, plan())
    assert refused.value.remedy_text


def test_another_secret_of_ours_is_no_plan() -> None:
    with pytest.raises(PlanUnreadable):
        changes(crypto.encrypt('{"vm": "vm-1"}'), plan())


def test_a_token_does_not_tell_what_is_in_it() -> None:
    assert "kvm-1" not in token(plan())
