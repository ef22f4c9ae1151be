"""VMs, wishes and rooms for preflight, in one line each, and what a plan comes to when a platform carries it out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cloudops.hypervisors.port import Kind, MemoryDevice, MemoryModel, PowerState, ResizeKind, ScalingFacts
from scaling.values import Plan, Room, Size, Subject, Wanted

BLOCK_MIB = 2


def virtio(size: int, requested: int = 0, current: int | None = None, alias: str = "ua-virtiomem0") -> MemoryDevice:
    taken = requested if current is None else current
    return MemoryDevice(alias, MemoryModel.VIRTIO_MEM, size, requested, taken, BLOCK_MIB)


def dimm(size: int, alias: str = "ua-dimm0") -> MemoryDevice:
    return MemoryDevice(alias, MemoryModel.DIMM, size, size, size, 128)


def facts(boot: int = 512, *devices: MemoryDevice, **values: Any) -> ScalingFacts:
    """A VM with a balloon and up to 4 vCPUs, and no more headroom than its devices."""
    sizes = sum(one.size_mib for one in devices)
    given: dict[str, Any] = {
        "max_vcpus": 4,
        "max_memory_mib": boot + sizes,
        "boot_memory_mib": boot,
        "balloon_mib": boot,
        "has_balloon": True,
        "dimm_limit_mib": boot + sizes if devices else 0,
        "memory_devices": devices,
    }
    return ScalingFacts(**{**given, **values})


def subject(told: ScalingFacts | None = None, **values: Any) -> Subject:
    """A running VM of 1 vCPU and 512 MiB on a host of 8 threads of 2,000 MHz and 16 GiB."""
    told = facts() if told is None and "facts" not in values else told
    memory = 512
    if told is not None:
        memory = (told.balloon_mib or told.boot_memory_mib) + sum(one.requested_mib for one in told.memory_devices)
    given: dict[str, Any] = {
        "vm": "vm-1",
        "name": "web-7",
        "kind": Kind.LIBVIRT,
        "power_state": PowerState.RUNNING,
        "reported": True,
        "size": Size(1, memory),
        "facts": told,
        "installation_allows": True,
        "vm_allows": True,
        "host": "host-1",
        "host_name": "kvm-1",
        "host_up": True,
        "host_threads": 8,
        "host_memory_mib": 16_384,
        "host_mhz": 2_000,
        "host_tags": frozenset({"linux"}),
    }
    return Subject(**{**given, **values})


def wish(vcpus: int = 1, memory_mib: int = 512, cpu_mhz: int = 0, **values: Any) -> Wanted:
    """A size of an offering that may be had while VMs run."""
    cap = bool(values.pop("cpu_cap", False))
    given: dict[str, Any] = {
        "size": Size(vcpus, memory_mib, cpu_mhz, cap),
        "offering": "offering-1",
        "offering_name": "Middle",
        "offering_version": 1,
        "dynamic": True,
        "enabled": True,
    }
    return Wanted(**{**given, **values})


def place(**values: Any) -> Room:
    """Plenty of room here, none elsewhere, no quota."""
    given: dict[str, Any] = {"free_vcpus": 64, "free_memory_mib": 65_536, "here_open": True, "elsewhere": 0}
    return Room(**{**given, **values})


def codes(plan: Plan) -> list[str]:
    """The codes of all its reasons, the worst resource's first."""
    return [one.code for one in plan.reasons]


def reason(plan: Plan, code: str) -> dict[str, Any]:
    """One reason's numbers."""
    return next(dict(one.numbers) for one in plan.reasons if one.code == code)


def grown(told: ScalingFacts, plan: Plan) -> ScalingFacts:
    """The facts after a plan's steps, for a guest that takes everything at once."""
    devices = {one.alias: one for one in told.memory_devices}
    for step in plan.steps:
        if step.kind is ResizeKind.BALLOON:
            told = replace(told, balloon_mib=step.value)
        elif step.kind is ResizeKind.VIRTIO_MEM:
            devices[step.alias] = replace(devices[step.alias], requested_mib=step.value, current_mib=step.value)
        elif step.kind is ResizeKind.DIMM:
            devices[step.alias] = dimm(step.value, step.alias)
            told = replace(told, memory_slots_used=told.memory_slots_used + 1)
        elif step.kind is ResizeKind.CPU:
            told = replace(told, cpu_shares=step.value, cpu_quota_percent=step.quota_percent)
    return replace(told, memory_devices=tuple(devices.values()))
