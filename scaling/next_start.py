"""Sizes that VMs get when they are started next: put into their definition now, and followed once they have them.

A reboot from inside the guest does not apply them: the hypervisor has to start the VM anew.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from cloudops.core import events, live, runtime
from cloudops.core.actors import Actor, system
from cloudops.core.models import Tick
from cloudops.core.operations import OperationRunning
from cloudops.core.queue import enqueue
from cloudops.core.ticks import claim_tick
from cloudops.hypervisors.port import PowerState, ScalingFacts, Shape
from cloudops.inventory import endpoints, hosts
from cloudops.inventory.models import Vm
from scaling import headroom, history, memory_hot_add, planning, quotas, resize_words, slot, subjects, when_off
from scaling.models import VmSize
from scaling.resize_errors import NothingWaits
from scaling.values import Size, Wanted

KIND: Final = "vm.next_size"
TASK: Final = "scaling.tasks.define_while_off"
EXPIRES_SECONDS: Final = 10.0
AGAIN_SECONDS: Final = 30.0
SCALING: Final[Actor] = system("scaling")


def at_next_start(vm: Vm, *, wanted: Wanted, token: str = "", by: Actor, now: datetime) -> VmSize:
    """Puts a size into the VM's definition, with its headroom, in one bounded call; a VM that runs goes on as it is.

    Raises ``PlanOutdated``, ``NotReachable``, ``QuotaExceeded``, ``OperationRunning``, ``HostNotUp`` and
    ``HypervisorError``.
    """
    vm = planning.read(vm)
    slot.demand_free(vm)
    slot.demand_reported(vm)
    subject, plan = planning.plan_now(vm, wanted, now=now)
    planning.demand_current(token, plan, by=by)
    planning.demand_possible(vm, plan)
    offering = planning.offering_of(wanted)
    wanted = replace(wanted, size=memory_hot_add.size_started_with(subject, wanted.size))
    ceiling = headroom.effective_with(vm, offering, wanted.size, settings=runtime.current())
    shape = headroom.shape_for(subject, wanted.size, ceiling)
    title, step = f"Set the size of {vm.name} at its next start"[:200], "Change the VM's definition"
    with slot.briefly(vm, kind=KIND, title=title, step=step, by=by, now=now):
        with transaction.atomic():
            quotas.demand(vm, wanted.size)
            row = _wait_for(vm, wanted, shape, by, now)
        try:
            if not when_off.waits(vm):
                endpoints.call(vm.host.endpoint, "define", lambda hypervisor: hypervisor.define(vm.ref, shape))
        except Exception:
            _clear(row)
            raise
        with transaction.atomic():
            words = f"{resize_words.size(wanted.size)} ({wanted.offering_name or 'no offering'})"
            events.record("vm.next_size", by=by, now=now, subject=vm, reason=words)
            live.publish("vms", f"vm:{vm.pk}")
    return row


def _wait_for(vm: Vm, wanted: Wanted, shape: Shape, by: Actor, now: datetime) -> VmSize:
    row = headroom.size_row(vm, now=now)
    row.next_size = asdict(wanted.size) | {"shape": asdict(shape), "was": list(_seen(vm))}
    row.next_offering = planning.offering_of(wanted)
    row.next_offering_version = wanted.offering_version
    row.next_headroom = True
    row.next_by_name, row.next_at = by.name[:200], now
    row.save()
    return row


def forget_next(vm: Vm, *, by: Actor, now: datetime) -> None:
    """The VM is started next as it is now; room to grow that was prepared stays in its definition.

    Raises :class:`NothingWaits`, ``OperationRunning``, ``HostNotUp`` and ``HypervisorError``.
    """
    vm = planning.read(vm)
    row = VmSize.objects.filter(vm=vm, next_size__isnull=False).first()
    if row is None:
        raise NothingWaits(f"Nothing waits for the next start of {vm.name}.")
    slot.demand_reported(vm)
    size = subjects.size_of(vm)
    title = f"Start {vm.name} next with the size that it has"[:200]
    settings = runtime.current()
    with slot.briefly(vm, kind=KIND, title=title, step="Change the VM's definition", by=by, now=now):
        subject = planning.subject_now(vm, now=now)
        now_has = Size(subject.size.vcpus, subject.size.memory_mib, size.cpu_mhz, size.cpu_cap)
        shape = headroom.shape_for(subject, now_has, headroom.effective(vm, settings=settings))
        if not when_off.waits(vm):
            endpoints.call(vm.host.endpoint, "define", lambda hypervisor: hypervisor.define(vm.ref, shape))
        with transaction.atomic():
            _clear(row, headroom_waits=True)
            events.record("vm.next_size_forgotten", by=by, now=now, subject=vm)
            live.publish("vms", f"vm:{vm.pk}")


def _clear(row: VmSize, *, headroom_waits: bool = False) -> None:
    row.next_size, row.next_offering, row.next_offering_version = None, None, None
    row.next_headroom = headroom_waits
    if not headroom_waits:
        row.next_by_name, row.next_at = "", None
        Tick.objects.filter(name=_tick(row.pk)).delete()
    row.save()


def follow(*, vm_ids: Collection[UUID] | None = None, now: datetime) -> int:
    """Looks at VMs that something waits for (None: all): those that were started with it have it. Returns how many."""
    rows = VmSize.objects.filter(next_at__isnull=False)
    if vm_ids is not None:
        rows = rows.filter(vm__in=list(vm_ids))
    count = 0
    for pk in rows.order_by().values_list("pk", flat=True):
        count += _follow(pk, now)
    return count


def _follow(vm_id: UUID, now: datetime) -> bool:
    with transaction.atomic():
        row = VmSize.objects.select_for_update(of=("self",)).filter(pk=vm_id, next_at__isnull=False).first()
        vm = Vm.objects.filter(pk=vm_id, missing_since__isnull=True).select_related("host__endpoint").first()
        if row is None or vm is None:
            return False
        if vm.power_state in {PowerState.OFF, PowerState.CRASHED}:
            _note_off(row)
            due = when_off.needed(vm) and not _is_defined(row, vm)
            # What its platform refuses is not asked for at every look.
            if due and claim_tick(_tick(vm_id), interval_seconds=AGAIN_SECONDS, now=now):
                transaction.on_commit(partial(enqueue, TASK, str(vm.pk), expires_seconds=EXPIRES_SECONDS), robust=True)
            return False
        if vm.power_state != PowerState.RUNNING or not _was_started_with_it(vm, row):
            return False
        _has_it(vm, row, now)
    live.publish("vms", f"vm:{vm_id}")
    history.note([vm_id], now=now)
    return True


def _note_off(row: VmSize) -> None:
    if row.next_size is not None and not row.next_size.get("off"):
        row.next_size = {**row.next_size, "off": True}
        row.save(update_fields=["next_size"])


def _tick(vm_id: UUID) -> str:
    return f"define-while-off:{vm_id}"


def _is_defined(row: VmSize, vm: Vm) -> bool:
    """Whether a VM that is off is defined already as it is to be started next."""
    if row.next_size is not None:
        return bool(row.next_size.get("defined"))
    return not row.next_headroom or headroom.lacks(Vm.objects.select_related(*headroom.JOINS).get(pk=vm.pk)) is None


def define_while_off(vm: Vm, *, now: datetime) -> bool:
    """The VM is off: its platform takes now what waited for that. False when there is nothing, it is not off any more
    or is busy; another look comes. Raises ``HypervisorError`` and ``HostNotUp``."""
    vm = planning.read(vm)
    row = VmSize.objects.filter(vm=vm, next_at__isnull=False).first()
    if row is None or vm.power_state not in when_off.OFF or vm.missing_since is not None:
        return False
    slot.demand_reported(vm)
    title, step = f"Give {vm.name} what waited until it was off"[:200], "Change the VM's definition"
    try:
        with slot.briefly(vm, kind=KIND, title=title, step=step, by=SCALING, now=now):
            if when_off.define_waiting(vm):
                marked = {**(row.next_size or {}), "off": True, "defined": True}
                VmSize.objects.filter(pk=row.pk, next_size__isnull=False).update(next_size=marked)
            else:
                headroom.define_headroom(vm, headroom.effective(vm, settings=runtime.current()))
    except OperationRunning:
        return False
    hosts.sync_soon(vm.host)
    return True


def _seen(vm: Vm) -> tuple[int, int, int, int]:
    """What tells one start of a VM from another: its size and its ceiling."""
    return (vm.vcpus, vm.memory_mib, vm.max_vcpus or 0, vm.max_memory_mib or 0)


def _was_started_with_it(vm: Vm, row: VmSize) -> bool:
    if row.next_size is None:
        lack = headroom.lacks(Vm.objects.select_related(*headroom.JOINS).get(pk=vm.pk))
        return lack is None
    shape: dict[str, Any] = row.next_size["shape"]
    memory = shape["memory_mib"] + shape["virtio_mem_requested_mib"]
    if (vm.vcpus, vm.memory_mib) != (shape["vcpus"], memory):
        return False
    facts = ScalingFacts.from_json(vm.scaling) if vm.scaling else None
    if facts is not None and not facts.memory_step_mib and facts.max_vcpus != shape["max_vcpus"]:
        return False
    return bool(row.next_size.get("off")) or list(_seen(vm)) != row.next_size["was"]


def _has_it(vm: Vm, row: VmSize, now: datetime) -> None:
    if row.next_size is not None:
        size = Size(*(row.next_size[name] for name in ("vcpus", "memory_mib", "cpu_mhz", "cpu_cap")))
        row.vcpus, row.memory_mib, row.cpu_mhz, row.cpu_cap = size.vcpus, size.memory_mib, size.cpu_mhz, size.cpu_cap
        row.changed_at = now
        Vm.objects.filter(pk=vm.pk).update(offering=row.next_offering, offering_version=row.next_offering_version)
        words = f"{resize_words.size(size)}, as {row.next_by_name} wanted"
        events.record("vm.resized", by=SCALING, now=now, subject=vm, reason=f"Started with {words}.")
    _clear(row)


def on_vms_changed(*, vm_ids: list[UUID], now: datetime, **_: Any) -> None:
    """Receiver, connected in ``apps``."""
    follow(vm_ids=vm_ids, now=now)
