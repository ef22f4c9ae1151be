"""Moving one VM to another host: ask for it, abort it, see what moves, take up what a dead worker left.

The migration is an operation; ``migration_run`` executes it in a worker, from the rows alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, Self
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from cloudops.core import events, held, live, operations, runtime
from cloudops.core.actors import Actor
from cloudops.core.errors import Refusal
from cloudops.core.models import Operation, RuntimeSettings
from cloudops.core.queue import enqueue
from cloudops.hypervisors.port import DiskKind, Kind, MigrationOptions, PowerState
from cloudops.inventory import endpoints
from cloudops.inventory.models import Connection, Host, Vm
from cloudops.inventory.power import HostNotUp
from placement import decisions, requests
from placement.errors import NoHostFits
from placement.migration_errors import (
    AlreadyThere,
    DifferentPlatforms,
    LocalStorage,
    MigrationOver,
    NothingToReach,
    VmNotMovable,
    VmPinned,
)
from placement.migration_turns import Turns, known
from placement.models import ClaimKind, Maintenance, VmMigration
from placement.spec import Purpose, Spec

KIND: Final = "vm.migrate"
TASK: Final = "placement.tasks.run_migration"
STEPS: Final = ["Claim room", "Check", "Copy memory", "Verify", "Clean up"]
CLAIM, CHECK, COPY, VERIFY, CLEAN = range(5)
LOCAL_URI: Final = r"^[^:]*:///|\+unix|//([^@/]*@)?(localhost|127\.)"
OUT_OF_REACH: Final[Mapping[str, str]] = {
    Kind.LIBVIRT: "Other hosts cannot reach it: it has no migration URI.",
    Kind.VSPHERE: "It is behind another vCenter.",
}
ONE_VCENTER: Final = (
    "Choose a host behind the same vCenter, or move it in the vSphere Client (“cross vCenter vMotion”); "
    "CloudOps follows."
)
UNCLAIMED_SECONDS: Final = 30
"""After this long without a worker the operation says that none may be running."""


@dataclass(frozen=True, slots=True)
class Options:
    """How one VM is moved. Make it with :meth:`of`; what is not said is the installation's setting at that moment."""

    bandwidth_mib_per_second: int
    downtime_milliseconds: int
    timeout_seconds: int
    auto_converge: bool
    post_copy: bool
    copy_storage: bool = False
    force_pinned: bool = False
    across_clusters: bool | None = None
    drop_soft_tags: bool = False
    ignore_hold: bool = False
    ignore_schedulable: bool = False

    @classmethod
    def of(cls, settings: RuntimeSettings, **said: Any) -> Self:
        """The settings' values, except those ``said``."""
        known = {
            "bandwidth_mib_per_second": settings.migration_bandwidth_mib_per_second,
            "downtime_milliseconds": settings.migration_downtime_milliseconds,
            "timeout_seconds": settings.migration_timeout_seconds,
            "auto_converge": settings.migration_auto_converge,
            "post_copy": settings.migration_post_copy,
        }
        return cls(**{**known, **said})

    @classmethod
    def stored(cls, values: dict[str, Any]) -> Self:
        """As they were when the migration was asked for, whatever the settings are now."""
        return cls(**{one.name: values[one.name] for one in fields(cls)})

    def for_driver(self, *, live: bool, label: str) -> MigrationOptions:
        """What the hypervisor is told."""
        return MigrationOptions(
            live=live,
            bandwidth_mib_per_second=self.bandwidth_mib_per_second,
            downtime_milliseconds=self.downtime_milliseconds,
            auto_converge=self.auto_converge,
            post_copy=self.post_copy,
            copy_storage=self.copy_storage,
            label=label,
        )


@dataclass(frozen=True, slots=True)
class Running:
    """Migrations that have not ended, by host; one that waits for its turn counts too."""

    total: int
    out_of: Counter[UUID] = field(default_factory=Counter)
    into: Counter[UUID] = field(default_factory=Counter)

    def on(self, host_id: UUID) -> int:
        """Into and out of one host."""
        return self.out_of[host_id] + self.into[host_id]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one VM's part of a bulk request: an operation, or why not."""

    vm: Vm
    operation: Operation | None = None
    refusal: Refusal | None = None


