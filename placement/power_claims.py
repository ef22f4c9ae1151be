"""Claims follow power: a VM takes room when it is started, gives it back when it stops, and what others did to it
outside is followed, room or not, as the hypervisor is the truth.

A VM that is being migrated or resized is left alone: whoever does that has its claims in hand until it has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from cloudops.accounts.models import User
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.models import Operation
from cloudops.hypervisors.port import PowerAction, PowerState
from cloudops.inventory.models import Connection, Vm
from placement import capacity, claims
from placement.errors import AlreadyClaimed, CapacityGone
from placement.models import Claim, ClaimKind, HostCapacity, VmMigration

ALIVE: Final = (PowerState.RUNNING, PowerState.PAUSED)
DOWN: Final = (PowerState.OFF, PowerState.CRASHED)
PORTION: Final = 500
RESIZE: Final = "vm.resize"
"""The kind of operations that hold a VM's claims while they are at work, beside migrations."""
LIVE: Final = (Operation.Status.PENDING, Operation.Status.RUNNING)


class NoRoomToStart(Conflict):
    """Tenants are not told how full a host is."""

    code = "no-room-to-start"
    title = "The VM's host cannot take it now."
    remedy = "Migrate the VM to another host and start it there, or make room on its host."


def claim_for_start(vm: Vm, *, operation: Operation, by: Actor, now: datetime) -> None:
    """Takes the VM's room on its host, in the transaction that starts it. Raises :class:`NoRoomToStart`.

    A host that was not seen yet has no size to compare with; the VM's claim is then adopted once it runs. Room that it
    was left elsewhere, where it is not any more, is given back; one that a migration owns is not.
    """
    host = vm.host
    if host.connection != Connection.UP or not host.total_memory_mib:
        return
    if not HostCapacity.objects.filter(pk=host.pk).exists():
        capacity.refresh(host_ids=[host.pk], now=now)
    try:
        _take(vm, now)
    except (CapacityGone, AlreadyClaimed) as error:
        reader = User.objects.filter(pk=by.user_id).first() if by.user_id is not None else None
        if reader is not None and not reader.sees_fleet:
            words = f"The host of {vm.name} takes no VMs now, or has no room for it."
            raise NoRoomToStart(words, remedy="Try again later, or ask an administrator to move it.") from error
        numbers: dict[str, Any] = error.numbers
        raise NoRoomToStart(error.detail, **numbers) from error


def _take(vm: Vm, now: datetime) -> None:
    def take() -> None:
        claims.take(host_id=vm.host_id, vm=vm, kind=ClaimKind.VM, vcpus=vm.vcpus, memory_mib=vm.memory_mib, now=now)

    try:
        take()
    except AlreadyClaimed:
        if _moving_now(vm):
            raise
        claims.release(vm=vm, kinds=[ClaimKind.VM], now=now)
        take()


def _moving_now(vm: Vm) -> bool:
    return VmMigration.objects.filter(vm=vm, ended_at__isnull=True).exists()


def follow(*, vm_ids: Collection[UUID], now: datetime, gone: bool = False) -> int:
    """Brings the claims of these VMs in step with where they run and how big they are; returns how many changed.

    ``gone``: those that nobody reports any more have surely stopped.
    """
    wanted, changed = sorted(vm_ids), 0
    for start in range(0, len(wanted), PORTION):
        changed += _follow(wanted[start : start + PORTION], gone, now)
    return changed


def _follow(vm_ids: Sequence[UUID], gone: bool, now: datetime) -> int:
    with transaction.atomic():
        locked = Vm.objects.select_for_update(of=("self",), no_key=True).filter(pk__in=vm_ids).order_by("pk")
        found = list(locked.annotate(moving=Exists(_moving())))
        busy = resizing()
        rows = [vm for vm in found if not vm.moving and vm.pk not in busy]
        own = {one.vm_id: one for one in Claim.objects.filter(vm__in=rows, kind=ClaimKind.VM)}
        starting = starting_among(rows)
        stale, adopt = [], []
        for vm in rows:
            claim = own.get(vm.pk)
            if vm.power_state in ALIVE and vm.missing_since is None:
                if claim is None:
                    adopt.append(vm)
                elif _differs(claim, vm):
                    stale.append(claim.pk)
                    adopt.append(vm)
            elif (
                claim is not None and vm.pk not in starting and (vm.power_state in DOWN or (gone and vm.missing_since))
            ):
                stale.append(claim.pk)
        if stale:
            claims.give_back(Claim.objects.filter(pk__in=stale))
        claims.adopt(vms=adopt, now=now)
    return len({*stale, *(vm.pk for vm in adopt)})


def _differs(claim: Claim, vm: Vm) -> bool:
    return (claim.host_id, claim.vcpus, claim.memory_mib) != (vm.host_id, vm.vcpus, vm.memory_mib)


def starting_among(rows: Sequence[Vm]) -> set[UUID]:
    """VMs that an operation is starting: they hold their claim before they run."""
    live = Operation.objects.filter(status__in=LIVE)
    mine = live.filter(kind="vm.power", params__action=PowerAction.START)
    mine = mine.filter(subject_type=Vm._meta.label_lower, subject_id__in=[str(vm.pk) for vm in rows])
    return {UUID(pk) for pk in mine.order_by().values_list("subject_id", flat=True)}


def resizing() -> set[UUID]:
    """VMs that are being resized: they may hold more or less than they have for a while."""
    live = Operation.objects.filter(kind=RESIZE, subject_type=Vm._meta.label_lower, status__in=LIVE)
    return {UUID(pk) for pk in live.order_by().values_list("subject_id", flat=True)}


def _moving() -> Any:
    return VmMigration.objects.filter(vm=OuterRef("pk"), ended_at__isnull=True)


def follow_all(*, now: datetime) -> int:
    """What a lost signal would have told: VMs whose claim is not as it should be. One query when all is well."""
    own = Claim.objects.filter(vm=OuterRef("pk"), kind=ClaimKind.VM)
    right = own.filter(host_id=OuterRef("host_id"), vcpus=OuterRef("vcpus"), memory_mib=OuterRef("memory_mib"))
    alive = Q(power_state__in=ALIVE, missing_since__isnull=True)
    wrong = Vm.objects.filter((alive & ~Exists(right)) | (Q(power_state__in=DOWN) & Exists(own)))
    wrong = wrong.exclude(Exists(_moving())).exclude(pk__in=resizing())
    return follow(vm_ids=list(wrong.order_by().values_list("pk", flat=True)), now=now)


# Receivers, connected in ``apps``


def on_vm_starting(*, vm: Vm, operation: Operation, by: Actor, now: datetime, **_: Any) -> None:
    claim_for_start(vm, operation=operation, by=by, now=now)


def on_vms_changed(*, vm_ids: list[UUID], now: datetime, **_: Any) -> None:
    follow(vm_ids=vm_ids, now=now)


def on_vm_stopped(*, vm_ids: list[UUID], now: datetime, **_: Any) -> None:
    follow(vm_ids=vm_ids, now=now, gone=True)


def on_migration_ended(*, vm_id: UUID, now: datetime, **_: Any) -> None:
    """Whatever its power did meanwhile."""
    follow(vm_ids=[vm_id], now=now)


def on_hosts_changed(*, host_ids: list[UUID], now: datetime, **_: Any) -> None:
    capacity.refresh(host_ids=host_ids, now=now)
