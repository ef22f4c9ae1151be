"""Sentences for people: why a size is reached as it is, and the ways out. No Django.

``for_tenant`` takes a plan and gives one that its VM's tenant may see, for the same functions: it names no host and
tells nothing of what others have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from scaling.values import Plan, Reach, Reason, Resource, ResourcePlan

Numbers = Mapping[str, Any]
Words = str | Callable[[Numbers], str]

REMEDIES: Final[Mapping[str, str]] = {
    "smaller-size": "Choose a smaller size.",
    "larger-size": "Choose a larger size.",
    "other-offering": "Choose another offering.",
    "restart-now": "Restart the VM with the new size now.",
    "next-start": "Let it have the new size, and room to grow, when it is started next.",
    "free-guest-memory": "Free memory inside the guest, then ask again.",
    "wait-for-guest": "Check that the guest has the virtio-mem driver and puts new memory on line.",
    "wait": "Wait until it has ended.",
    "sync": "Refresh the VM's host.",
    "bring-host-back": "Bring the host back, or wait until it is reachable.",
    "resume": "Resume the VM first.",
    "power-off": "Power the VM off, or start it anew, first.",
    "make-room": "Make room: move other VMs away, or open another host.",
    "ask-for-quota": "Make other VMs of the project smaller, or ask an administrator for more.",
    "allow-installation": "An administrator can allow live scaling in the settings.",
    "allow-vm": "Allow live scaling on the VM.",
}
TENANT_REMEDIES: Final[Mapping[str, str]] = {
    "make-room": "Try again later, or ask an administrator to make room.",
    "sync": "Try again in a minute, or ask an administrator to look at the VM's host.",
    "bring-host-back": "Wait, or ask an administrator.",
    "allow-installation": "Ask an administrator whether live scaling may be allowed.",
}


def mib(value: Any) -> str:
    return f"{int(value):,} MiB"


def vcpus(value: Any) -> str:
    return "1 vCPU" if int(value) == 1 else f"{int(value):,} vCPUs"


def mhz(value: Any) -> str:
    return f"{int(value):,} MHz"


def are(value: Any) -> str:
    return "is" if int(value) == 1 else "are"


def _host(numbers: Numbers) -> str:
    return str(numbers.get("host") or "its host")


def _host_first(numbers: Numbers) -> str:
    return str(numbers.get("host") or "Its host")


def _free(numbers: Numbers, unit: Callable[[Any], str]) -> str:
    if "free" not in numbers:
        return "Its host has no room for that."
    needed = numbers["needed"]
    return f"{_host_first(numbers)} has {unit(numbers['free'])} free; {unit(needed)} more would be needed."


def _slots(numbers: Numbers) -> str:
    slots = int(numbers["slots"])
    taken = "Its only memory slot is taken" if slots == 1 else f"All {slots} of its memory slots are taken"
    most = f"it can have {mib(numbers['ceiling'])} while it runs; {mib(numbers['wanted'])} are wanted."
    return f"{taken if slots else 'It was started without memory slots'}, so {most}"


def _behind(numbers: Numbers) -> str:
    requested, taken = int(numbers["requested"]), int(numbers["taken"])
    if taken > requested:
        return f"Its guest has not given back {mib(taken - requested)} that were taken from it before."
    return f"Its guest has taken {mib(taken)} of the {mib(requested)} that it was given beyond its boot memory."


def _stay(numbers: Numbers) -> str:
    removable = int(numbers["removable"])
    if not removable:
        return "None of its vCPUs can be taken away while it runs."
    less = int(numbers["current"]) - removable
    return f"Only {removable} of its vCPUs can be taken away while it runs: it could go down to {less}."


def _tags(numbers: Numbers) -> str:
    if "missing" not in numbers:
        return "Its host is not of the kind that this offering asks for."
    names = list(numbers["missing"])
    return (
        f"{numbers['offering']} asks for hosts with the {'tags' if len(names) > 1 else 'tag'} {', '.join(names)},"
        f" which {_host(numbers)} does not carry."
    )


SENTENCES: Final[Mapping[str, Words]] = {
    "installation-not-dynamic": "Live scaling is switched off in the settings.",
    "vm-not-dynamic": "Live scaling is switched off for this VM.",
    "offering-not-dynamic": lambda n: f"VMs are not resized to {n['offering']} while they run.",
    "offering-disabled": lambda n: f"{n['offering']} cannot be chosen any more.",
    "not-reported": lambda n: f"{_host_first(n)} does not report this VM any more.",
    "host-down": lambda n: f"{_host_first(n)} cannot be reached.",
    "power-unknown": "It is not known whether it runs.",
    "paused": "It is paused.",
    "crashed": "It has crashed.",
    "busy": lambda n: (
        f"“{n['operation']}” is at work on it." if n.get("operation") else "An operation is at work on it."
    ),
    "no-facts": "Its hypervisor does not tell how far it can grow while it runs.",
    "vcpu-ceiling": lambda n: (
        f"It can grow to {vcpus(n['ceiling'])} while it runs; {vcpus(n['wanted'])} {are(n['wanted'])} wanted."
    ),
    "memory-ceiling": lambda n: f"It can grow to {mib(n['ceiling'])} while it runs; {mib(n['wanted'])} are wanted.",
    "memory-slots": _slots,
    "linux-wall": lambda n: (
        f"Linux that was started with {mib(3_072)} or less cannot grow past {mib(n['ceiling'])} while it runs; "
        f"{mib(n['wanted'])} are wanted."
    ),
    "vcpus-stay": _stay,
    "no-live-shrink": "Its platform takes nothing away from a VM that runs.",
    "cpu-hot-add-off": "CPU hot add is switched off for it; that can be changed only while it is off.",
    "memory-hot-add-off": "Memory hot add is switched off for it; that can be changed only while it is off.",
    "memory-rounded": lambda n: f"Its guest gets memory in steps of {mib(n['step'])}, so it gets {mib(n['given'])}.",
    "memory-in-use": lambda n: (
        f"Its guest uses {mib(n['used'])} and must keep {mib(n['floor'])}; {mib(n['wanted'])} would not be enough."
    ),
    "memory-use-unknown": "Its guest does not tell how much memory it uses, so none is taken from it while it runs.",
    "no-balloon": lambda n: (
        f"It was started with {mib(n['boot'])} and has no memory balloon, so it cannot get less while it runs."
    ),
    "dimm-stays": lambda n: f"{mib(n['dimms'])} of its memory are DIMMs, which cannot be taken away while it runs.",
    "guest-keeps-memory": lambda n: f"Its guest has not given back {mib(n['kept'])} that it was asked for before.",
    "guest-behind": _behind,
    "speed-not-enforced": lambda n: (
        f"{_host_first(n)} does not weigh the CPUs of running VMs: the speed is recorded, not enforced on this host."
    ),
    "speed-above-host": lambda n: (
        f"{mhz(n['wanted'])} are more than one CPU of {_host(n)} has ({mhz(n['host_mhz'])}); it gets what there is."
        if "host_mhz" in n
        else f"{mhz(n['wanted'])} are more than one CPU of its host has; it gets what there is."
    ),
    "host-speed-unknown": lambda n: f"The CPU speed of {_host(n)} is not known, so no hard limit is set.",
    "host-tags": _tags,
    "beyond-host-vcpus": lambda n: (
        f"{_host_first(n)} has {n['whole']:,} CPU threads in all; {vcpus(n['wanted'])} are wanted."
        if "whole" in n
        else "Its host is smaller than that."
    ),
    "beyond-host-memory": lambda n: (
        f"{_host_first(n)} has {mib(n['whole'])} in all; {mib(n['wanted'])} are wanted."
        if "whole" in n
        else "Its host is smaller than that."
    ),
    "host-closed": lambda n: f"{_host_first(n)} takes nothing more: it is cordoned, held or not reachable.",
    "no-room-vcpus": lambda n: _free(n, vcpus),
    "no-room-memory": lambda n: _free(n, mib),
    "no-room-elsewhere": "No other host can take it with this size.",
    "quota-vcpus": lambda n: f"The project's quota leaves it {vcpus(n['left'])}; {vcpus(n['wanted'])} are wanted.",
    "quota-memory": lambda n: f"The project's quota leaves it {mib(n['left'])}; {mib(n['wanted'])} are wanted.",
}


def sentence(reason: Reason, subject_name: str = "") -> str:
    """The reason in a sentence; ``subject_name`` says of which VM where that is not plain from the place."""
    words = SENTENCES[reason.code]
    said = words if isinstance(words, str) else words(reason.numbers)
    return f"{subject_name}: {said}" if subject_name else said


def remedy(code: str, *, tenant: bool = False) -> str:
    """One way out, in a sentence."""
    return TENANT_REMEDIES.get(code, REMEDIES[code]) if tenant else REMEDIES[code]


def remedies(plan: Plan, *, tenant: bool = False) -> tuple[str, ...]:
    """Every way out that the plan's reasons name, each once."""
    codes = dict.fromkeys(code for reason in plan.reasons for code in reason.remedies)
    return tuple(remedy(code, tenant=tenant) for code in codes)


