"""Claims compared with what hypervisors report and with their owners: what differs is shown, what is sure is mended."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, Sum
from django.db.models.functions import Coalesce

from cloudops.core import live
from cloudops.core.models import Operation
from cloudops.inventory.models import Vm
from placement import capacity, claims, power_claims, versions
from placement.models import Claim, ClaimKind, HostCapacity, VmMigration

LIVE = (Operation.Status.PENDING, Operation.Status.RUNNING)


class DriftKind(enum.StrEnum):
    """What is not as it should be."""

    UNCLAIMED = "unclaimed"
    STALE = "stale"
    ELSEWHERE = "elsewhere"
    SIZE = "size"
    ORPHAN = "orphan"
    SUM = "sum"
    OVER_CAPACITY = "over-capacity"


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. ``mended``: :func:`reconcile` puts it right; else ``remedy`` says what people can do."""

    kind: DriftKind
    host_id: UUID
    host_name: str
    vm_id: UUID | None
    vm_name: str
    detail: str
    remedy: str
    mended: bool


def drift(*, now: datetime) -> list[Drift]:
    """Everything that differs now. A fixed number of queries; nothing is changed."""
    del now
    return [*_about_vms(), *_orphans(), *_sums(), *_over_capacity()]


def reconcile(*, now: datetime) -> list[Drift]:
    """Mends what is surely wrong, and returns what it found, mended or not. Safe beside anything else."""
    found = drift(now=now)
    capacity.refresh(structure=False, now=now)
    for host_id in {one.host_id for one in found if one.kind is DriftKind.SUM}:
        _add_up_again(host_id)  # first: what is taken off a sum that is too small would leave it below zero
    power_claims.follow_all(now=now)
    claims.give_back(Claim.objects.filter(pk__in=_orphaned().values("pk")))
    if any(one.mended for one in found):
        live.publish("capacity")
    return found


def _about_vms() -> Iterator[Drift]:
    moving = VmMigration.objects.filter(vm=OuterRef("pk"), ended_at__isnull=True)
    own = Claim.objects.filter(vm=OuterRef("pk"), kind=ClaimKind.VM)
    right = own.filter(host_id=OuterRef("host_id"), vcpus=OuterRef("vcpus"), memory_mib=OuterRef("memory_mib"))
    alive = Q(power_state__in=power_claims.ALIVE, missing_since__isnull=True)
    wrong = (alive & ~Exists(right)) | (Q(power_state__in=power_claims.DOWN) & Exists(own))
    still = Vm.objects.filter(wrong).exclude(Exists(moving)).exclude(pk__in=power_claims.resizing())
    rows = list(still.select_related("host").order_by("name", "pk"))
    kept = {
        one.vm_id: one
        for one in Claim.objects.filter(vm__in=rows, kind=ClaimKind.VM).select_related("host__host").order_by()
    }
    starting = power_claims.starting_among(rows)
    for vm in rows:
        if vm.power_state in power_claims.ALIVE or vm.pk not in starting:
            yield _about(vm, kept.get(vm.pk))


def _about(vm: Vm, claim: Claim | None) -> Drift:
    def found(kind: DriftKind, detail: str) -> Drift:
        return Drift(kind, vm.host_id, vm.host.name, vm.pk, vm.name, detail, "", True)

    if claim is None:
        return found(DriftKind.UNCLAIMED, f"{vm.name} runs on {vm.host.name} and has no claim.")
    if vm.power_state in power_claims.DOWN:
        return found(DriftKind.STALE, f"{vm.name} is off and still has a claim on {claim.host.host.name}.")
    if claim.host_id != vm.host_id:
        return found(DriftKind.ELSEWHERE, f"{vm.name} runs on {vm.host.name}; its claim is on {claim.host.host.name}.")
    claimed, real = f"{claim.vcpus} vCPUs, {claim.memory_mib} MiB", f"{vm.vcpus} vCPUs, {vm.memory_mib} MiB"
    return found(DriftKind.SIZE, f"{vm.name} has {real}; claimed are {claimed}.")


def _orphaned() -> Any:
    """Claims of operations that have ended: nobody will give them back."""
    return Claim.objects.exclude(kind=ClaimKind.VM).exclude(operation__status__in=LIVE)


def _orphans() -> Iterator[Drift]:
    for claim in _orphaned().select_related("host__host", "vm").order_by("pk"):
        detail = f"{claim.memory_mib} MiB are kept on {claim.host.host.name} for an operation that has ended."
        vm = claim.vm
        yield Drift(DriftKind.ORPHAN, claim.host_id, claim.host.host.name, vm.pk, vm.name, detail, "", True)


def _sums() -> Iterator[Drift]:
    claimed = HostCapacity.objects.annotate(
        vcpus=Coalesce(Sum("claims__vcpus"), 0), memory=Coalesce(Sum("claims__memory_mib"), 0)
    )
    differs = ~Q(vcpus=F("vcpu_claimed")) | ~Q(memory=F("memory_claimed_mib"))
    for row in claimed.filter(differs).select_related("host").order_by("pk"):
        detail = (
            f"{row.host.name}'s claims add up to {row.vcpus} vCPUs and {row.memory} MiB; "
            f"its row says {row.vcpu_claimed} and {row.memory_claimed_mib}."
        )
        yield Drift(DriftKind.SUM, row.pk, row.host.name, None, "", detail, "", True)


def _over_capacity() -> Iterator[Drift]:
    over = Q(vcpu_claimed__gt=F("vcpu_capacity")) | Q(memory_claimed_mib__gt=F("memory_capacity_mib"))
    for row in HostCapacity.objects.filter(over, memory_capacity_mib__gt=0).select_related("host").order_by("pk"):
        detail = (
            f"{row.host.name} has promised {row.vcpu_claimed} of {row.vcpu_capacity} vCPUs and "
            f"{row.memory_claimed_mib} of {row.memory_capacity_mib} MiB."
        )
        remedy = "Migrate VMs away, or raise the overcommit. Nothing more is placed here until it fits again."
        yield Drift(DriftKind.OVER_CAPACITY, row.pk, row.host.name, None, "", detail, remedy, False)


def _add_up_again(host_id: UUID) -> None:
    """The sum from the claims, with the row locked: every claim changes together with it."""
    with transaction.atomic():
        row = HostCapacity.objects.select_for_update().filter(pk=host_id).first()
        if row is not None:
            sums = row.claims.aggregate(vcpus=Coalesce(Sum("vcpus"), 0), memory=Coalesce(Sum("memory_mib"), 0))
            HostCapacity.objects.filter(pk=host_id).update(
                vcpu_claimed=sums["vcpus"], memory_claimed_mib=sums["memory"], version=versions.Now()
            )
