"""What a plan rested on, sealed: a plan that was shown is only carried out while all of that is still so.

Sealed, not only signed: it names the host and its numbers, and tenants hold it too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudops.core import crypto
from cloudops.core.errors import Invalid, Unavailable
from scaling.values import Plan
from scaling.words import REACH_WORDS, mhz, mib

SALT: Final = "scaling.plan"
MISSING: Final = "not known"


class PlanUnreadable(Invalid):
    code = "plan-unreadable"
    title = "This plan was not made here, or not for this VM."
    remedy = "Ask for the plan again, and confirm that one."


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that the plan rested on, in words: what it was then, and what it is now."""

    name: str
    was: str
    now: str


def token(plan: Plan) -> str:
    """The plan's basis, encrypted and authenticated: safe in a form, of use for this VM only."""
    return crypto.encrypt(json.dumps({"for": SALT, **plan.basis}))


def changes(token: str, plan: Plan) -> list[Change]:
    """What is different now from when the token was made; empty when the plan still stands.

    Raises :class:`PlanUnreadable`.
    """
    try:
        then: dict[str, Any] = json.loads(crypto.decrypt(token))
    except (Unavailable, ValueError) as error:
        raise PlanUnreadable from error
    now = dict(plan.basis)
    if (then.get("for"), then.get("vm")) != (SALT, now.get("vm")):
        raise PlanUnreadable
    different = [name for name in NAMES if then.get(name) != now.get(name)]
    return _told(different, then, now)


def _told(different: list[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """In words; of a host only its name, of an offering only its version."""
    found = []
    for name in different:
        label, words = NAMES[name]
        was, is_now = (_words(words, values.get(name)) for values in (then, now))
        if was == is_now:
            was, is_now = "as it was", "another"
        found.append(Change(label, was, is_now))
    return found


def _words(words: Callable[[Any], str], value: Any) -> str:
    return MISSING if value is None else words(value)


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _names(value: Any) -> str:
    return ", ".join(value) or "none"


def _speed(value: Any) -> str:
    return mhz(value) if value else "no share"


def _devices(value: Any) -> str:
    told = [f"{model} {requested:,} of {size:,} MiB" for _, model, size, requested, _ in value]
    return ", ".join(told) or "none"


def _known(table: Mapping[str, str]) -> Callable[[Any], str]:
    return lambda value: table.get(value, str(value))


USE: Final = {
    "leaves-enough": "would be left with enough",
    "memory-in-use": "needs more than it would be left with",
    "memory-use-unknown": "not known",
}
QUOTA: Final = {"enough": "enough", "quota-vcpus": "too few vCPUs left", "quota-memory": "too little memory left"}
ROOM: Final = {"here": "on its host", "elsewhere": "on another host", "none": "nowhere"}
REACHES: Final = {str(reach): words for reach, words in REACH_WORDS.items()}

NAMES: Final[Mapping[str, tuple[str, Callable[[Any], str]]]] = {
    "reach": ("How the size is reached", _known(REACHES)),
    "power_state": ("Power state", str),
    "reported": ("Reported by its host", _yes),
    "vcpus": ("vCPUs", str),
    "memory_mib": ("Memory", mib),
    "cpu_mhz": ("CPU speed", _speed),
    "cpu_cap": ("Hard CPU limit", _yes),
    "wanted_vcpus": ("Wanted vCPUs", str),
    "wanted_memory_mib": ("Wanted memory", mib),
    "wanted_cpu_mhz": ("Wanted CPU speed", _speed),
    "wanted_cpu_cap": ("Wanted hard CPU limit", _yes),
    "given_memory_mib": ("Memory that it gets", mib),
    "offering": ("Offering", lambda value: "one" if value else "none"),
    "offering_version": ("Offering's version", str),
    "offering_dynamic": ("Offering allows live scaling", _yes),
    "offering_enabled": ("Offering can be chosen", _yes),
    "tags": ("Host tags of the offering", _names),
    "host_tags": ("Of these, on its host", _names),
    "installation_allows": ("Live scaling in the settings", _yes),
    "vm_allows": ("Live scaling of the VM", _yes),
    "host": ("Host", lambda value: "one"),
    "host_name": ("Host's name", str),
    "host_up": ("Host reachable", _yes),
    "host_threads": ("Host's CPU threads", str),
    "host_memory_mib": ("Host's memory", mib),
    "host_mhz": ("Host's CPU speed", mhz),
    "cpu_control": ("Host weighs CPUs of running VMs", _yes),
    "room": ("Room", _known(ROOM)),
    "quota": ("Project's quota", _known(QUOTA)),
    "memory_use": ("Guest's memory", _known(USE)),
    "facts": ("Ceiling told by its hypervisor", _yes),
    "max_vcpus": ("Most vCPUs", str),
    "removable_vcpus": ("vCPUs that can be taken away", str),
    "cpu_hot_add": ("CPU hot add", _yes),
    "memory_hot_add": ("Memory hot add", _yes),
    "max_memory_mib": ("Most memory", mib),
    "boot_memory_mib": ("Boot memory", mib),
    "balloon_mib": ("Boot memory that the balloon leaves it", mib),
    "has_balloon": ("Memory balloon", _yes),
    "dimm_limit_mib": ("Limit of memory devices", mib),
    "memory_slots": ("Memory slots", str),
    "memory_slots_used": ("Memory slots taken", str),
    "memory_step_mib": ("Memory step", mib),
    "memory_devices": ("Memory devices", _devices),
    "cpu_shares": ("CPU shares", str),
    "cpu_quota_percent": ("CPU limit in percent", str),
}
"""Every name in a plan's basis (but the VM's own) with its words; a test holds the two together."""
