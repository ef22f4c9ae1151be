"""What an offering gives, in values and in words, and what about it cannot be. Reads rows, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from cloudops.inventory.models import Offering

LEAST_MEMORY_MIB: Final = 16
MOST_MEMORY_MIB: Final = 16_777_216
MOST_VCPUS: Final = 1_024
FIXED: Final = "fixed"
CUSTOM: Final = "custom"
UNCONSTRAINED: Final = "unconstrained"
SIZE_FIELDS: Final = ("kind", "vcpus", "max_vcpus", "memory_mib", "max_memory_mib", "cpu_mhz", "cpu_cap")
TAG_FIELDS: Final = ("host_tags", "soft_host_tags")
VERSIONED: Final = (*SIZE_FIELDS, "dynamic_scaling", *TAG_FIELDS)
"""What a VM gets by an offering: a change of any of these makes a new version."""
BOUNDS: Final = ("max_vcpus", "max_memory_mib")
"""Only a custom offering has them."""


class Bounds(NamedTuple):
    """Between what a VM's size may be chosen, both ends included."""

    min_vcpus: int
    max_vcpus: int
    min_memory_mib: int
    max_memory_mib: int

    def hold(self, vcpus: int, memory_mib: int) -> bool:
        """Whether this size is within them."""
        return self.min_vcpus <= vcpus <= self.max_vcpus and self.min_memory_mib <= memory_mib <= self.max_memory_mib


def bounds(offering: Offering) -> Bounds:
    """One size for a fixed offering, its own range for a custom one, whatever CloudOps knows for an unconstrained."""
    if offering.kind == UNCONSTRAINED:
        return Bounds(1, MOST_VCPUS, LEAST_MEMORY_MIB, MOST_MEMORY_MIB)
    most_vcpus, most_memory_mib = offering.max_vcpus, offering.max_memory_mib
    if offering.kind == FIXED or most_vcpus is None or most_memory_mib is None:
        return Bounds(offering.vcpus, offering.vcpus, offering.memory_mib, offering.memory_mib)
    return Bounds(offering.vcpus, most_vcpus, offering.memory_mib, most_memory_mib)


def problems(offering: Offering) -> dict[str, str]:
    """What does not fit together, by field, each with its remedy; values out of range are not looked at here."""
    found: dict[str, str] = {}
    for most, least, what in (("max_vcpus", "vcpus", "vCPUs"), ("max_memory_mib", "memory_mib", "memory")):
        lower, upper = getattr(offering, least), getattr(offering, most)
        if offering.kind != CUSTOM:
            if upper is not None:
                found[most] = "Only a custom offering has bounds: leave this empty, or choose the kind “custom”."
        elif upper is None:
            found[most] = f"A custom offering needs the most {what}: give at least {lower}."
        elif lower is not None and upper < lower:
            found[most] = f"The most {what} cannot be less than the least: give at least {lower}."
    if offering.cpu_cap and offering.cpu_mhz is None:
        found["cpu_mhz"] = "A hard CPU limit needs a CPU speed: give one in MHz, or take the limit away."
    return found


def values(offering: Offering) -> dict[str, Any]:
    """What a VM gets by it, in JSON's types: :data:`VERSIONED`, tags by name in order."""
    tags = {field: sorted(tag.name for tag in getattr(offering, field).all()) for field in TAG_FIELDS}
    plain = {field: getattr(offering, field) for field in VERSIONED if field not in tags}
    return {**plain, "kind": str(offering.kind), **tags}


@dataclass(frozen=True, slots=True)
class Words:
    """An offering's sizes for people: "1–2 vCPUs", "256–512 MiB", "500 MHz (hard limit)"; no speed is ""."""

    vcpus: str
    memory: str
    speed: str


def words(given: Mapping[str, Any]) -> Words:
    """Of :func:`values`, as they are now or were in an earlier version."""
    speed = f"{given['cpu_mhz']} MHz" if given["cpu_mhz"] else ""
    if speed and given["cpu_cap"]:
        speed += " (hard limit)"
    if given["kind"] == UNCONSTRAINED:
        return Words("any vCPUs", "any memory", speed)
    vcpus = _range(given["vcpus"], given["max_vcpus"])
    return Words(
        f"{vcpus} vCPU{'' if vcpus == '1' else 's'}", _memory(given["memory_mib"], given["max_memory_mib"]), speed
    )


def _range(least: int, most: int | None) -> str:
    return str(least) if most is None or most == least else f"{least}–{most}"


def _memory(least_mib: int, most_mib: int | None) -> str:
    """In GiB where both ends are whole ones, else exactly."""
    ends = [least_mib] if most_mib is None else [least_mib, most_mib]
    if all(end % 1_024 == 0 for end in ends):
        return f"{_range(least_mib // 1_024, most_mib and most_mib // 1_024)} GiB"
    return f"{_range(least_mib, most_mib)} MiB"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two versions' values, each in a phrase."""
    then, now = words(before), words(after)
    kinds = {FIXED: "one fixed size", CUSTOM: "any size within bounds", UNCONSTRAINED: "any size"}
    told = []
    if before["kind"] != after["kind"]:
        told.append(f"{kinds[after['kind']]} instead of {kinds[before['kind']]}")
    told += [
        f"{new} instead of {old}" for old, new in ((then.vcpus, now.vcpus), (then.memory, now.memory)) if old != new
    ]
    if UNCONSTRAINED in (before["kind"], after["kind"]) and before["kind"] == after["kind"]:
        told += _suggested(before, after)
    if then.speed != now.speed:
        told.append(f"CPU speed {now.speed or 'not set'} instead of {then.speed or 'not set'}")
    if before["dynamic_scaling"] != after["dynamic_scaling"]:
        told.append("live scaling allowed" if after["dynamic_scaling"] else "live scaling not allowed any more")
    return told + _tags(before, after)


def _suggested(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    pairs = (("vcpus", "vCPUs", _range), ("memory_mib", "memory", _memory))
    return [
        f"suggested {name} {as_words(after[field], None)} instead of {as_words(before[field], None)}"
        for field, name, as_words in pairs
        if before[field] != after[field]
    ]


def _tags(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    told = []
    for field, name in (("host_tags", "host tag"), ("soft_host_tags", "preferred host tag")):
        was, has = set(before[field]), set(after[field])
        told += [f"{name} {tag} added" for tag in sorted(has - was)]
        told += [f"{name} {tag} taken away" for tag in sorted(was - has)]
    return told
