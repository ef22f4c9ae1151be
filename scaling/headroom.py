"""How far a VM can grow while it runs: what is wanted of its ceiling, what it lacks, and how it gets it.

A ceiling is fixed when the VM is started. It is put into the definition when CloudOps starts the VM, or beforehand with
:func:`prepare`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from django.db import transaction

from cloudops.core import events, live, runtime
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.models import RuntimeSettings
from cloudops.core.validation import demand_valid
from cloudops.hypervisors.port import Hypervisor, Kind, PowerState, ScalingFacts, Shape
from cloudops.inventory import endpoints
from cloudops.inventory.models import Cluster, Offering, OfferingKind, Vm
from scaling import cpu, slot, when_off
from scaling.models import ClusterHeadroom, Headroom, VmHeadroom, VmSize
from scaling.values import Size, Subject

KIND: Final = "vm.headroom"
FIELDS: Final = ("memory_factor", "vcpu_factor", "max_memory_mib", "max_vcpus")
MEMORY_SLOTS: Final = 16
MEMORY_STEP_MIB: Final = 2
"""The size of a virtio-mem device is a whole number of its blocks."""
JOINS: Final = ("host__cluster__headroom", "offering", "size", "headroom")
"""What :func:`effective` and :func:`lacks` read without a query when it is joined."""


class Source(enum.StrEnum):
    """Whose setting a ceiling comes from."""

    VM = "vm"
    CLUSTER = "cluster"
    INSTALLATION = "installation"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a VM is to be able to grow to. ``source``: whose setting the memory's comes from; ``capped``: the host has
    no more."""

    max_vcpus: int
    max_memory_mib: int
    source: Source
    vcpu_source: Source = Source.INSTALLATION
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Lack:
    """What a VM's present ceiling misses. ``words`` say it, ``changes`` what preparing changes in its definition;
    ``waits``: it is prepared, and gets it when it is started next."""

    ceiling: Ceiling
    words: tuple[str, ...]
    changes: tuple[str, ...]
    waits: bool


class NotScalable(Conflict):
    code = "vm-not-scalable"
    title = "This VM is not to be scaled live."
    remedy = "Allow live scaling for the VM, and choose an offering with dynamic scaling."


def effective(vm: Vm, *, settings: RuntimeSettings) -> Ceiling:
    """What the VM's ceiling is to be. The VM's own settings come before its cluster's, and those before the
    installation's; at each of them an absolute number comes before a multiple of the largest size of its offering.
    Never less than the VM has, never more than its host.
    """
    base = _base(vm)
    own: Headroom | None = getattr(vm, "headroom", None)
    shared: Headroom | None = getattr(vm.host.cluster, "headroom", None)
    levels: list[tuple[Source, int | None, float | None, int | None, float | None]] = [
        (source, row.max_vcpus, row.vcpu_factor, row.max_memory_mib, row.memory_factor)
        for source, row in ((Source.VM, own), (Source.CLUSTER, shared))
        if row is not None
    ]
    levels.append(
        (
            Source.INSTALLATION,
            settings.scaling_max_vcpus or None,
            settings.scaling_vcpu_factor,
            settings.scaling_max_memory_mib or None,
            settings.scaling_memory_factor,
        )
    )
    vcpus, vcpu_source = _first([(source, most, factor) for source, most, factor, _, _ in levels], base.vcpus)
    memory, source = _first([(source, most, factor) for source, _, _, most, factor in levels], base.memory_mib)
    has_vcpus, has_memory = _has(vm)
    most_vcpus = vm.host.total_cpu_threads or vcpus
    most_memory = vm.host.total_memory_mib or memory
    return Ceiling(
        max_vcpus=max(min(vcpus, most_vcpus), has_vcpus, 1),
        max_memory_mib=max(min(memory, most_memory), has_memory),
        source=source,
        vcpu_source=vcpu_source,
        capped=vcpus > most_vcpus or memory > most_memory,
    )


def effective_with(vm: Vm, offering: Offering | None, size: Size, *, settings: RuntimeSettings) -> Ceiling:
    """The same once the VM has this offering and this size."""
    twin = copy(vm)
    twin.offering, twin.vcpus, twin.memory_mib = offering, size.vcpus, size.memory_mib
    twin._state.fields_cache.pop("size", None)
    twin._state.fields_cache["size"] = None
    return effective(twin, settings=settings)


def _first(levels: list[tuple[Source, int | None, float | None]], base: int) -> tuple[int, Source]:
    for source, absolute, factor in levels:
        if absolute is not None:
            return absolute, source
        if factor is not None:
            return int(base * factor), source
    raise AssertionError("the installation always says something")


def _base(vm: Vm) -> Size:
    """The largest size that the VM's offering gives; where there is no such thing, what the VM was given."""
    vcpus, memory_mib = _has(vm)
    offering: Offering | None = vm.offering
    if offering is None or offering.kind == OfferingKind.UNCONSTRAINED:
        return Size(vcpus, memory_mib)
    return Size(offering.max_vcpus or offering.vcpus, offering.max_memory_mib or offering.memory_mib)


