"""A VM's size as it is known from rows: what it has, how far it grows live, and what waits for its next start."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime

from cloudops.core.models import RuntimeSettings
from cloudops.hypervisors.port import ScalingFacts
from cloudops.inventory.models import Offering, Vm
from scaling import headroom, memory
from scaling.headroom import Ceiling, Lack
from scaling.models import SizeSample, VmSize
from scaling.values import Size


@dataclass(frozen=True, slots=True)
class NextStart:
    """What a VM gets when it is started next; ``size`` None: only ``headroom``."""

    size: Size | None
    offering: Offering | None
    headroom: bool
    requested_by_name: str
    requested_at: datetime | None


@dataclass(frozen=True, slots=True)
class VmSizes:
    """``size`` is what it has, ``wanted`` what it was given; ``ceiling`` None: its hypervisor does not tell."""

    vm: Vm
    size: Size
    wanted: Size
    guest_memory_mib: int | None
    ceiling: ScalingFacts | None
    next_ceiling: Ceiling
    lack: Lack | None
    next_start: NextStart | None


def read(vm: Vm, *, settings: RuntimeSettings) -> VmSizes:
    """Six queries at most; no hypervisor is asked."""
    given = VmSize.objects.filter(vm=vm).select_related("next_offering").first()
    facts = ScalingFacts.from_json(vm.scaling) if vm.scaling else None
    mhz, cap = (given.cpu_mhz, given.cpu_cap) if given else (0, False)
    has = Size(vm.vcpus, memory.current_mib(facts, vm.memory_mib), mhz, cap)
    last = SizeSample.objects.filter(vm=vm).order_by("-at", "-pk").first()
    return VmSizes(
        vm=vm,
        size=has,
        wanted=Size(given.vcpus, given.memory_mib, mhz, cap) if given else has,
        guest_memory_mib=last.guest_memory_mib if last and vm.is_running else None,
        ceiling=facts,
        next_ceiling=headroom.effective(vm, settings=settings),
        lack=headroom.lacks(vm, settings=settings),
        next_start=_next(given),
    )


def _next(given: VmSize | None) -> NextStart | None:
    if given is None or not (given.next_size or given.next_headroom):
        return None
    said = given.next_size
    size = Size(**{one.name: said[one.name] for one in fields(Size)}) if said else None
    return NextStart(size, given.next_offering, given.next_headroom, given.next_by_name, given.next_at)
