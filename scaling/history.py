"""The sizes that VMs had: one sample whenever what was wanted, what the VM really has or what its guest has changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import OuterRef, Subquery

from cloudops.core import runtime
from cloudops.inventory.models import Vm
from scaling.models import SizeSample

PORTION: Final = 500
MOST_SAMPLES: Final = 2_000


@dataclass(slots=True)
class Sample:
    """A VM's size from ``at`` on. ``guest_memory_mib`` None: the guest did not tell."""

    at: datetime
    wanted_vcpus: int
    wanted_memory_mib: int
    vcpus: int
    memory_mib: int
    guest_memory_mib: int | None = None

    @property
    def size(self) -> tuple[int | None, ...]:
        """Everything but the time."""
        return (self.wanted_vcpus, self.wanted_memory_mib, self.vcpus, self.memory_mib, self.guest_memory_mib)


def note(vm_ids: Collection[UUID], *, now: datetime, guest_mib: Mapping[UUID, int | None] | None = None) -> int:
    """Adds a sample of each VM whose size differs from its last one; returns how many.

    ``guest_mib``: what guests said of their memory just now; else what was said last holds as long as the VM has the
    same size. VMs of which nothing is known yet have no size.
    """
    wanted, count = sorted(vm_ids), 0
    for start in range(0, len(wanted), PORTION):
        count += _note(wanted[start : start + PORTION], guest_mib or {}, now)
    return count


def _note(vm_ids: Collection[UUID], guest_mib: Mapping[UUID, int | None], now: datetime) -> int:
    last = SizeSample.objects.filter(vm=OuterRef("pk")).order_by("-at", "-pk").values("pk")[:1]
    rows = list(
        Vm.objects.filter(pk__in=vm_ids, vcpus__gt=0, memory_mib__gt=0)
        .select_related("size")
        .annotate(last=Subquery(last))
        .order_by("pk")
    )
    samples = SizeSample.objects.in_bulk([row.last for row in rows if row.last is not None])
    new = []
    for vm in rows:
        given = getattr(vm, "size", None)
        before = samples.get(vm.last) if vm.last is not None else None
        same = before is not None and (before.vcpus, before.memory_mib) == (vm.vcpus, vm.memory_mib)
        said = before.guest_memory_mib if before is not None and same else None
        sample = Sample(
            at=now,
            wanted_vcpus=given.vcpus if given else vm.vcpus,
            wanted_memory_mib=given.memory_mib if given else vm.memory_mib,
            vcpus=vm.vcpus,
            memory_mib=vm.memory_mib,
            guest_memory_mib=guest_mib.get(vm.pk, said),
        )
        if before is None or _of(before).size != sample.size:
            new.append(_row(vm.pk, sample))
    SizeSample.objects.bulk_create(new)
    return len(new)


def series(vm: Vm, *, since: datetime, until: datetime) -> list[Sample]:
    """The VM's sizes between two times, oldest first, for a chart of steps: the size that it had at ``since`` comes
    first, with that time. At most :data:`MOST_SAMPLES`, the latest ones."""
    rows = SizeSample.objects.filter(vm=vm)
    inside = [_of(one) for one in rows.filter(at__gt=since, at__lte=until).order_by("-at", "-pk")[:MOST_SAMPLES]]
    found = inside[::-1]
    before = rows.filter(at__lte=since).order_by("-at", "-pk").first()
    if before is not None and len(found) < MOST_SAMPLES:
        start = _of(before)
        found.insert(0, Sample(since, *start.size))  # type: ignore[arg-type]  # the same fields in the same order
    return found


def purge(*, now: datetime) -> int:
    """Removes samples past their retention, but for each VM's last one before it: what it had then still tells."""
    horizon = now - timedelta(days=runtime.current().scaling_history_retention_days)
    old = SizeSample.objects.filter(at__lt=horizon)
    kept = SizeSample.objects.filter(vm=OuterRef("vm"), at__lt=horizon).order_by("-at", "-pk").values("pk")[:1]
    doomed = list(old.exclude(pk=Subquery(kept)).order_by().values_list("pk", flat=True))
    for start in range(0, len(doomed), PORTION):
        SizeSample.objects.filter(pk__in=doomed[start : start + PORTION]).delete()
    return len(doomed)


def _of(row: SizeSample) -> Sample:
    return Sample(row.at, row.wanted_vcpus, row.wanted_memory_mib, row.vcpus, row.memory_mib, row.guest_memory_mib)


def _row(vm_id: UUID, sample: Sample) -> SizeSample:
    return SizeSample(
        vm_id=vm_id,
        at=sample.at,
        wanted_vcpus=sample.wanted_vcpus,
        wanted_memory_mib=sample.wanted_memory_mib,
        vcpus=sample.vcpus,
        memory_mib=sample.memory_mib,
        guest_memory_mib=sample.guest_memory_mib,
    )


# Receiver, connected in ``apps``


def on_vms_changed(*, vm_ids: list[UUID], now: datetime, **_: Any) -> None:
    """Whatever changed their size, within CloudOps or outside."""
    note(vm_ids, now=now)
