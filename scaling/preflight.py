"""What a change of a VM's size would take, before anything is touched. No Django, no clock, no question to anybody.

``preflight`` judges each resource by itself, then whether it may be done at all and where there is room. The plan's
``basis`` holds all that the verdict rests on, so that a plan that was shown can be compared with one made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloudops.hypervisors.port import PowerState, ResizeStep, ScalingFacts, Shape
from scaling import cpu, fitting, gates, memory, memory_hot_add, vcpus
from scaling.values import (
    ORDER,
    Plan,
    Reach,
    Reason,
    Resource,
    ResourcePlan,
    Room,
    Size,
    Subject,
    Wanted,
)

Steps = tuple[ResizeStep, ...]


def preflight(subject: Subject, wanted: Wanted, room: Room) -> Plan:
    """How this VM gets to this size. Never raises for a size that an offering allows."""
    size = wanted.size
    gate, why = gates.judge(subject, wanted)
    judged = (
        vcpus.judge(subject, size.vcpus),
        memory.judge(subject, size.memory_mib),
        cpu.judge(subject, size),
    )
    off = subject.power_state is PowerState.OFF
    stops = worst(gate, *(part.reach for part, _ in judged)) is Reach.RESTART
    parts, steps = _settle(subject, judged, gate, off=off, stops=stops)
    given = Size(parts[0].given, parts[1].given, size.cpu_mhz, size.cpu_cap)
    place, moves = fitting.judge(subject, wanted, given, room, running=not off)
    if off and moves:
        place = replace(place, reach=Reach.NOW)
    changes = moves or any(part.reach is not Reach.SAME for part in parts)
    gate_plan = ResourcePlan(
        Resource.GATES, gate if changes or gate is Reach.IMPOSSIBLE else Reach.SAME, 0, 0, 0, reasons=why
    )
    resources = (gate_plan, *_with_room(parts, room), place)
    reach = worst(*(part.reach for part in resources))
    return Plan(
        reach=reach,
        resources=resources,
        given=given,
        moves=moves and reach is not Reach.IMPOSSIBLE,
        steps=steps if reach in (Reach.LIVE, Reach.MOVE) else (),
        shape=shape(subject, given),
        basis=_basis(subject, wanted, room, reach, resources),
    )


def worst(*reaches: Reach) -> Reach:
    """The hardest of these."""
    return max(reaches, key=ORDER.__getitem__)


def _settle(
    subject: Subject,
    judged: tuple[tuple[ResourcePlan, Steps], ...],
    gate: Reach,
    *,
    off: bool,
    stops: bool,
) -> tuple[tuple[ResourcePlan, ...], Steps]:
    """The resources' verdicts in the light of the whole: a VM that is started anew gets just what is wanted."""
    if off:
        return tuple(_when_off(subject, part) for part, _ in judged), ()
    if not stops:
        return tuple(part for part, _ in judged), tuple(step for _, steps in judged for step in steps)
    parts = []
    for part, _ in judged:
        reach = Reach.RESTART if gate is Reach.RESTART and part.reach is Reach.LIVE else part.reach
        reasons = tuple(one for one in part.reasons if one.code != "memory-rounded")
        parts.append(_started_with(subject, replace(part, reach=reach, reasons=reasons)))
    return tuple(parts), ()


def _started_with(subject: Subject, part: ResourcePlan) -> ResourcePlan:
    """Of what is wanted, what a VM has that is started anew."""
    if part.resource is not Resource.MEMORY:
        return replace(part, given=part.wanted)
    given = memory_hot_add.started_with(subject, part.wanted)
    if given == part.wanted:
        return replace(part, given=given)
    why = memory_hot_add.rounded(part.wanted, given, memory_hot_add.STEP_MIB)
    return replace(part, given=given, reasons=(*part.reasons, why))


def _when_off(subject: Subject, part: ResourcePlan) -> ResourcePlan:
    reach = Reach.SAME if part.reach is Reach.SAME and part.given == part.wanted else Reach.NOW
    reasons: tuple[Reason, ...] = part.reasons if part.resource is Resource.CPU_SPEED else ()
    return _started_with(subject, replace(part, reach=reach, reasons=reasons))


def _with_room(parts: tuple[ResourcePlan, ...], room: Room) -> tuple[ResourcePlan, ...]:
    free = {Resource.VCPUS: room.free_vcpus, Resource.MEMORY: room.free_memory_mib}
    return tuple(
        replace(part, free_here=max(0, free[part.resource])) if part.resource in free else part for part in parts
    )