def _has(vm: Vm) -> tuple[int, int]:
    given: VmSize | None = getattr(vm, "size", None)
    if given is None:
        return vm.vcpus, vm.memory_mib
    return max(vm.vcpus, given.vcpus), max(vm.memory_mib, given.memory_mib)


def wants_headroom(vm: Vm, *, settings: RuntimeSettings) -> bool:
    """Whether the VM is one that grows live at all: the installation, the VM and its offering allow it."""
    return settings.scaling_enabled and vm.dynamic_scaling and (vm.offering is None or vm.offering.dynamic_scaling)


def lacks(vm: Vm, *, settings: RuntimeSettings | None = None) -> Lack | None:
    """What the VM's ceiling misses of what it is to be. None: nothing, its hypervisor does not tell, or the VM is not
    to be scaled live. No query when :data:`JOINS` are joined and ``settings`` given."""
    settings = settings or runtime.current()
    if vm.scaling is None or not wants_headroom(vm, settings=settings):
        return None
    facts, ceiling = ScalingFacts.from_json(vm.scaling), effective(vm, settings=settings)
    if facts.memory_step_mib:
        return _lacks_hot_add(vm, facts, ceiling)
    state = "It was started" if vm.power_state in {PowerState.RUNNING, PowerState.PAUSED} else "It is defined"
    words, changes = [], []
    if facts.max_vcpus < ceiling.max_vcpus:
        words.append(f"{state} with room for {facts.max_vcpus} vCPUs; {ceiling.max_vcpus} are wanted.")
        changes.append(f"Room for {ceiling.max_vcpus} vCPUs instead of {facts.max_vcpus}.")
    if facts.max_memory_mib < _aligned(ceiling.max_memory_mib, facts.boot_memory_mib or vm.memory_mib):
        words.append(
            f"{state} with room for {facts.max_memory_mib:,} MiB of memory; {ceiling.max_memory_mib:,} are wanted."
        )
        changes.append(
            f"Room for {ceiling.max_memory_mib:,} MiB instead of {facts.max_memory_mib:,}, with {MEMORY_SLOTS} memory "
            "slots and a virtio-mem device from which it grows. Its guest needs the virtio-mem driver for that."
        )
    if not words:
        return None
    given: VmSize | None = getattr(vm, "size", None)
    return Lack(ceiling, tuple(words), tuple(changes), waits=bool(given is not None and given.next_headroom))


def _lacks_hot_add(vm: Vm, facts: ScalingFacts, ceiling: Ceiling) -> Lack | None:
    """Of a platform that adds CPUs and memory as a whole (vSphere): how far it goes then is the platform's own rule."""
    lacking = [
        what
        for what, on, grows in (
            ("CPU", facts.cpu_hot_add, ceiling.max_vcpus > vm.vcpus),
            ("Memory", facts.memory_hot_add, ceiling.max_memory_mib > vm.memory_mib),
        )
        if grows and not on
    ]
    if not lacking:
        return None
    words = tuple(
        f"{what} hot add is switched off for it; that can be changed only while it is off." for what in lacking
    )
    changes = tuple(f"{what} hot add is switched on as soon as the VM is off." for what in lacking)
    given: VmSize | None = getattr(vm, "size", None)
    return Lack(ceiling, words, changes, waits=bool(given is not None and given.next_headroom))


def shape_for(subject: Subject, size: Size, ceiling: Ceiling) -> Shape:
    """What a VM is started as to have ``size`` and be able to grow to ``ceiling``. All it has is boot memory then."""
    plain = Shape(
        vcpus=size.vcpus,
        max_vcpus=size.vcpus,
        memory_mib=size.memory_mib,
        cpu_shares=cpu.shares(size),
        cpu_quota_percent=cpu.quota_percent(size, subject.host_mhz),
    )
    return with_ceiling(plain, ceiling, kind=subject.kind)


def with_ceiling(shape: Shape, ceiling: Ceiling, *, kind: Kind) -> Shape:
    """``shape`` with room up to ``ceiling``; a ceiling that is higher already stays. vSphere has no devices for that:
    that there is room switches hot add on."""
    if kind is Kind.VSPHERE:
        return replace(
            shape,
            max_vcpus=max(shape.max_vcpus, ceiling.max_vcpus),
            max_memory_mib=max(shape.max_memory_mib, ceiling.max_memory_mib),
        )
    has = max(shape.max_memory_mib, shape.memory_mib + shape.virtio_mem_mib)
    more = _aligned(ceiling.max_memory_mib, shape.memory_mib) - shape.memory_mib
    if more <= shape.virtio_mem_mib:
        return replace(shape, max_vcpus=max(shape.max_vcpus, ceiling.max_vcpus))
    return replace(
        shape,
        max_vcpus=max(shape.max_vcpus, ceiling.max_vcpus),
        virtio_mem_mib=more,
        max_memory_mib=max(has, shape.memory_mib + more),
        memory_slots=max(shape.memory_slots, MEMORY_SLOTS),
    )