REACH_WORDS: Final[Mapping[Reach, str]] = {
    Reach.SAME: "has this size",
    Reach.NOW: "now, it is off",
    Reach.LIVE: "live",
    Reach.MOVE: "live, after a move",
    Reach.RESTART: "with a restart",
    Reach.IMPOSSIBLE: "not possible",
}


def headline(plan: Plan) -> str:
    """How the size is reached, in one sentence."""
    size = f"{vcpus(plan.given.vcpus)} and {mib(plan.given.memory_mib)}"
    if plan.reach is Reach.SAME:
        return f"It has {size} already."
    if plan.reach is Reach.NOW:
        where = " after it has been moved to another host" if plan.moves else ""
        return f"It is off: it is given {size}{where} and has them when it starts."
    if plan.reach is Reach.LIVE:
        return f"It can be given {size} while it runs."
    if plan.reach is Reach.MOVE:
        return f"It can be given {size} while it runs, once it has moved to another host."
    if plan.reach is Reach.RESTART:
        where = " on another host" if plan.moves else ""
        return f"It can be given {size} only with a restart{where}."
    return f"It cannot be given {size}."


TENANT_NUMBERS: Final[Mapping[str, frozenset[str]]] = {
    "host-tags": frozenset(),
    "no-room-vcpus": frozenset({"needed"}),
    "no-room-memory": frozenset({"needed"}),
    "speed-above-host": frozenset({"wanted"}),
    "beyond-host-vcpus": frozenset({"wanted"}),
    "beyond-host-memory": frozenset({"wanted"}),
    "busy": frozenset(),
}
"""What tenants may know of these; of all others everything but the host's name."""


def for_tenant(plan: Plan) -> Plan:
    """The plan as the VM's tenant may see it; its basis, which names the host, is left out."""
    return replace(plan, resources=tuple(_for_tenant(part) for part in plan.resources), basis={})


def _for_tenant(part: ResourcePlan) -> ResourcePlan:
    ceiling = None if part.resource is Resource.CPU_SPEED else part.ceiling
    reasons = tuple(tenant_reason(one) for one in part.reasons)
    return replace(part, ceiling=ceiling, free_here=None, reasons=reasons)


def tenant_reason(reason: Reason) -> Reason:
    """The reason without what is none of a tenant's business."""
    known = TENANT_NUMBERS.get(reason.code)
    kept = {
        name: value for name, value in reason.numbers.items() if name != "host" and (known is None or name in known)
    }
    return replace(reason, numbers=kept)


def changes_words(changes: Sequence[Any]) -> tuple[str, ...]:
    """What is different now from what a plan rested on: ``name``, ``was``, ``now`` of each in a sentence."""
    return tuple(f"{one.name}: {one.was}, now {one.now}." for one in changes)
