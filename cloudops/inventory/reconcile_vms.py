"""Brings VM rows in step with what their hypervisor reports. Writes differences only, in constantly many queries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q

from cloudops.core.bulk import overwrite
from cloudops.hypervisors.port import PowerState, ScalingFacts, VmFacts
from cloudops.inventory import signals
from cloudops.inventory.models import Endpoint, Host, Vm
from cloudops.inventory.notices import Notices, ask
from cloudops.inventory.signals import VmMove

VANISHED_IS_STOPPED_SECONDS = 10
"""A VM that moves is gone from its source a moment before its target is read; only later is it surely stopped."""

MISSING_RETENTION_SECONDS = 3_600
"""How long a VM that nobody reports is kept, so that its project and history survive a mishap."""

LONGEST_READING_SECONDS = 300
"""A row that claims to be newer by more than this was written by a server whose clock was wrong."""

_STOPPED = {PowerState.OFF, PowerState.CRASHED}
_ALIVE = {PowerState.RUNNING, PowerState.PAUSED}
_CLAIMED = {"power_state", "vcpus", "memory_mib", "host_id", "missing_since"}
_WRITTEN = (
    "name",
    "power_state",
    "vcpus",
    "memory_mib",
    "max_vcpus",
    "max_memory_mib",
    "scaling",
    "guest_os",
    "cpu_model",
    "networks",
    "disks",
    "has_console",
    "max_consoles",
    "console_connections",
    "host",
    "missing_since",
    "synced_at",
)


@dataclass
class Outcome:
    """How many rows changed, by what happened to them."""

    appeared: int = 0
    changed: int = 0
    moved: int = 0
    vanished: int = 0
    removed: int = 0


@dataclass
class _Plan:
    """What one reading of an endpoint means for the rows as they were loaded."""

    create: list[Vm] = field(default_factory=list)
    update: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    was_on: dict[UUID, UUID] = field(default_factory=dict)
    """The host of each VM to update, as its row was loaded."""
    vanish: list[UUID] = field(default_factory=list)


def reconcile(
    endpoint: Endpoint,
    hosts: Mapping[str, Host],
    facts: Sequence[VmFacts],
    *,
    read_at: datetime,
    notices: Notices,
    only_refs: Collection[str] | None = None,
    arrived: Collection[str] = (),
) -> Outcome:
    """Writes what ``facts`` (read from ``read_at`` on) tell of the endpoint's VMs; with ``only_refs`` of those alone.

    A VM keeps its row wherever it runs. ``arrived`` names VMs that are known to have moved here, whatever their power
    state; otherwise only one that runs is taken over from where it was. While a VM is being moved, its source says for
    a moment that it is paused, off or gone: such news waits until the move has ended. Rows that somebody wrote after
    ``read_at`` know better and are left alone. The caller holds the endpoint's row lock, within a transaction.
    """
    refs = [fact.ref for fact in facts]
    mine = Q(host__endpoint=endpoint)
    if only_refs is not None:
        mine &= Q(ref__in=only_refs)
    rows = list(Vm.objects.filter(mine))
    known = {row.ref for row in rows}
    unknown = [ref for ref in refs if ref not in known]
    if unknown:
        elsewhere = Vm.objects.filter(ref__in=unknown, host__endpoint__kind=endpoint.kind)
        rows += elsewhere.exclude(host__endpoint=endpoint)
    moving = _on_the_way([row for row in rows if row.ref in known], facts, notices.now) - set(arrived)
    facts = [fact for fact in facts if fact.ref not in moving]
    plan = _plan(hosts, facts, rows, own_refs={*known, *arrived} - moving, read_at=read_at, now=notices.now)
    outcome = _write(plan, hosts, read_at=read_at, notices=notices)
    if plan.create:
        _create(endpoint, plan.create, notices, outcome)
    return outcome


def move_unseen(row: Vm, host: Host, notices: Notices) -> None:
    """Gives the row, which the caller has locked, another host without a reading."""
    changes = {"host_id": host.pk, "power_state": PowerState.UNKNOWN, "missing_since": None}
    _apply(row, changes, {host.pk: host}, notices, Outcome())
    row.synced_at = notices.now
    notices.touch_vm(row)
    overwrite([row], _WRITTEN)


def follow_up_missing(endpoint: Endpoint, *, notices: Notices) -> int:
    """Tells of VMs that stayed away, and removes those that nobody needs after the retention; returns how many."""
    now = notices.now
    gone = list(
        Vm.objects.filter(
            host__endpoint=endpoint, missing_since__lte=now - timedelta(seconds=VANISHED_IS_STOPPED_SECONDS)
        )
    )
    if not gone:
        return 0
    notices.stopped += [vm.pk for vm in gone]
    due = now - timedelta(seconds=MISSING_RETENTION_SECONDS)
    old = {vm.pk: vm for vm in gone if vm.missing_since is not None and vm.missing_since <= due}
    if not old:
        return 0
    for needed in ask(signals.vm_use, vm_ids=list(old), now=now):
        for pk in needed:
            old.pop(pk, None)
    for vm in old.values():
        notices.event("vm.removed", subject=vm, reason="Its hypervisor has not reported it for an hour.")
        notices.touch_vm(vm)
    Vm.objects.filter(pk__in=list(old)).delete()
    return len(old)


def _on_the_way(rows: Iterable[Vm], facts: Iterable[VmFacts], now: datetime) -> set[str]:
    """Refs of the endpoint's own VMs of which this reading has such news, and which are being moved."""
    states = {fact.ref: fact.power_state for fact in facts}
    doubtful = {}
    for row in rows:
        state = states.get(row.ref)
        is_lost = state is None and row.missing_since is None
        if is_lost or (row.power_state in _ALIVE and state not in (None, PowerState.RUNNING, row.power_state)):
            doubtful[row.pk] = row.ref
    if not doubtful:
        return set()
    answers = ask(signals.vms_moving, vm_ids=list(doubtful), now=now)
    return {doubtful[pk] for answer in answers for pk in answer}


