"""How a VM gets more memory on vSphere, which only adds, as a whole (``memoryMB``). No Django.

``memoryHotAddEnabled`` and ``hotPlugMemoryLimit``, ``hotPlugMemoryIncrementSize`` of VirtualMachineConfigInfo; at most
16 times the size at power-on; a Linux guest that began with 3 GiB or less cannot pass 3 GiB (VMware KB 2020846).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cloudops.hypervisors.port import Kind, ResizeKind, ResizeStep, ScalingFacts
from scaling.values import Reach, Reason, Resource, ResourcePlan, Size, Subject
from scaling.vcpus import WAYS_OUT

MOST_TIMES: Final = 16
LINUX_WALL_MIB: Final = 3_072
LINUXES: Final = (
    *("linux", "ubuntu", "debian", "centos", "red hat", "rhel", "suse", "sles", "fedora", "rocky", "alma", "photon"),
    *("coreos",),
)
STEP_MIB: Final = 4
"""vSphere takes no other sizes than multiples of this, also of a VM that is off."""
RESTARTS: Final = ("restart-now", "next-start")


def started_with(subject: Subject, wanted_mib: int) -> int:
    """What a VM that is started anew gets for so much: on vSphere a whole number of its steps."""
    return -(-wanted_mib // STEP_MIB) * STEP_MIB if subject.kind is Kind.VSPHERE else wanted_mib


def size_started_with(subject: Subject, size: Size) -> Size:
    """The same of a whole size."""
    return replace(size, memory_mib=started_with(subject, size.memory_mib))


def judge(subject: Subject, facts: ScalingFacts, wanted_mib: int) -> tuple[ResourcePlan, tuple[ResizeStep, ...]]:
    """The verdict on this much memory for the VM as it runs, and the one change that makes it so."""
    current, step = subject.size.memory_mib, facts.memory_step_mib or 1
    ceiling, wall = _ceiling(subject, facts)
    given = current - (current - wanted_mib) // step * step if wanted_mib > current - step else wanted_mib
    reason = None
    numbers = {"current": current, "ceiling": ceiling, "wanted": wanted_mib}
    if given < current:
        reason = Reason("no-live-shrink", {"current": current, "wanted": wanted_mib}, RESTARTS)
    elif given > current and not facts.memory_hot_add:
        reason = Reason("memory-hot-add-off", {"wanted": wanted_mib}, RESTARTS)
    elif given > max(ceiling, current):
        reason = Reason("linux-wall" if wall else "memory-ceiling", numbers, WAYS_OUT)
    reach = Reach.SAME if given == current else Reach.RESTART if reason else Reach.LIVE
    if reach is Reach.RESTART:
        given, step = started_with(subject, wanted_mib), STEP_MIB
    reasons = [] if reason is None else [reason]
    if given != wanted_mib:
        reasons.append(rounded(wanted_mib, given, step))
    plan = ResourcePlan(
        Resource.MEMORY,
        reach,
        current,
        wanted_mib,
        given,
        ceiling=ceiling,
        step=facts.memory_step_mib or 1,
        reasons=tuple(reasons),
    )
    return plan, (ResizeStep(ResizeKind.MEMORY, given),) if reach is Reach.LIVE else ()


def rounded(wanted_mib: int, given_mib: int, step_mib: int) -> Reason:
    """That it gets somewhat more than was asked for."""
    return Reason("memory-rounded", {"wanted": wanted_mib, "given": given_mib, "step": step_mib})


def _ceiling(subject: Subject, facts: ScalingFacts) -> tuple[int, bool]:
    """The most it can have, and whether it is Linux that keeps it there."""
    current = subject.size.memory_mib
    if not facts.memory_hot_add:
        return current, False
    boot = facts.boot_memory_mib or current
    most = min(facts.max_memory_mib, boot * MOST_TIMES)
    if boot <= LINUX_WALL_MIB < most and any(name in subject.guest_os.lower() for name in LINUXES):
        return max(LINUX_WALL_MIB, current), True
    return max(most, current), False
