"""What simulated hosts do to the size of VMs, by rules of their own: they stand for what a real platform allows.

Memory beside what a VM was started with comes from its virtio-mem devices, or as DIMMs that stay. The balloon works on
boot memory while nothing else is plugged. vCPUs that came while it ran may leave again. A VM whose facts name a
``memory_step_mib`` has no such parts: its memory grows as a whole, as on vSphere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NoReturn

from cloudops.hypervisors.port import (
    CeilingExceeded,
    MemoryDevice,
    MemoryInUse,
    MemoryMisaligned,
    MemoryModel,
    NotSupported,
    ResizeFailed,
    ResizeKind,
    ResizeStep,
    ScalingFacts,
    Shape,
    SlotsExhausted,
    VcpusNotRemovable,
    VmFacts,
)
from cloudops.hypervisors.simulated.guests import Pending, real_mib, used_mib

BLOCK_MIB = 2
DIMM_MIB = 128
VIRTIO_MEM = "ua-virtiomem0"
MOST_SHARES = 262_144
WALL_MIB = 3_072
Changed = tuple[VmFacts, Shape, Pending]


def change(vm: VmFacts, shape: Shape, pending: Pending, step: ResizeStep) -> Changed:
    """The VM, what it is started as and its guest after this step. Raises what a platform would."""
    if vm.scaling is None:
        raise NotSupported(f"The size of {vm.name} cannot be changed here.")
    return _CHANGES[step.kind](vm, vm.scaling, shape, pending, step)


def _vcpus(vm: VmFacts, facts: ScalingFacts, shape: Shape, pending: Pending, step: ResizeStep) -> Changed:
    more = step.value - vm.vcpus
    if step.value < 1:
        raise ResizeFailed("A VM needs a vCPU.")
    if more > 0 and not facts.cpu_hot_add:
        raise ResizeFailed(f"CPU hot plug is not enabled for {vm.name}.")
    if step.value > facts.max_vcpus:
        words = "requested vcpus is greater than max allowable vcpus for the live domain"
        raise CeilingExceeded(f"{words}: {step.value} > {facts.max_vcpus}", numbers=_over(facts.max_vcpus, step))
    if more < 0 and -more > facts.removable_vcpus:
        raise VcpusNotRemovable(f"Only {facts.removable_vcpus} vCPUs of {vm.name} can leave; {-more} should.")
    removable = max(0, facts.removable_vcpus + more)
    after = replace(vm, vcpus=step.value, scaling=replace(facts, removable_vcpus=removable))
    asked = pending.asked("vcpus", pending.value("vcpus", vm.vcpus), step.value) if more else pending
    return after, replace(shape, vcpus=step.value, max_vcpus=max(shape.max_vcpus, step.value)), asked


def _virtio_mem(vm: VmFacts, facts: ScalingFacts, shape: Shape, pending: Pending, step: ResizeStep) -> Changed:
    device = next((one for one in facts.memory_devices if one.alias == step.alias), None)
    if device is None or device.model is not MemoryModel.VIRTIO_MEM:
        raise ResizeFailed(f"{vm.name} has no virtio-mem device {step.alias}.")
    if step.value < 0 or step.value % device.block_mib:
        raise MemoryMisaligned(f"{step.value} MiB are not a whole number of blocks of {device.block_mib} MiB.")
    if step.value > device.size_mib:
        words = "requested size must be smaller than or equal to @size"
        raise CeilingExceeded(f"{words} ({device.size_mib} MiB)", numbers=_over(device.size_mib, step))
    return _ask(vm, facts, replace(shape, virtio_mem_requested_mib=step.value), pending, device, step.value)


def _ask(
    vm: VmFacts, facts: ScalingFacts, shape: Shape, pending: Pending, device: MemoryDevice, requested: int
) -> Changed:
    asked = pending
    if requested != device.requested_mib or requested != device.current_mib:
        asked = pending.asked(device.alias, device.current_mib, requested)
    changed = replace(device, requested_mib=requested)
    devices = tuple(changed if one.alias == device.alias else one for one in facts.memory_devices)
    return replace(vm, scaling=replace(facts, memory_devices=devices)), shape, asked


def _dimm(vm: VmFacts, facts: ScalingFacts, shape: Shape, pending: Pending, step: ResizeStep) -> Changed:
    known = next((one for one in facts.memory_devices if one.alias == step.alias), None)
    if known is not None:
        if known.model is MemoryModel.DIMM and known.size_mib == step.value:
            return vm, shape, pending
        raise ResizeFailed(f"{vm.name} has another device {step.alias} already.")
    if step.value <= 0 or step.value % DIMM_MIB:
        raise MemoryMisaligned(f"A DIMM of {step.value} MiB is not a whole number of blocks of {DIMM_MIB} MiB.")
    limit = facts.dimm_limit_mib
    if limit and facts.memory_slots_used >= facts.memory_slots:
        words = f"memory device count '{facts.memory_slots_used + 1}' exceeds slots count '{facts.memory_slots}'"
        raise SlotsExhausted(words, numbers={"slots": facts.memory_slots, "used": facts.memory_slots_used})
    taken = facts.boot_memory_mib + sum(one.size_mib for one in facts.memory_devices)
    if taken + step.value > limit:
        words = f"Attaching memory device with size '{step.value * 1024}' would exceed domain's maxMemory config size"
        raise CeilingExceeded(f"{words} '{limit * 1024}'", numbers=_over(limit, step))
    dimm = MemoryDevice(step.alias, MemoryModel.DIMM, step.value, step.value, step.value, DIMM_MIB)
    more = replace(facts, memory_devices=(*facts.memory_devices, dimm), memory_slots_used=facts.memory_slots_used + 1)
    return replace(vm, scaling=more, memory_mib=real_mib(more)), _bigger(shape, step.value), pending


def _bigger(shape: Shape, more_mib: int) -> Shape:
    memory = shape.memory_mib + more_mib
    most = max(shape.max_memory_mib, memory + shape.virtio_mem_mib) if shape.max_memory_mib else 0
    return replace(shape, memory_mib=memory, max_memory_mib=most)


def _balloon(vm: VmFacts, facts: ScalingFacts, shape: Shape, pending: Pending, step: ResizeStep) -> Changed:
    if not facts.has_balloon:
        raise NotSupported(f"{vm.name} has no memory balloon.")
    plugged = [one for one in facts.memory_devices if one.model is MemoryModel.VIRTIO_MEM]
    if any(one.requested_mib or one.current_mib for one in plugged):
        raise ResizeFailed(f"The balloon of {vm.name} cannot be moved while memory of virtio-mem is plugged.")
    if step.value < 1:
        raise ResizeFailed("A VM needs memory.")
    if step.value > facts.boot_memory_mib:
        raise CeilingExceeded("cannot set memory higher than max memory", numbers=_over(facts.boot_memory_mib, step))
    used, less = used_mib(facts, pending), step.value < facts.balloon_mib
    left = step.value + sum(one.current_mib for one in facts.memory_devices)
    if less and left < used:
        raise MemoryInUse(f"The guest uses {used} MiB; {left} would be left.", numbers={"used": used, "left": left})
    asked = pending.asked("balloon", facts.balloon_mib, step.value) if step.value != facts.balloon_mib else pending
    after = replace(facts, balloon_mib=step.value)
    defined = replace(shape, memory_mib=shape.memory_mib + step.value - facts.balloon_mib)
    return replace(vm, scaling=after, memory_mib=real_mib(after)), defined, asked


def _memory(vm: VmFacts, facts: ScalingFacts, shape: Shape, pending: Pending, step: ResizeStep) -> Changed:
    more = step.value - vm.memory_mib
    if not facts.memory_step_mib:
        raise NotSupported(f"The memory of {vm.name} is not changed as a whole here.")
    if more < 0:
        raise ResizeFailed(f"{vm.name} gives no memory back while it runs.")
    if more and not facts.memory_hot_add:
        raise ResizeFailed(f"Memory hot plug is not enabled for {vm.name}.")
    if more % facts.memory_step_mib:
        raise MemoryMisaligned(f"{more} MiB are not a whole number of steps of {facts.memory_step_mib} MiB.")
    limit = min(facts.max_memory_mib, 16 * facts.boot_memory_mib)
    if facts.boot_memory_mib <= WALL_MIB and any(one in vm.guest_os for one in ("Linux", "Debian", "Ubuntu")):
        limit = min(limit, WALL_MIB)
    if more and step.value > limit:
        raise CeilingExceeded(f"{vm.name} cannot have more than {limit} MiB.", numbers=_over(limit, step))
    return replace(vm, memory_mib=step.value), replace(shape, memory_mib=step.value), pending


def _cpu(vm: VmFacts, facts: ScalingFacts, shape: Shape, pending: Pending, step: ResizeStep) -> Changed:
    if step.value and not 2 <= step.value <= MOST_SHARES:
        raise ResizeFailed(f"value of '{step.value}' for cpu shares is out of range [2, {MOST_SHARES}].")
    if step.quota_percent < 0:
        raise ResizeFailed("A limit of CPU time cannot be below zero.")
    shares, quota = step.value, step.quota_percent
    after = replace(facts, cpu_shares=shares, cpu_quota_percent=quota)
    return replace(vm, scaling=after), replace(shape, cpu_shares=shares, cpu_quota_percent=quota), pending


_CHANGES: Mapping[ResizeKind, Callable[[VmFacts, ScalingFacts, Shape, Pending, ResizeStep], Changed]] = {
    ResizeKind.VCPUS: _vcpus,
    ResizeKind.VIRTIO_MEM: _virtio_mem,
    ResizeKind.DIMM: _dimm,
    ResizeKind.BALLOON: _balloon,
    ResizeKind.MEMORY: _memory,
    ResizeKind.CPU: _cpu,
}


def _over(limit: int, step: ResizeStep) -> dict[str, object]:
    return {"ceiling": limit, "wanted": step.value}


def shape_of(vm: VmFacts) -> Shape:
    """What a VM is started as whose definition nobody changed."""
    facts = vm.scaling
    if facts is None:
        return Shape(vm.vcpus, vm.vcpus, vm.memory_mib)
    virtio = [one for one in facts.memory_devices if one.model is MemoryModel.VIRTIO_MEM]
    return Shape(
        vcpus=vm.vcpus,
        max_vcpus=facts.max_vcpus,
        memory_mib=facts.boot_memory_mib or vm.memory_mib,
        max_memory_mib=facts.dimm_limit_mib,
        memory_slots=facts.memory_slots,
        virtio_mem_mib=sum(one.size_mib for one in virtio),
        virtio_mem_requested_mib=sum(one.requested_mib for one in virtio),
        cpu_shares=facts.cpu_shares,
        cpu_quota_percent=facts.cpu_quota_percent,
    )


def check(shape: Shape) -> None:
    """Raises :class:`ResizeFailed` for what cannot be defined."""
    if shape.vcpus < 1 or shape.memory_mib < 1:
        _undefinable("it has no vCPU or no memory")
    if shape.max_vcpus < shape.vcpus:
        _undefinable(f"{shape.max_vcpus} vCPUs at most are fewer than {shape.vcpus}")
    if shape.virtio_mem_requested_mib > shape.virtio_mem_mib:
        _undefinable("more is requested of the virtio-mem device than it has")
    if shape.virtio_mem_mib % BLOCK_MIB or shape.virtio_mem_requested_mib % BLOCK_MIB:
        raise MemoryMisaligned(f"A virtio-mem device has blocks of {BLOCK_MIB} MiB.")
    if (shape.virtio_mem_mib or shape.memory_slots) and shape.max_memory_mib < shape.memory_mib + shape.virtio_mem_mib:
        raise CeilingExceeded(f"maxMemory of {shape.max_memory_mib} MiB is less than boot memory and devices.")


def _undefinable(why: str) -> NoReturn:
    raise ResizeFailed(f"Such a VM cannot be defined: {why}.")


def started(vm: VmFacts, shape: Shape) -> VmFacts:
    """The VM as its definition makes it, newly started or off."""
    before = vm.scaling or ScalingFacts(shape.max_vcpus, shape.max_memory_mib)
    requested = shape.virtio_mem_requested_mib
    device = MemoryDevice(VIRTIO_MEM, MemoryModel.VIRTIO_MEM, shape.virtio_mem_mib, requested, requested, BLOCK_MIB)
    most = shape.max_memory_mib if shape.memory_slots else shape.memory_mib + shape.virtio_mem_mib
    facts = replace(
        before,
        max_vcpus=shape.max_vcpus,
        max_memory_mib=max(before.max_memory_mib, shape.memory_mib) if before.memory_step_mib else most,
        memory_slots=shape.memory_slots,
        memory_slots_used=1 if shape.virtio_mem_mib else 0,
        boot_memory_mib=shape.memory_mib,
        balloon_mib=0 if before.memory_step_mib else shape.memory_mib,
        dimm_limit_mib=shape.max_memory_mib,
        memory_devices=(device,) if shape.virtio_mem_mib else (),
        removable_vcpus=0,
        cpu_shares=shape.cpu_shares,
        cpu_quota_percent=shape.cpu_quota_percent,
    )
    memory = shape.memory_mib if before.memory_step_mib else real_mib(facts)
    return replace(vm, vcpus=shape.vcpus, memory_mib=memory, scaling=facts)