def shape(subject: Subject, size: Size) -> Shape:
    """What the VM would be started as with this size and no less headroom than it has now."""
    facts = subject.facts
    share, quota = cpu.shares(size), cpu.quota_percent(size, subject.host_mhz)
    if facts is None:
        return Shape(size.vcpus, size.vcpus, size.memory_mib, cpu_shares=share, cpu_quota_percent=quota)
    most_vcpus = max(size.vcpus, facts.max_vcpus) if facts.cpu_hot_add else size.vcpus
    virtio, most = _headroom(facts, size.memory_mib)
    return Shape(
        vcpus=size.vcpus,
        max_vcpus=most_vcpus,
        memory_mib=size.memory_mib,
        max_memory_mib=most,
        memory_slots=facts.memory_slots if most else 0,
        virtio_mem_mib=virtio,
        cpu_shares=share,
        cpu_quota_percent=quota,
    )


def _headroom(facts: ScalingFacts, memory_mib: int) -> tuple[int, int]:
    """The virtio-mem device's size and the most memory, for a VM that starts with this much."""
    if not facts.dimm_limit_mib:
        return 0, 0
    parts = memory.Parts.of(facts, memory_mib)
    room = parts.boot + sum(one.size_mib for one in parts.virtio) - memory_mib
    virtio = memory.down(max(0, room), parts.virtio[0].block_mib) if parts.virtio else 0
    return virtio, max(facts.dimm_limit_mib, memory_mib + virtio)


def _basis(
    subject: Subject, wanted: Wanted, room: Room, reach: Reach, resources: tuple[ResourcePlan, ...]
) -> Mapping[str, Any]:
    """By name, in JSON's own types. Of what changes all the time (room, what the guest uses) only what it comes to."""
    facts, size = subject.facts, subject.size
    by_resource = {part.resource: part for part in resources}
    codes = {reason.code for part in resources for reason in part.reasons}
    room_codes = [one.code for one in by_resource[Resource.ROOM].reasons]
    return {
        "vm": subject.vm,
        "reach": str(reach),
        "vcpus": size.vcpus,
        "memory_mib": by_resource[Resource.MEMORY].current,
        "cpu_mhz": size.cpu_mhz,
        "cpu_cap": size.cpu_cap,
        "wanted_vcpus": wanted.size.vcpus,
        "wanted_memory_mib": wanted.size.memory_mib,
        "wanted_cpu_mhz": wanted.size.cpu_mhz,
        "wanted_cpu_cap": wanted.size.cpu_cap,
        "given_memory_mib": by_resource[Resource.MEMORY].given,
        "offering": wanted.offering,
        "offering_version": wanted.offering_version,
        "offering_dynamic": wanted.dynamic,
        "offering_enabled": wanted.enabled,
        "tags": sorted(wanted.tags),
        "power_state": str(subject.power_state),
        "reported": subject.reported,
        "installation_allows": subject.installation_allows,
        "vm_allows": subject.vm_allows,
        "host": subject.host,
        "host_name": subject.host_name,
        "host_up": subject.host_up,
        "host_threads": subject.host_threads,
        "host_memory_mib": subject.host_memory_mib,
        "host_mhz": subject.host_mhz,
        "host_tags": sorted(subject.host_tags & set(wanted.tags)),
        "cpu_control": subject.cpu_control,
        "memory_use": next((one for one in ("memory-in-use", "memory-use-unknown") if one in codes), "leaves-enough"),
        "room": _room_class(by_resource[Resource.ROOM], room),
        "quota": next((one for one in room_codes if one.startswith("quota")), "enough"),
        **_facts(facts),
    }


def _room_class(place: ResourcePlan, room: Room) -> str:
    if not any(not one.code.startswith("quota") for one in place.reasons):
        return "here"
    return "elsewhere" if room.elsewhere > 0 else "none"


def _facts(facts: ScalingFacts | None) -> dict[str, Any]:
    if facts is None:
        return {"facts": False}
    return {
        "facts": True,
        "max_vcpus": facts.max_vcpus,
        "removable_vcpus": facts.removable_vcpus,
        "cpu_hot_add": facts.cpu_hot_add,
        "memory_hot_add": facts.memory_hot_add,
        "max_memory_mib": facts.max_memory_mib,
        "boot_memory_mib": facts.boot_memory_mib,
        "balloon_mib": facts.balloon_mib,
        "has_balloon": facts.has_balloon,
        "dimm_limit_mib": facts.dimm_limit_mib,
        "memory_slots": facts.memory_slots,
        "memory_slots_used": facts.memory_slots_used,
        "memory_step_mib": facts.memory_step_mib,
        "memory_devices": sorted(
            [one.alias, str(one.model), one.size_mib, one.requested_mib, one.block_mib] for one in facts.memory_devices
        ),
        "cpu_shares": facts.cpu_shares,
        "cpu_quota_percent": facts.cpu_quota_percent,
    }
