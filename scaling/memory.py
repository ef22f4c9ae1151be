"""How a VM gets more or less memory while it runs, on hypervisors that have virtio-mem, DIMMs and a balloon. No Django.

What it has is: of its boot memory what the balloon leaves it, what is requested of its virtio-mem devices, and its
DIMMs. Growing: the balloon first gives back what it holds (only while nothing of virtio-mem is plugged: libvirt's
``virDomainSetMemory`` counts boot memory alone), then virtio-mem in its blocks, then one DIMM in steps of 128 MiB, for
which a slot and room below ``maxMemory`` are needed. Shrinking: virtio-mem, then the balloon, never a DIMM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloudops.hypervisors.port import Kind, MemoryDevice, MemoryModel, ResizeKind, ResizeStep, ScalingFacts
from scaling import memory_hot_add
from scaling.values import GuestSupport, Reach, Reason, Resource, ResourcePlan, Subject
from scaling.vcpus import WAYS_OUT

DIMM_MIB: Final = 128
"""Linux takes memory in such blocks; a DIMM of another size is lost, and every later one with it."""
LEAST_RESERVE_MIB: Final = 64
RESERVE_PERCENT: Final = 10
RESTARTS: Final = ("restart-now", "next-start")
Steps = tuple[ResizeStep, ...]
Resolved = tuple[Reach, int, Steps, Reason | None]


def up(value: int, step: int) -> int:
    """The next whole number of steps."""
    return -(-value // step) * step


def down(value: int, step: int) -> int:
    """The whole number of steps that is not above it."""
    return value // step * step


def floor_mib(used_mib: int) -> int:
    """What a guest that uses so much must be left with."""
    return used_mib + max(LEAST_RESERVE_MIB, up(used_mib * RESERVE_PERCENT, 100) // 100)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a VM's memory consists of now, and how far each part goes. Make it with :meth:`of`.

    ``current`` is what the VM is meant to have, whether its guest has taken it yet or not; ``in_balloon`` and
    ``unplugged`` what balloon and virtio-mem could still give, ``dimm_room`` what DIMMs could if there is a slot;
    ``ceiling`` the most that it can have without a restart, ``step`` in which steps it grows. ``behind``: how much of
    what is requested of virtio-mem the guest has not taken (or, below zero, not given back).
    """

    boot: int
    balloon: int
    has_balloon: bool
    virtio: tuple[MemoryDevice, ...]
    plugged: int
    dimms: int
    dimm_room: int
    free_slots: int
    slots: int
    current: int
    in_balloon: int
    unplugged: int
    ceiling: int
    step: int
    behind: int

    @classmethod
    def of(cls, facts: ScalingFacts, memory_mib: int) -> Parts:
        """``memory_mib``: what it has in all, for a hypervisor that does not tell its boot memory."""
        virtio, plugged, taken, unplugged, dimms, sizes, block = [], 0, 0, 0, 0, 0, 1
        for one in facts.memory_devices:
            sizes += one.size_mib
            if one.model is MemoryModel.DIMM:
                dimms += one.size_mib
                continue
            virtio.append(one)
            plugged, taken = plugged + one.requested_mib, taken + one.current_mib
            unplugged, block = unplugged + left(one), max(block, one.block_mib)
        boot = facts.boot_memory_mib or max(0, memory_mib - dimms - plugged)
        balloon = min(boot, facts.balloon_mib or boot)
        in_balloon = boot - balloon if facts.has_balloon and not plugged and not taken else 0
        room = max(0, down(facts.dimm_limit_mib - boot - sizes, DIMM_MIB)) if facts.memory_slots else 0
        free_slots = max(0, facts.memory_slots - facts.memory_slots_used)
        current = balloon + plugged + dimms
        by_dimms = room if free_slots else 0
        return cls(
            boot=boot,
            balloon=balloon,
            has_balloon=facts.has_balloon,
            virtio=tuple(virtio),
            plugged=plugged,
            dimms=dimms,
            dimm_room=room,
            free_slots=free_slots,
            slots=facts.memory_slots,
            current=current,
            in_balloon=in_balloon,
            unplugged=unplugged,
            ceiling=current + in_balloon + unplugged + by_dimms,
            step=block if virtio else DIMM_MIB if by_dimms and not in_balloon else 1,
            behind=plugged - taken,
        )