def _aligned(ceiling_mib: int, boot_mib: int) -> int:
    """The most that can be had of ``ceiling_mib``: what is above the boot memory comes in whole blocks."""
    return boot_mib + max(0, ceiling_mib - boot_mib) // MEMORY_STEP_MIB * MEMORY_STEP_MIB


def prepare(vm: Vm, *, by: Actor, now: datetime) -> VmSize:
    """Puts the headroom into the VM's definition, in one bounded call: it has it from its next start on.

    Raises :class:`NotScalable`, ``OperationRunning``, ``HostNotUp``, ``VmNotResizable`` and ``HypervisorError``.
    """
    vm = Vm.objects.select_related("host__endpoint", "project", *JOINS).get(pk=vm.pk)
    settings = runtime.current()
    if not wants_headroom(vm, settings=settings):
        raise NotScalable(f"Live scaling is switched off for {vm.name}, its offering or the installation.")
    slot.demand_reported(vm)
    title, step = f"Prepare {vm.name} for live scaling", "Put the headroom into the VM's definition"
    with slot.briefly(vm, kind=KIND, title=title, step=step, by=by, now=now):
        if not when_off.waits(vm):
            define_headroom(vm, effective(vm, settings=settings))
        with transaction.atomic():
            row = size_row(vm, now=now)
            row.next_headroom = vm.power_state not in {PowerState.OFF, PowerState.CRASHED}
            row.next_by_name, row.next_at = by.name[:200], now
            row.save()
            events.record("vm.headroom_prepared", by=by, now=now, subject=vm)
            live.publish("vms", f"vm:{vm.pk}")
    return row


def define_headroom(vm: Vm, ceiling: Ceiling) -> bool:
    """Gives the definition room up to ``ceiling`` if it has less; whether it had. ``vm`` with ``host__endpoint``.
    Raises ``HypervisorError``."""

    def define(hypervisor: Hypervisor) -> bool:
        before = hypervisor.scaling(vm.ref).next_start
        after = with_ceiling(before, ceiling, kind=Kind(vm.host.endpoint.kind))
        if after != before:
            hypervisor.define(vm.ref, after)
        return after != before

    return endpoints.call(vm.host.endpoint, "define", define)


def size_row(vm: Vm, *, now: datetime) -> VmSize:
    """What the VM was given; made of what is reported where nobody chose a size yet."""
    made = {"vcpus": vm.vcpus, "memory_mib": vm.memory_mib, "changed_at": now}
    return VmSize.objects.get_or_create(vm=vm, defaults=made)[0]


# Receiver, connected in ``apps``


def on_vm_power_on(*, vm: Vm, **_: Any) -> None:
    """CloudOps is about to start the VM: its ceiling is fixed with that, so this is the moment."""
    settings = runtime.current()
    vm = Vm.objects.select_related("host__endpoint", "project", *JOINS).get(pk=vm.pk)
    if when_off.needed(vm) and when_off.define_waiting(vm):
        return
    given: VmSize | None = getattr(vm, "size", None)
    if not settings.scaling_prepare_at_start and not (
        when_off.needed(vm) and given is not None and given.next_headroom
    ):
        return
    if wants_headroom(vm, settings=settings):
        define_headroom(vm, effective(vm, settings=settings))


def of_cluster(cluster: Cluster) -> ClusterHeadroom:
    """The cluster's own settings, saved or not."""
    return ClusterHeadroom.objects.filter(cluster=cluster).first() or ClusterHeadroom(cluster=cluster)


def of_vm(vm: Vm) -> VmHeadroom:
    """The VM's own settings, saved or not."""
    return VmHeadroom.objects.filter(vm=vm).first() or VmHeadroom(vm=vm)


def set_for_cluster(cluster: Cluster, *, by: Actor, now: datetime, **values: Any) -> ClusterHeadroom:
    """Sets some of :data:`FIELDS`; None follows the installation. VMs get it with their next start. Raises
    ``Invalid``."""
    row = of_cluster(cluster)
    _set(row, values, Cluster.objects.get(pk=cluster.pk), by=by, now=now)
    return row


def set_for_vm(vm: Vm, *, by: Actor, now: datetime, **values: Any) -> VmHeadroom:
    """Sets some of :data:`FIELDS`; None follows the cluster. The VM gets it with its next start. Raises ``Invalid``."""
    row = of_vm(vm)
    _set(row, values, vm, by=by, now=now)
    return row


def _set(row: Headroom, values: Mapping[str, Any], subject: Vm | Cluster, *, by: Actor, now: datetime) -> None:
    changed: dict[str, list[Any]] = {}
    for name in FIELDS:
        if name in values and getattr(row, name) != values[name]:
            changed[name] = [getattr(row, name), values[name]]
            setattr(row, name, values[name])
    if not changed:
        return
    with transaction.atomic():
        demand_valid(row)
        row.save()
        events.record("headroom.changed", by=by, now=now, subject=subject, data={"changed": changed})
        live.publish("vms", "clusters", *([f"vm:{subject.pk}"] if isinstance(subject, Vm) else []))
