"""How a VM gets more or fewer vCPUs. No Django."""

from __future__ import annotations

from typing import Final

from cloudops.hypervisors.port import Kind, ResizeKind, ResizeStep
from scaling.values import Reach, Reason, Resource, ResourcePlan, Subject

WAYS_OUT: Final = ("smaller-size", "restart-now", "next-start")
"""Of every ceiling: less, a restart with the size, or a restart some day that leaves room for the next time."""


def judge(subject: Subject, wanted: int) -> tuple[ResourcePlan, tuple[ResizeStep, ...]]:
    """The verdict on this many vCPUs for the VM as it runs, and the change that makes it so.

    libvirt ``virDomainSetVcpusFlags``: up to the most that it was started with; only as many leave as the platform says
    can. vSphere ``numCPUs``: with CPU hot add only, and never fewer.
    """
    facts, current = subject.facts, subject.size.vcpus
    if wanted == current:
        return _plan(subject, wanted, Reach.SAME), ()
    reason = _obstacle(subject, wanted)
    if facts is None or reason is not None:
        return _plan(subject, wanted, Reach.RESTART, reason or Reason("no-facts", {}, ("restart-now", "sync"))), ()
    return _plan(subject, wanted, Reach.LIVE), (ResizeStep(ResizeKind.VCPUS, wanted),)


def _obstacle(subject: Subject, wanted: int) -> Reason | None:
    facts, current = subject.facts, subject.size.vcpus
    if facts is None:
        return None
    if wanted < current:
        if subject.kind is Kind.VSPHERE:
            return Reason("no-live-shrink", {"current": current, "wanted": wanted}, ("restart-now", "next-start"))
        if current - wanted > facts.removable_vcpus:
            numbers = {"current": current, "wanted": wanted, "removable": facts.removable_vcpus}
            return Reason("vcpus-stay", numbers, ("restart-now", "next-start"))
        return None
    if not facts.cpu_hot_add:
        return Reason("cpu-hot-add-off", {"wanted": wanted}, ("restart-now", "next-start"))
    if wanted > facts.max_vcpus:
        numbers = {"current": current, "ceiling": facts.max_vcpus, "wanted": wanted}
        return Reason("vcpu-ceiling", numbers, WAYS_OUT)
    return None


def _plan(subject: Subject, wanted: int, reach: Reach, reason: Reason | None = None) -> ResourcePlan:
    facts = subject.facts
    ceiling = None
    if facts is not None:
        ceiling = max(facts.max_vcpus, subject.size.vcpus) if facts.cpu_hot_add else subject.size.vcpus
    return ResourcePlan(
        Resource.VCPUS,
        reach,
        current=subject.size.vcpus,
        wanted=wanted,
        given=wanted,
        ceiling=ceiling,
        step=1,
        reasons=(reason,) if reason is not None else (),
    )