def left(device: MemoryDevice) -> int:
    """How much more can be requested of a virtio-mem device."""
    return max(0, down(device.size_mib - device.requested_mib, device.block_mib))


def current_mib(facts: ScalingFacts | None, reported_mib: int) -> int:
    """What a VM is meant to have, as its facts add up; what is reported where they do not tell of parts."""
    if facts is None or not facts.balloon_mib:
        return reported_mib
    return Parts.of(facts, reported_mib).current


def parts_of(subject: Subject) -> Parts | None:
    """None where memory has no such parts: nothing is told of them, or the platform changes it as a whole."""
    if subject.facts is None or subject.kind is Kind.VSPHERE:
        return None
    return Parts.of(subject.facts, subject.size.memory_mib)


def judge(subject: Subject, wanted_mib: int) -> tuple[ResourcePlan, Steps]:
    """The verdict on this much memory for the VM as it runs, and the changes that make it so, in their order."""
    facts = subject.facts
    if facts is None:
        same = wanted_mib == subject.size.memory_mib
        reasons = () if same else (Reason("no-facts", {}, ("restart-now", "sync")),)
        reach = Reach.SAME if same else Reach.RESTART
        size = subject.size.memory_mib
        return ResourcePlan(Resource.MEMORY, reach, size, wanted_mib, wanted_mib, reasons=reasons), ()
    parts = parts_of(subject)
    if parts is None:
        return memory_hot_add.judge(subject, facts, wanted_mib)
    reach, given, steps, reason = _resolve(subject, parts, wanted_mib)
    return _plan(subject, parts, reach, wanted_mib, given, reason), steps


def outcome(subject: Subject, parts: Parts | None, wanted_mib: int) -> tuple[Reach, int]:
    """The verdict and what is given alone, for those who ask many times with the same :func:`parts_of`."""
    if parts is None:
        plan, _ = judge(subject, wanted_mib)
        return plan.reach, plan.given
    return _resolve(subject, parts, wanted_mib)[:2]


def _resolve(subject: Subject, parts: Parts, wanted_mib: int) -> Resolved:
    if wanted_mib > parts.current:
        if wanted_mib > parts.ceiling:
            return Reach.RESTART, wanted_mib, (), _ceiling(parts, wanted_mib)
        return _grow(subject, parts, wanted_mib)
    if wanted_mib < parts.current:
        return _shrink(subject, parts, wanted_mib)
    return Reach.SAME, wanted_mib, (), None


def _ceiling(parts: Parts, wanted_mib: int) -> Reason:
    numbers = {"current": parts.current, "ceiling": parts.ceiling, "wanted": wanted_mib}
    if not parts.free_slots and wanted_mib <= parts.ceiling + parts.dimm_room:
        return Reason("memory-slots", {**numbers, "slots": parts.slots}, WAYS_OUT)
    return Reason("memory-ceiling", numbers, WAYS_OUT)


def _grow(subject: Subject, parts: Parts, wanted_mib: int) -> Resolved:
    need = wanted_mib - parts.current
    steps: list[ResizeStep] = []
    given = parts.current
    back = min(need, parts.in_balloon)
    if back:
        steps.append(ResizeStep(ResizeKind.BALLOON, parts.balloon + back))
        given, need = given + back, need - back
    dimm = up(max(0, need - parts.unplugged), DIMM_MIB)
    rest = max(0, need - dimm)
    for device in parts.virtio:
        more = min(left(device), up(rest, device.block_mib))
        if more:
            steps.append(ResizeStep(ResizeKind.VIRTIO_MEM, device.requested_mib + more, device.alias))
            given, rest = given + more, max(0, rest - more)
    if dimm:
        steps.append(ResizeStep(ResizeKind.DIMM, dimm, _free_alias(subject)))
        given += dimm
    return Reach.LIVE, given, tuple(steps), None


