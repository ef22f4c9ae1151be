"""Which of these VMs could grow to a size, and how: the question of whoever plans for many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloudops.core.models import RuntimeSettings
from cloudops.inventory.models import Vm
from scaling import subjects
from scaling.preflight import preflight
from scaling.rooms import Rooms
from scaling.values import Plan, Reach, Wanted

MOST_VMS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """One VM and its plan."""

    vm: Vm
    plan: Plan


def verdicts(vms: Sequence[Vm], wanted: Wanted, *, settings: RuntimeSettings, now: datetime) -> list[Verdict]:
    """A plan for each, in this order, from what is known in rows: no hypervisor is asked, and the number of queries
    does not grow. ``vms`` come as ``access.visible_vms`` reads them."""
    found = subjects.subjects(vms, settings=settings, now=now)
    rooms = Rooms.read(vms, now=now, settings=settings)
    return [Verdict(vm, preflight(found[vm.pk], wanted, rooms.room(vm, wanted))) for vm in vms if vm.pk in found]


def counts(found: Sequence[Verdict]) -> dict[Reach, int]:
    """How many are reached how, from the easiest on; what does not occur is left out."""
    counted = Counter(one.plan.reach for one in found)
    return {reach: counted[reach] for reach in Reach if counted[reach]}
