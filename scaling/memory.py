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
Judged = tuple[ResourcePlan, tuple[ResizeStep, ...]]


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
    """What a VM's memory consists of now, and how far each part goes. Make it with :meth:`of`."""

    boot: int
    balloon: int
    balloon_moves: bool
    has_balloon: bool
    virtio: tuple[MemoryDevice, ...]
    dimms: int
    dimm_room: int
    free_slots: int
    slots: int

    @classmethod
    def of(cls, facts: ScalingFacts, memory_mib: int) -> Parts:
        """``memory_mib``: what it has in all, for a hypervisor that does not tell its boot memory."""
        virtio = tuple(one for one in facts.memory_devices if one.model is MemoryModel.VIRTIO_MEM)
        dimms = sum(one.size_mib for one in facts.memory_devices if one.model is MemoryModel.DIMM)
        plugged = sum(one.requested_mib for one in virtio)
        boot = facts.boot_memory_mib or max(0, memory_mib - dimms - plugged)
        room = facts.dimm_limit_mib - boot - sum(one.size_mib for one in facts.memory_devices)
        return cls(
            boot=boot,
            balloon=min(boot, facts.balloon_mib or boot),
            balloon_moves=facts.has_balloon and not any(one.requested_mib or one.current_mib for one in virtio),
            has_balloon=facts.has_balloon,
            virtio=virtio,
            dimms=dimms,
            dimm_room=max(0, down(room, DIMM_MIB)) if facts.memory_slots else 0,
            free_slots=max(0, facts.memory_slots - facts.memory_slots_used),
            slots=facts.memory_slots,
        )

    @property
    def current(self) -> int:
        """What the VM is meant to have at this moment, whether its guest has taken it yet or not."""
        return self.balloon + self.plugged + self.dimms

    @property
    def plugged(self) -> int:
        return sum(one.requested_mib for one in self.virtio)

    @property
    def in_balloon(self) -> int:
        """What the balloon could give back now."""
        return self.boot - self.balloon if self.balloon_moves else 0

    @property
    def unplugged(self) -> int:
        """What virtio-mem could still give."""
        return sum(left(one) for one in self.virtio)

    @property
    def ceiling(self) -> int:
        """The most that it can have without a restart."""
        return self.current + self.in_balloon + self.unplugged + (self.dimm_room if self.free_slots else 0)

    @property
    def step(self) -> int:
        """In which steps it grows from here."""
        if self.virtio:
            return max(one.block_mib for one in self.virtio)
        return DIMM_MIB if self.dimm_room and self.free_slots and not self.in_balloon else 1

    @property
    def behind(self) -> int:
        """How much of what is requested of virtio-mem the guest has not taken (or, below zero, not given back)."""
        return sum(one.requested_mib - one.current_mib for one in self.virtio)


def left(device: MemoryDevice) -> int:
    """How much more can be requested of a virtio-mem device."""
    return down(device.size_mib - device.requested_mib, device.block_mib)


def current_mib(facts: ScalingFacts | None, reported_mib: int) -> int:
    """What a VM is meant to have, as its facts add up; what is reported where they do not tell."""
    if facts is None or not facts.boot_memory_mib:
        return reported_mib
    return Parts.of(facts, reported_mib).current


def judge(subject: Subject, wanted_mib: int) -> Judged:
    """The verdict on this much memory for the VM as it runs, and the changes that make it so, in their order."""
    facts = subject.facts
    if facts is None:
        same = wanted_mib == subject.size.memory_mib
        reasons = () if same else (Reason("no-facts", {}, ("restart-now", "sync")),)
        reach = Reach.SAME if same else Reach.RESTART
        size = subject.size.memory_mib
        return ResourcePlan(Resource.MEMORY, reach, size, wanted_mib, wanted_mib, reasons=reasons), ()
    if subject.kind is Kind.VSPHERE:
        return memory_hot_add.judge(subject, facts, wanted_mib)
    parts = Parts.of(facts, subject.size.memory_mib)
    if wanted_mib == parts.current:
        return _plan(subject, parts, Reach.SAME, wanted_mib, wanted_mib), ()
    return _grow(subject, parts, wanted_mib) if wanted_mib > parts.current else _shrink(subject, parts, wanted_mib)


def _grow(subject: Subject, parts: Parts, wanted_mib: int) -> Judged:
    if wanted_mib > parts.ceiling:
        numbers = {"current": parts.current, "ceiling": parts.ceiling, "wanted": wanted_mib}
        reason = Reason("memory-ceiling", numbers, WAYS_OUT)
        if not parts.free_slots and wanted_mib <= parts.ceiling + parts.dimm_room:
            reason = Reason("memory-slots", {**numbers, "slots": parts.slots}, WAYS_OUT)
        return _plan(subject, parts, Reach.RESTART, wanted_mib, wanted_mib, reason), ()
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
    return _plan(subject, parts, Reach.LIVE, wanted_mib, given), tuple(steps)


def _free_alias(subject: Subject) -> str:
    """libvirt takes names that begin with ``ua-`` from its users."""
    taken = {one.alias for one in subject.facts.memory_devices} if subject.facts else set()
    number = next(number for number in range(len(taken) + 1) if f"ua-dimm{number}" not in taken)
    return f"ua-dimm{number}"


def _shrink(subject: Subject, parts: Parts, wanted_mib: int) -> Judged:
    used = subject.used_mib
    if used is not None and wanted_mib < (floor := floor_mib(used)):
        numbers = {"current": parts.current, "wanted": wanted_mib, "used": used, "floor": floor}
        reason = Reason("memory-in-use", numbers, ("larger-size", "free-guest-memory", *RESTARTS))
        return _plan(subject, parts, Reach.RESTART, wanted_mib, wanted_mib, reason), ()
    cut, given, steps = parts.current - wanted_mib, parts.current, []
    for device in reversed(parts.virtio):
        less = down(min(device.requested_mib, cut), device.block_mib)
        if less:
            steps.append(ResizeStep(ResizeKind.VIRTIO_MEM, device.requested_mib - less, device.alias))
            given, cut = given - less, cut - less
    if cut and given == parts.balloon + parts.dimms:  # nothing of virtio-mem is left
        obstacle = _balloon_obstacle(subject, parts, wanted_mib, cut)
        if obstacle is not None:
            return _plan(subject, parts, Reach.RESTART, wanted_mib, wanted_mib, obstacle), ()
        steps.append(ResizeStep(ResizeKind.BALLOON, parts.balloon - cut))
        given = wanted_mib
    reach = Reach.LIVE if steps else Reach.SAME
    return _plan(subject, parts, reach, wanted_mib, given), tuple(steps)


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
        reasons.append(Reason("memory-rounded", {"wanted": wanted, "given": given, "step": parts.step}))
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