def _free_alias(subject: Subject) -> str:
    """libvirt takes names that begin with ``ua-`` from its users."""
    taken = {one.alias for one in subject.facts.memory_devices} if subject.facts else set()
    number = next(number for number in range(len(taken) + 1) if f"ua-dimm{number}" not in taken)
    return f"ua-dimm{number}"


def _shrink(subject: Subject, parts: Parts, wanted_mib: int) -> Resolved:
    cut, given, steps = parts.current - wanted_mib, parts.current, []
    obstacle = _in_use(subject, parts, wanted_mib)
    for device in () if obstacle else reversed(parts.virtio):
        less = down(min(device.requested_mib, cut), device.block_mib)
        if less:
            steps.append(ResizeStep(ResizeKind.VIRTIO_MEM, device.requested_mib - less, device.alias))
            given, cut = given - less, cut - less
    if not obstacle and cut and given == parts.balloon + parts.dimms:  # nothing of virtio-mem is left
        obstacle = _balloon_obstacle(subject, parts, wanted_mib, cut)
        if obstacle is None:
            steps.append(ResizeStep(ResizeKind.BALLOON, parts.balloon - cut))
            given = wanted_mib
    if obstacle is not None and not (parts.dimms and cut < DIMM_MIB):  # so much less than a DIMM was rounded up once
        return Reach.RESTART, wanted_mib, (), obstacle
    return (Reach.LIVE if steps else Reach.SAME), given, tuple(steps), None


def _in_use(subject: Subject, parts: Parts, wanted_mib: int) -> Reason | None:
    used = subject.used_mib
    if used is None or wanted_mib >= (floor := floor_mib(used)):
        return None
    numbers = {"current": parts.current, "wanted": wanted_mib, "used": used, "floor": floor}
    return Reason("memory-in-use", numbers, ("larger-size", "free-guest-memory", *RESTARTS))


def _balloon_obstacle(subject: Subject, parts: Parts, wanted_mib: int, cut: int) -> Reason | None:
    numbers = {"current": parts.current, "wanted": wanted_mib}
    if cut >= parts.balloon:
        return Reason("dimm-stays", {**numbers, "dimms": parts.dimms}, RESTARTS)
    if not parts.has_balloon:
        return Reason("no-balloon", {**numbers, "boot": parts.boot}, RESTARTS)
    if parts.behind < 0:
        return Reason("guest-keeps-memory", {**numbers, "kept": -parts.behind}, ("free-guest-memory", *RESTARTS))
    if subject.used_mib is None:
        return Reason("memory-use-unknown", numbers, RESTARTS)
    return None


def _guest(subject: Subject, parts: Parts) -> GuestSupport:
    if parts.behind:
        return GuestSupport.NO
    if parts.virtio:
        return GuestSupport.YES if subject.virtio_mem_seen or parts.plugged else GuestSupport.UNKNOWN
    return GuestSupport.YES if parts.has_balloon and subject.used_mib is not None else GuestSupport.UNKNOWN


def _plan(
    subject: Subject, parts: Parts, reach: Reach, wanted: int, given: int, reason: Reason | None = None
) -> ResourcePlan:
    reasons = [] if reason is None else [reason]
    if given != wanted:
        step = parts.step if given - wanted < parts.step else DIMM_MIB
        reasons.append(Reason("memory-rounded", {"wanted": wanted, "given": given, "step": step}))
    if parts.behind:
        asked, taken = parts.plugged, parts.plugged - parts.behind
        reasons.append(Reason("guest-behind", {"requested": asked, "taken": taken}, ("wait-for-guest",)))
    return ResourcePlan(
        Resource.MEMORY,
        reach,
        current=parts.current,
        wanted=wanted,
        given=given,
        ceiling=parts.ceiling,
        step=parts.step,
        free_slots=parts.free_slots,
        guest=_guest(subject, parts),
        reasons=tuple(reasons),
    )