def migrate(
    vm: Vm,
    *,
    to: Host | None,
    options: Options | None = None,
    spec: Spec | None = None,
    maintenance: Maintenance | None = None,
    operation: Operation | None = None,
    by: Actor,
    now: datetime,
) -> Operation:
    """Decides for a host (``to``, or the best that fits), claims room on it and starts the operation, all or nothing.

    Live when the VM runs or is paused, else only its definition moves. ``spec`` replaces the VM's own wishes. With
    ``operation``, the caller's in the caller's transaction, the move is its first :data:`STEPS` and it goes on once the
    VM has arrived; ``decisions.recording`` is the caller's then.
    Raises ``OperationRunning``, ``NoHostFits`` (its decision is kept), ``HostNotUp``, :class:`VmNotMovable`,
    :class:`VmPinned`, :class:`AlreadyThere`, :class:`LocalStorage`, :class:`NothingToReach`,
    :class:`DifferentPlatforms`.
    """
    vm = Vm.objects.select_related("host__endpoint", "host__cluster", "project", "offering", "template").get(pk=vm.pk)
    options = options or Options.of(runtime.current())
    mode = demand_movable(vm, to, options)
    wanted = spec or spec_of_move(vm, options, now=now)
    if to is not None:
        wanted = replace(wanted, only_hosts=(str(to.pk),), only_reason=f"It was asked to go to {to.name}.")
    if operation is not None:
        return _claim(operation, vm, mode, options, wanted, maintenance, by, now, continues=True)
    try:
        with decisions.recording():
            return _start(vm, mode, options, wanted, maintenance, by, now)
    except NoHostFits as refusal:
        told = {"decision": refusal.numbers.get("decision"), "detail": refusal.detail}
        reason = refusal.tenant_words  # the VM's tenants read its events
        events.record("vm.migration_refused", by=by, now=now, subject=vm, reason=reason, severity="notice", data=told)
        raise


def _start(
    vm: Vm, mode: str, options: Options, wanted: Spec, maintenance: Maintenance | None, by: Actor, now: datetime
) -> Operation:
    operation = operations.start(
        kind=KIND, title=f"Migrate {vm.name}"[:200], subject=vm, steps=STEPS, by=by, now=now, resumable=True
    )
    return _claim(operation, vm, mode, options, wanted, maintenance, by, now, continues=False)


def _claim(
    operation: Operation,
    vm: Vm,
    mode: str,
    options: Options,
    wanted: Spec,
    maintenance: Maintenance | None,
    by: Actor,
    now: datetime,
    *,
    continues: bool,
) -> Operation:
    placed = decisions.place(
        vm,
        spec=wanted,
        kind=ClaimKind.INCOMING,
        operation=operation,
        ignore_hold=options.ignore_hold,
        ignore_schedulable=options.ignore_schedulable,
        by=by,
        now=now,
    )
    target = Host.objects.select_related("endpoint").get(pk=placed.claim.host_id)
    _demand_reachable(vm.host, target)
    if not continues:
        operation.title = f"Migrate {vm.name} to {target.name}"[:200]
        operation.params = {"vm": str(vm.pk), "source": str(vm.host_id), "target": str(target.pk), "mode": mode}
        operation.save(update_fields=["title", "params"])
    VmMigration.objects.create(
        operation=operation,
        vm=vm,
        source=vm.host,
        target=target,
        decision=placed.decision,
        maintenance=maintenance,
        continues=continues,
        mode=mode,
        options=asdict(options) | {"power_state": str(vm.power_state)},
        created_at=now,
    )
    claimed = f"{placed.claim.vcpus} vCPUs and {placed.claim.memory_mib} MiB on {target.name}"
    operations.step(operation, CLAIM, "done", now=now, detail=claimed)
    live.publish("migrations", f"vm:{vm.pk}", f"host:{vm.host_id}", f"host:{target.pk}")
    transaction.on_commit(partial(enqueue, TASK, str(operation.pk)), robust=True)
    return operation