def _plan(
    hosts: Mapping[str, Host],
    facts: Iterable[VmFacts],
    rows: Sequence[Vm],
    *,
    own_refs: set[str],
    read_at: datetime,
    now: datetime,
) -> _Plan:
    plan = _Plan()
    by_ref = {row.ref: row for row in rows}
    reported: set[str] = set()
    for fact in facts:
        host = hosts.get(fact.host_ref)
        if host is None or fact.ref in reported:
            continue
        reported.add(fact.ref)
        row = by_ref.get(fact.ref)
        if row is None:
            plan.create.append(Vm(ref=fact.ref, host=host, synced_at=now, **_values(fact)))
        elif fact.ref in own_refs or _takes_over(row, fact):
            changes = {name: value for name, value in _values(fact).items() if getattr(row, name) != value}
            if row.host_id != host.pk:
                changes["host_id"] = host.pk
            if row.missing_since is not None:
                changes["missing_since"] = None
            if changes:
                plan.update[row.pk], plan.was_on[row.pk] = changes, row.host_id
    gone = own_refs - reported
    plan.vanish = [row.pk for ref, row in by_ref.items() if ref in gone and row.missing_since is None]
    return plan


def _takes_over(row: Vm, fact: VmFacts) -> bool:
    """Whether a VM that another endpoint reports is this row, moved. While it migrates both report it: the target has
    it paused until it runs there; afterwards the source may keep a definition that is off."""
    return fact.power_state == PowerState.RUNNING or row.missing_since is not None


def _values(fact: VmFacts) -> dict[str, Any]:
    scaling = fact.scaling
    return {
        "name": fact.name[:255],
        "power_state": fact.power_state,
        "vcpus": fact.vcpus,
        "memory_mib": fact.memory_mib,
        "max_vcpus": scaling.max_vcpus if scaling else None,
        "max_memory_mib": scaling.max_memory_mib if scaling else None,
        "scaling": _as_json(scaling) if scaling else None,
        "guest_os": fact.guest_os[:200],
        "cpu_model": fact.cpu_model[:200],
        "networks": list(fact.networks),
        "disks": [asdict(disk) for disk in fact.disks],
        "has_console": fact.has_console,
        "max_consoles": fact.max_consoles,
        "console_connections": fact.console_connections,
    }


