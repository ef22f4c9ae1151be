"""From rows to what preflight speaks of: VMs as subjects, offerings as wishes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from cloudops.core.errors import Invalid
from cloudops.core.models import Operation, RuntimeSettings
from cloudops.hypervisors.port import Kind, PowerState, ScalingFacts, ScalingState
from cloudops.inventory.models import Connection, Host, Offering, OfferingKind, Vm
from cloudops.inventory.offering_rules import bounds
from scaling import memory
from scaling.models import VmSize
from scaling.values import Size, Subject, Wanted

LIVE: Final = (Operation.Status.PENDING, Operation.Status.RUNNING)
LEAST_MHZ: Final = 100
MOST_MHZ: Final = 10_000


class OfferingBounds(Invalid):
    """``errors``: field to messages, for a form or a problem document."""

    code = "offering-bounds"
    title = "The offering does not allow this size."
    remedy = "Choose a size within the offering's bounds, or another offering."

    def __init__(self, offering: Offering, errors: dict[str, list[str]]) -> None:
        self.errors = errors
        super().__init__(" ".join(one for found in errors.values() for one in found), fields=errors)
        self.offering = offering


def subjects(vms: Sequence[Vm], *, settings: RuntimeSettings, now: datetime) -> dict[UUID, Subject]:
    """These VMs as preflight sees them, as their hypervisors last told. Three queries, however many they are.

    ``vms`` with ``host__endpoint`` joined.
    """
    del now
    tags = _tags_of(vm.host_id for vm in vms)
    sizes = {row.vm_id: row for row in VmSize.objects.filter(vm__in=[vm.pk for vm in vms])}
    busy = _at_work(vms)
    return {vm.pk: _subject(vm, sizes.get(vm.pk), tags[vm.host_id], busy.get(vm.pk, ""), settings) for vm in vms}


def _tags_of(host_ids: Iterable[UUID]) -> defaultdict[UUID, frozenset[str]]:
    found: dict[UUID, set[str]] = defaultdict(set)
    rows = Host.tags.through.objects.filter(host__in=set(host_ids)).order_by()
    for host_id, name in rows.values_list("host_id", "tag__name"):
        found[host_id].add(name)
    return defaultdict(frozenset, {host_id: frozenset(names) for host_id, names in found.items()})


def _at_work(vms: Sequence[Vm]) -> dict[UUID, str]:
    """The titles of the operations at work on these VMs."""
    ids = [str(vm.pk) for vm in vms]
    rows = Operation.objects.filter(subject_type=Vm._meta.label_lower, subject_id__in=ids, status__in=LIVE)
    return {UUID(row[0]): row[1] for row in rows.order_by().values_list("subject_id", "title")}


def _subject(vm: Vm, row: VmSize | None, tags: frozenset[str], busy: str, settings: RuntimeSettings) -> Subject:
    host = vm.host
    facts = ScalingFacts.from_json(vm.scaling) if vm.scaling else None
    return Subject(
        vm=str(vm.pk),
        name=vm.name,
        kind=Kind(host.endpoint.kind),
        power_state=PowerState(vm.power_state),
        reported=vm.missing_since is None,
        size=Size(
            vcpus=vm.vcpus,
            memory_mib=memory.current_mib(facts, vm.memory_mib),
            cpu_mhz=row.cpu_mhz if row else 0,
            cpu_cap=row.cpu_cap if row else False,
        ),
        facts=facts,
        installation_allows=settings.scaling_enabled,
        vm_allows=vm.dynamic_scaling,
        host=str(host.pk),
        host_name=host.name,
        host_up=host.connection == Connection.UP,
        host_threads=host.total_cpu_threads,
        host_memory_mib=host.total_memory_mib,
        host_mhz=host.cpu_mhz,
        host_tags=tags,
        guest_os=vm.guest_os,
        virtio_mem_seen=row.virtio_mem_seen if row else False,
        busy=busy,
    )


def with_state(subject: Subject, state: ScalingState) -> Subject:
    """The same VM as its hypervisor tells it this moment."""
    size = replace(subject.size, vcpus=state.vcpus, memory_mib=memory.current_mib(state.facts, state.memory_mib))
    return replace(
        subject,
        power_state=state.power_state,
        reported=True,
        size=size,
        facts=state.facts,
        used_mib=state.guest.memory_used_mib,
        cpu_control=state.cpu_control,
    )


def size_of(vm: Vm) -> Size:
    """What the VM was given; what is reported where nobody chose a size. One query unless ``size`` is joined."""
    row = VmSize.objects.filter(vm=vm).first() if "size" not in vm._state.fields_cache else getattr(vm, "size", None)
    if row is None:
        return Size(vm.vcpus, vm.memory_mib)
    return Size(row.vcpus, row.memory_mib, row.cpu_mhz, row.cpu_cap)


def wanted(
    offering: Offering,
    *,
    vcpus: int | None = None,
    memory_mib: int | None = None,
    cpu_mhz: int | None = None,
    like: Size | None = None,
) -> Wanted:
    """The size that this offering gives: its own, the one that is asked for, or (``like``) the nearest to one that
    there is. What is not said is the offering's. Raises :class:`OfferingBounds`. ``host_tags`` best prefetched."""
    least, most, least_mib, most_mib = bounds(offering)
    own_mhz = offering.cpu_mhz or 0
    least_mhz, most_mhz = (LEAST_MHZ, MOST_MHZ) if offering.kind == OfferingKind.UNCONSTRAINED else (own_mhz, own_mhz)
    if like is not None:
        vcpus = min(max(like.vcpus, least), most) if vcpus is None else vcpus
        memory_mib = min(max(like.memory_mib, least_mib), most_mib) if memory_mib is None else memory_mib
    values = (
        ("vcpus", vcpus, offering.vcpus, least, most, "vCPUs"),
        ("memory_mib", memory_mib, offering.memory_mib, least_mib, most_mib, "MiB"),
        ("cpu_mhz", cpu_mhz, own_mhz, least_mhz, most_mhz, "MHz"),
    )
    chosen: dict[str, int] = {}
    errors: dict[str, list[str]] = {}
    for name, said, own, low, high, unit in values:
        chosen[name] = own if said is None else said
        if said is not None and said != own and not low <= said <= high:
            errors[name] = [_out_of_bounds(offering, low, high, unit)]
    if errors:
        raise OfferingBounds(offering, errors)
    return Wanted(
        size=Size(**chosen, cpu_cap=offering.cpu_cap and bool(chosen["cpu_mhz"])),
        offering=str(offering.pk),
        offering_name=offering.name,
        offering_version=offering.version,
        dynamic=offering.dynamic_scaling,
        enabled=offering.enabled,
        tags=tuple(sorted(tag.name for tag in offering.host_tags.all())),
    )


def _out_of_bounds(offering: Offering, low: int, high: int, unit: str) -> str:
    if low == high:
        own = f"{low:,} {unit}" if low else f"no {unit} of its own"
        return f"{offering.name} has {own}; that cannot be chosen."
    return f"{offering.name} allows {low:,} to {high:,} {unit}."
