"""How a CPU speed becomes a share of CPU time, and a hard limit. No Django.

**Shares.** libvirt hands ``cpu_shares`` to the kernel as it is: cgroup v1 takes 2 to 262,144 (``cpu.shares``), cgroup
v2 takes 1 to 10,000 (``cpu.weight``). One share stands for 10 MHz of the whole VM, held within 2 and 10,000, which both
take: a VM of 2 vCPUs of 500 MHz has 100 shares. When CPUs are scarce, VMs with a speed get time in the proportion of
their MHz up to 100 GHz for one VM; when CPUs are idle everybody gets what they want. A VM without a speed has the
kernel's default.

**Limit.** With a hard limit the VM gets, of one of the host's threads, ``vCPUs x MHz / host's MHz`` in percent, and
never more than its vCPUs could use: libvirt ``global_quota``, vSphere ``cpuAllocation.limit``.
"""

from __future__ import annotations

from typing import Final

from cloudops.hypervisors.port import ResizeKind, ResizeStep
from scaling.values import GuestSupport, Reach, Reason, Resource, ResourcePlan, Size, Subject

MHZ_PER_SHARE: Final = 10
LEAST_SHARES: Final = 2
MOST_SHARES: Final = 10_000


def shares(size: Size) -> int:
    """Shares of CPU time for the whole VM; 0 where no speed is asked for."""
    if not size.cpu_mhz:
        return 0
    return max(LEAST_SHARES, min(MOST_SHARES, round(size.cpu_mhz * size.vcpus / MHZ_PER_SHARE)))


def quota_percent(size: Size, host_mhz: int) -> int:
    """Percent of one thread that the whole VM may use; 0: no limit is asked for, or the host's speed is not known."""
    if not size.cpu_cap or not size.cpu_mhz or not host_mhz:
        return 0
    return max(1, round(100 * size.vcpus * min(size.cpu_mhz, host_mhz) / host_mhz))


def judge(subject: Subject, wanted: Size) -> tuple[ResourcePlan, tuple[ResizeStep, ...]]:
    """The verdict on this speed for this many vCPUs: always possible while the VM runs, but perhaps without effect."""
    share, quota = shares(wanted), quota_percent(wanted, subject.host_mhz)
    same = _has(subject, wanted, share, quota)
    plan = ResourcePlan(
        Resource.CPU_SPEED,
        Reach.SAME if same else Reach.LIVE,
        current=subject.size.cpu_mhz,
        wanted=wanted.cpu_mhz,
        given=wanted.cpu_mhz,
        ceiling=subject.host_mhz or None,
        guest=GuestSupport.YES,
        reasons=_reasons(subject, wanted),
    )
    return plan, () if same else (ResizeStep(ResizeKind.CPU, share, quota_percent=quota),)


def _has(subject: Subject, wanted: Size, share: int, quota: int) -> bool:
    facts, size = subject.facts, subject.size
    if facts is not None and (facts.cpu_shares, facts.cpu_quota_percent) == (share, quota):
        return size.cpu_mhz == wanted.cpu_mhz or not wanted.cpu_mhz
    recorded = (size.vcpus, size.cpu_mhz, size.cpu_cap) == (wanted.vcpus, wanted.cpu_mhz, wanted.cpu_cap)
    # Where the host weighs no CPUs there is nothing but the record to compare with.
    return recorded and (facts is None or not subject.cpu_control or not facts.cpu_shares)


def _reasons(subject: Subject, wanted: Size) -> tuple[Reason, ...]:
    if not wanted.cpu_mhz:
        return ()
    found = []
    if not subject.cpu_control:
        found.append(Reason("speed-not-enforced", {"wanted": wanted.cpu_mhz, "host": subject.host_name}))
    if subject.host_mhz and wanted.cpu_mhz > subject.host_mhz:
        numbers = {"wanted": wanted.cpu_mhz, "host_mhz": subject.host_mhz, "host": subject.host_name}
        found.append(Reason("speed-above-host", numbers))
    if wanted.cpu_cap and not subject.host_mhz:
        found.append(Reason("host-speed-unknown", {"wanted": wanted.cpu_mhz, "host": subject.host_name}, ("sync",)))
    return tuple(found)