def spec_of_move(vm: Vm, options: Options, *, now: datetime) -> Spec:
    """What the VM needs of a destination: :func:`specs_of_moves` of one."""
    return specs_of_moves([vm], options, now=now)[vm.pk]


def specs_of_moves(
    vms: Sequence[Vm], options: Options, *, offering_tags: bool = True, now: datetime
) -> dict[UUID, Spec]:
    """What each VM needs of a destination. A pin does not count: it is a refusal of its own, or was overruled.

    The number of queries is the same for one VM and for all; ``offering_tags`` as in ``requests.specs_for``.
    """
    free = [copy(vm) for vm in vms]
    for vm in free:
        vm.pinned = False
    return requests.specs_for(
        free,
        purpose=Purpose.MIGRATE,
        across_clusters=options.across_clusters,
        out_of_reach=_out_of_reach(vms),
        drop_soft_tags=options.drop_soft_tags,
        copy_storage=options.copy_storage,
        offering_tags=offering_tags,
        now=now,
    )


def demand_movable(vm: Vm, to: Host | None, options: Options) -> str:
    """The mode; or a refusal in words. ``vm`` with its host joined."""
    if vm.missing_since is not None:
        raise VmNotMovable(f"{vm.host.name} does not report {vm.name} any more.")
    if vm.host.connection != Connection.UP:
        raise HostNotUp(f"{vm.host.name}: {vm.host.error_detail or 'cannot be reached.'}")
    if vm.power_state == PowerState.UNKNOWN:
        raise VmNotMovable(f"The power state of {vm.name} is not known yet.")
    if vm.pinned and not options.force_pinned:
        raise VmPinned(f"{vm.name} is pinned to {vm.host.name}.")
    local = [disk for disk in vm.disks if disk.get("kind") == DiskKind.LOCAL and not disk.get("removable")]
    if local and not options.copy_storage:
        words = ", ".join(f"{disk.get('target')} ({disk.get('source')})" for disk in local)
        raise LocalStorage(f"Only {vm.host.name} reaches {words}.", disks=len(local))
    if to is not None:
        if to.pk == vm.host_id:
            raise AlreadyThere(f"{vm.name} is on {to.name}.")
        if to.connection != Connection.UP:
            raise HostNotUp(f"{to.name}: {to.error_detail or 'cannot be reached.'}")
    alive = vm.power_state in {PowerState.RUNNING, PowerState.PAUSED}
    return VmMigration.Mode.LIVE if alive else VmMigration.Mode.OFFLINE


def _demand_reachable(source: Host, target: Host) -> None:
    if source.endpoint_id == target.endpoint_id:
        return
    if source.endpoint.kind != target.endpoint.kind:
        raise DifferentPlatforms(f"{source.name} is {source.endpoint.kind}, {target.name} {target.endpoint.kind}.")
    if target.endpoint.kind == Kind.VSPHERE:
        words = f"{source.name} is behind {source.endpoint.uri}, {target.name} behind {target.endpoint.uri}."
        raise NothingToReach(words, remedy=ONE_VCENTER)
    if not endpoints.migration_uri(target):
        raise NothingToReach(f"{target.name} is known as {target.endpoint.uri}, which works only from here.")


def _out_of_reach(vms: Sequence[Vm]) -> dict[UUID, dict[str, str]]:
    """Hosts that the VMs' own hosts cannot reach, as they are known by an address that works only from here."""
    local = Q(endpoint__kind=Kind.LIBVIRT, migration_uri="", endpoint__uri__regex=LOCAL_URI)
    apart = Q(endpoint__kind=Kind.VSPHERE)
    rows = list(Host.objects.filter(local | apart).order_by().values_list("pk", "endpoint_id", "endpoint__kind"))
    kinds = {endpoint_id: kind for _, endpoint_id, kind in rows}
    found: dict[UUID, dict[str, str]] = {}
    for own in {vm.host.endpoint_id for vm in vms}:
        in_vcenter = kinds.get(own) == Kind.VSPHERE  # of other kinds are vCenters' hosts anyway
        found[own] = {
            str(pk): OUT_OF_REACH[kind]
            for pk, endpoint_id, kind in rows
            if endpoint_id != own and (in_vcenter or kind != Kind.VSPHERE)
        }
    return {vm.pk: found[vm.host.endpoint_id] for vm in vms if found[vm.host.endpoint_id]}


