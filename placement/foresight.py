"""What a migration would do, before anybody asks for it: one VM's hosts with reasons, many VMs' destinations.

Nothing is taken and nothing moves; what is told here may have changed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from cloudops.core.errors import Refusal
from cloudops.core.models import Operation, subject_of
from cloudops.core.operations import OperationRunning
from cloudops.inventory.models import Vm
from placement import decisions, mirror, vm_migrations, words
from placement.decisions import Candidate
from placement.explaining import ExplainedVerdict
from placement.migration_errors import LocalStorage, VmPinned
from placement.models import VmMigration
from placement.scheduler import decide
from placement.vm_migrations import Options

MOST_VMS: Final = 100
LIVE: Final = (Operation.Status.PENDING, Operation.Status.RUNNING)


@dataclass(frozen=True, slots=True)
class Place:
    """A host the VM may or may not go to: what is free there now, and what would be left with the VM on it."""

    candidate: Candidate
    free_vcpus: int
    free_memory_mib: int
    left_vcpus: int
    left_memory_mib: int


@dataclass(frozen=True, slots=True)
class Destinations:
    """``fits`` the best first, ``others`` those that lack least first. ``obstacle``: what refuses the move whatever
    the host; ``live`` whether the VM goes on running meanwhile."""

    fits: tuple[Place, ...]
    others: tuple[Place, ...]
    obstacle: Refusal | None
    live: bool

    @property
    def best(self) -> Place | None:
        return self.fits[0] if self.fits else None


def destinations(vm: Vm, *, options: Options, now: datetime) -> Destinations:
    """Where this VM could be migrated to with these options, host by host. ``vm`` with everything joined
    (``access.vm_for``). The number of queries does not depend on the number of hosts."""
    obstacle, live = _obstacle(vm, options)
    spec = vm_migrations.spec_of_move(vm, options, now=now)
    found = [one for one in decisions.candidates(vm, spec=spec, now=now) if one.host.pk != vm.host_id]
    places = [_place(one) for one in found]
    return Destinations(
        fits=tuple(one for one in places if one.candidate.fits),
        others=tuple(one for one in places if not one.candidate.fits),
        obstacle=obstacle,
        live=live,
    )


def _place(candidate: Candidate) -> Place:
    verdicts: dict[str, ExplainedVerdict] = {one.filter: one for one in candidate.explained.verdicts}
    vcpus, memory = verdicts["vcpus"], verdicts["memory"]
    free_vcpus, free_memory_mib = int(vcpus.available), int(memory.available)
    left = free_vcpus - int(vcpus.needed), free_memory_mib - int(memory.needed)
    return Place(candidate, free_vcpus, free_memory_mib, *left)


def _obstacle(vm: Vm, options: Options, busy: str | None = None) -> tuple[Refusal | None, bool]:
    """Why it would be refused at once, and whether it would move live. ``busy``: what is at work on it, if known."""
    try:
        mode = vm_migrations.demand_movable(vm, None, options)
    except Refusal as refusal:
        return refusal, False
    title = _at_work([vm]).get(vm.pk) if busy is None else busy
    live = mode == VmMigration.Mode.LIVE
    return (OperationRunning(f"“{title}” is at work on {vm.name}.") if title else None), live


def _at_work(vms: Sequence[Vm]) -> dict[UUID, str]:
    """The titles of the operations that these VMs' slots are taken by."""
    if not vms:
        return {}
    kind = subject_of(vms[0])["subject_type"]
    rows = Operation.objects.filter(subject_type=kind, subject_id__in=[str(vm.pk) for vm in vms], status__in=LIVE)
    return {UUID(row[0]): row[1] for row in rows.order_by().values_list("subject_id", "title")}


@dataclass(frozen=True, slots=True)
class Foreseen:
    """One VM of a bulk request: the host it would go to, or why it would stay and what would help."""

    vm: Vm
    host_id: UUID | None = None
    host_name: str = ""
    cluster_name: str = ""
    reason: str = ""
    remedy: str = ""

    @property
    def moves(self) -> bool:
        return self.host_id is not None


def foresee(vms: Sequence[Vm], *, options: Options, now: datetime) -> list[Foreseen]:
    """Where :func:`vm_migrations.bulk` would send each VM, in this order: room that one takes is not there for the
    next. At most :data:`MOST_VMS` are looked at. ``vms`` with host, endpoint,
    offering and template joined: the number of queries does not depend on them."""
    vms = vms[:MOST_VMS]
    with mirror.current().up_to_date(now=now, consoles=True) as current:
        fleet = current.copy()
    busy, found = _at_work(vms), []
    specs = vm_migrations.specs_of_moves(vms, options, now=now)
    for vm in vms:
        obstacle, _ = _obstacle(vm, options, busy.get(vm.pk, ""))
        if obstacle is not None:
            found.append(Foreseen(vm, reason=obstacle.detail, remedy=obstacle.remedy_text))
            continue
        spec = specs[vm.pk]
        result = decide(spec, fleet)
        if result.host is None:
            reason, remedy = words.refusal(spec, result), words.refusal_remedy(result)
            found.append(Foreseen(vm, reason=reason, remedy=remedy))
            continue
        best = result.top[0]
        found.append(Foreseen(vm, UUID(result.host), best.name, best.cluster))
        fleet = fleet.with_claims({result.host: (spec.vcpus, spec.memory_mib)})
    return found


def may_be_overruled(obstacle: Refusal | None) -> str:
    """Which option takes this obstacle away: "pinned", "copy", or "" for none."""
    if isinstance(obstacle, VmPinned):
        return "pinned"
    return "copy" if isinstance(obstacle, LocalStorage) else ""