def _as_json(scaling: ScalingFacts) -> dict[str, Any]:
    """As the column gives it back, so that equal facts compare equal."""
    return {**asdict(scaling), "memory_devices": [asdict(one) for one in scaling.memory_devices]}


def _write(plan: _Plan, hosts: Mapping[str, Host], *, read_at: datetime, notices: Notices) -> Outcome:
    """Locks the rows that are to change, leaves out those that changed since they were loaded, and writes the rest."""
    outcome = Outcome()
    touched = [*plan.update, *plan.vanish]
    if not touched:
        return outcome
    locked = Vm.objects.select_for_update(of=("self",)).filter(pk__in=touched).order_by("pk")
    rows = [row for row in locked.select_related("host") if not is_newer(row.synced_at, read_at)]
    by_id = {host.pk: host for host in hosts.values()}
    vanished = set(plan.vanish)
    for row in rows:
        if row.pk not in vanished:
            if row.host_id != plan.was_on[row.pk]:
                continue  # moved in this moment: what was to be said is of where it was
            _apply(row, plan.update[row.pk], by_id, notices, outcome)
        elif row.host_id in by_id:  # else it has moved away meanwhile
            row.missing_since, row.power_state = notices.now, PowerState.UNKNOWN
            notices.changed.append(row.pk)
            notices.event("vm.vanished", subject=row, severity="notice", data={"host": row.host.name})
            outcome.vanished += 1
        row.synced_at = notices.now
        notices.touch_vm(row)
    overwrite(rows, _WRITTEN)
    return outcome


def is_newer(written: datetime | None, read_at: datetime) -> bool:
    """Whether a row was written from a reading that began after ``read_at``."""
    return written is not None and read_at < written <= read_at + timedelta(seconds=LONGEST_READING_SECONDS)


def _apply(row: Vm, changes: dict[str, Any], hosts: Mapping[UUID, Host], notices: Notices, outcome: Outcome) -> None:
    was_state, was_host = row.power_state, row.host
    returned = row.missing_since is not None and "missing_since" in changes
    if not _CLAIMED.isdisjoint(changes):
        notices.changed.append(row.pk)
    for name, value in changes.items():
        setattr(row, name, value)
    outcome.changed += 1
    if row.host_id != was_host.pk:
        row.host = hosts[row.host_id]
        outcome.moved += 1
        notices.moves.append(VmMove(row.pk, was_host.pk, row.host_id))
        notices.touch(f"host:{was_host.pk}", "hosts")
        notices.event(
            "vm.moved", subject=row, from_state=was_host.name[:64], to_state=row.host.name[:64], severity="notice"
        )
    elif returned:
        notices.event("vm.returned", subject=row, data={"host": was_host.name})
    if row.power_state != was_state:
        if row.power_state in _STOPPED:
            notices.stopped.append(row.pk)
        if PowerState.UNKNOWN not in {was_state, row.power_state}:
            notices.event("vm.power_changed", subject=row, from_state=was_state, to_state=row.power_state)


def _create(endpoint: Endpoint, rows: list[Vm], notices: Notices, outcome: Outcome) -> None:
    Vm.objects.bulk_create(rows)
    outcome.appeared = len(rows)
    notices.changed += [row.pk for row in rows]
    if endpoint.synced_at is None:  # the first reading of all: one line instead of one per VM
        notices.event("vm.discovered", subject=rows[0].host, data={"vms": len(rows)})
    for row in rows:
        if endpoint.synced_at is not None:
            notices.event("vm.appeared", subject=row, to_state=row.power_state, data={"host": row.host.name})
        notices.touch_vm(row)