def bulk(
    vms: Iterable[Vm], *, to: Host | None, options: Options | None = None, by: Actor, now: datetime
) -> list[Outcome]:
    """:func:`migrate` for each VM by itself, in the given order; one that is refused hinders no other."""
    outcomes = []
    for vm in vms:
        try:
            outcomes.append(Outcome(vm, operation=migrate(vm, to=to, options=options, by=by, now=now)))
        except Refusal as refusal:
            outcomes.append(Outcome(vm, refusal=refusal))
    return outcomes


def abort(migration: VmMigration, *, by: Actor, now: datetime) -> None:
    """Asks its runner to abort it: the operation ends ``cancelled`` with the VM at its source, or well if it was too
    late. One that no worker has in hand ends at once. Doing it twice is harmless. Raises :class:`MigrationOver`."""
    with transaction.atomic():
        row = VmMigration.objects.select_for_update(of=("self",)).select_related("operation").get(pk=migration.pk)
        if row.ended_at is not None:
            raise MigrationOver(f"It {row.operation.get_status_display().lower()} at {row.ended_at:%H:%M:%S} UTC.")
        if row.abort_requested_at is None:
            row.abort_requested_at, row.abort_requested_by = now, by.name[:200]
            row.runner_until = now if not row.runner else row.runner_until
            row.save(update_fields=["abort_requested_at", "abort_requested_by", "runner_until"])
            events.record("vm.migration_abort_asked", by=by, now=now, subject=row.vm, severity="notice")
            live.publish("migrations", f"operation:{row.pk}", f"vm:{row.vm_id}")
        if not row.runner:
            transaction.on_commit(partial(enqueue, TASK, str(row.pk)), robust=True)
    migration.abort_requested_at, migration.abort_requested_by = row.abort_requested_at, row.abort_requested_by


def running(host_ids: Sequence[UUID] | None = None) -> Running:
    """What moves now, or waits to; not what waits for a silent host. With ``host_ids`` only their migrations are
    counted."""
    rows = known().order_by()
    if host_ids is not None:
        rows = rows.filter(Q(source_id__in=host_ids) | Q(target_id__in=host_ids))
    pairs = list(rows.values_list("source_id", "target_id"))
    return Running(len(pairs), Counter(pair[0] for pair in pairs), Counter(pair[1] for pair in pairs))


def recover(*, now: datetime) -> int:
    """Queues every migration that no worker has in hand: those whose turn has come, oldest first, and those whose
    worker is gone; returns how many. The next runner looks where the VM really is before it does anything."""
    rows = VmMigration.objects.filter(held.lost(now=now)).order_by("created_at", "pk")
    turns, count = Turns.read(), 0
    for row in rows.select_related("operation", "source", "target", "maintenance"):
        if row.phase == VmMigration.Phase.PREPARING and row.abort_requested_at is None:
            if turns.why_not_yet(row):
                continue
            turns.count(row)
        if not held.send_for(row, now=now):
            continue
        _say_if_nobody_comes(row, now)
        if not enqueue(TASK, str(row.pk), expires_seconds=held.REQUEUE_SECONDS):
            break
        count += 1
    return count


def _say_if_nobody_comes(row: VmMigration, now: datetime) -> None:
    waited = (now - row.created_at).total_seconds()
    if row.operation.status == Operation.Status.PENDING and waited > UNCLAIMED_SECONDS:
        words = f"No worker has taken it up for {waited:.0f} s. Is a worker for the queue “migrations” running?"
        operations.step(row.operation, CHECK, "pending", now=now, detail=words)
