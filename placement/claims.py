"""Claims: capacity taken on hosts by one conditional statement, so that schedulers together cannot take too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from django.db import IntegrityError, connection, transaction
from django.db.models import F, Model, Q, QuerySet

from cloudops.core.models import Operation
from cloudops.inventory.models import Vm
from placement import prepared, statements, versions
from placement.errors import AlreadyClaimed, CapacityGone, NothingIncoming
from placement.models import Claim, ClaimKind, HostCapacity


def take(
    *,
    host_id: UUID,
    vm: Vm,
    kind: str,
    vcpus: int,
    memory_mib: int,
    operation: Operation | None = None,
    ignore_hold: bool = False,
    ignore_schedulable: bool = False,
    now: datetime,
) -> Claim:
    """Takes room on a host in the caller's transaction, or in one of its own.

    The room is checked and taken in one statement, which also demands that the host is up, may be scheduled and is not
    held; ``ignore_schedulable`` and ``ignore_hold`` are for acts that somebody asked for on just this host. The VM's
    claim of the same kind on the same host is returned as it is. Raises :class:`CapacityGone` with the numbers, and
    :class:`AlreadyClaimed` when the VM has a claim of that kind elsewhere.
    """
    claim = Claim(
        pk=uuid4(),
        host_id=host_id,
        vm=vm,
        kind=kind,
        operation=operation,
        vcpus=vcpus,
        memory_mib=memory_mib,
        created_at=now,
    )
    try:
        with Once(claim), transaction.atomic():
            if insert(claim, ignore_hold=ignore_hold, ignore_schedulable=ignore_schedulable):
                return claim
    except AlreadyClaimed:
        found = Claim.objects.filter(vm=vm, kind=kind, host=host_id, operation=operation).first()
        if found is None:
            raise
        return found
    raise gone(claim)


def insert(
    claim: Claim,
    *,
    beside: Callable[[], Sequence[Model]] = tuple,
    structure: int | None = None,
    ignore_hold: bool = False,
    ignore_schedulable: bool = False,
) -> bool:
    """Takes the room and writes the claim, with the rows ``beside`` it (what led to it), all or nothing. They are asked
    for while the database is at work.

    False, and nothing is changed, when the host cannot take it (any more), or is not what was decided on: ``structure``
    stands for its cluster, tags, networks and storage.
    """
    terms = (ignore_hold, ignore_schedulable, structure)
    if connection.vendor == "postgresql":
        values = (*terms, *statements.values_of(claim))
        return prepared.run(statements.take_postgres(), values, then=lambda: _calls(beside(), claim)).count == 1
    with connection.cursor() as cursor, transaction.atomic():
        room = {"host_id": statements.key_of(claim.host_id), "vcpus": claim.vcpus, "memory_mib": claim.memory_mib}
        cursor.execute(statements.take_room(), room | dict(zip(statements.TERMS, terms, strict=True)))
        if cursor.rowcount != 1:
            return False
        for row in (claim, *beside()):
            row.save(force_insert=True)
        return True


def _calls(rows: Iterable[Model], claim: Claim) -> list[prepared.Call]:
    return [(statements.beside_postgres(type(row)), (*statements.values_of(row), claim.pk)) for row in rows]


@dataclass(frozen=True, slots=True)
class Once:
    """Around :func:`insert` and its transaction. Raises :class:`AlreadyClaimed` for a VM's second claim of a kind."""

    claim: Claim

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, IntegrityError):
            return
        vm_id, kind = self.claim.vm_id, self.claim.kind
        found = Claim.objects.filter(vm=vm_id, kind=kind).select_related("host__host", "vm").first()
        if found is not None:
            name = found.host.host.name
            raise AlreadyClaimed(f"{found.vm.name} has its room on {name}.", vm=str(vm_id), host=name) from error


def gone(claim: Claim) -> CapacityGone:
    """Why the host did not take it, as far as its row tells now."""
    row = HostCapacity.objects.select_related("host").filter(pk=claim.host_id).first()
    if row is None:
        return CapacityGone("The host is not there any more.", host=str(claim.host_id))
    vcpus, memory = row.vcpu_capacity - row.vcpu_claimed, row.memory_capacity_mib - row.memory_claimed_mib
    words = f"{row.host.name} has {vcpus} vCPUs and {memory} MiB left; {claim.vcpus} and {claim.memory_mib} are needed."
    if row.hold:
        words = f"{row.host.name} takes no VMs: {row.get_hold_display().lower()}."
    elif row.host.connection != "up":
        words = f"{row.host.name} takes no VMs: it is not reachable."
    elif row.host.platform_maintenance:
        words = f"{row.host.name} takes no VMs: it is in its platform's own maintenance mode."
    elif not row.host.schedulable:
        words = f"{row.host.name} takes no VMs: it is cordoned."
    return CapacityGone(
        words,
        host=str(claim.host_id),
        needed={"vcpus": claim.vcpus, "memory_mib": claim.memory_mib},
        available={"vcpus": vcpus, "memory_mib": memory},
        hold=row.hold,
        schedulable=row.host.schedulable,
        connection=row.host.connection,
    )


def release(
    claim: Claim | None = None,
    *,
    operation: Operation | None = None,
    vm: Vm | None = None,
    kinds: Iterable[str] | None = None,
    now: datetime,
) -> int:
    """Gives back one claim, or all of an operation's or a VM's (of these ``kinds``); returns how many there were.

    Doing it twice is harmless. In the caller's transaction.
    """
    del now
    rows = Claim.objects.all()
    if claim is None and operation is None and vm is None:
        raise ValueError("Say whose claims.")
    if claim is not None:
        rows = rows.filter(pk=claim.pk)
    if operation is not None:
        rows = rows.filter(operation=operation)
    if vm is not None:
        rows = rows.filter(vm=vm)
    if kinds is not None:
        rows = rows.filter(kind__in=list(kinds))
    return give_back(rows)


def give_back(rows: QuerySet[Claim]) -> int:
    """Deletes these claims and takes them off their hosts' sums, hosts always in the same order."""
    with transaction.atomic():
        found = list(rows.order_by("pk").select_for_update(of=("self",)))
        Claim.objects.filter(pk__in=[one.pk for one in found]).delete()
        add_up(found, sign=-1)
    return len(found)


@dataclass(slots=True)
class _Sum:
    vcpus: int = 0
    memory_mib: int = 0


def add_up(claims: Iterable[Claim], *, sign: int) -> None:
    """Adds these claims to (or takes them off) their hosts' sums, with no look at the capacity."""
    sums: dict[UUID, _Sum] = {}
    for one in claims:
        entry = sums.setdefault(one.host_id, _Sum())
        entry.vcpus += sign * one.vcpus
        entry.memory_mib += sign * one.memory_mib
    for host_id in sorted(sums):
        HostCapacity.objects.filter(pk=host_id).update(
            vcpu_claimed=F("vcpu_claimed") + sums[host_id].vcpus,
            memory_claimed_mib=F("memory_claimed_mib") + sums[host_id].memory_mib,
            version=versions.Now(),
        )


def arrive(*, vm: Vm, operation: Operation, running: bool = True, now: datetime) -> Claim | None:
    """The VM has arrived: what was kept for it becomes its own, and what it had at its source is given back, in one
    transaction. A VM that is off needs no room: then everything is given back and None returned.

    Doing it again for a VM that has arrived is harmless. Raises :class:`NothingIncoming`.
    """
    with transaction.atomic():
        rows = {one.kind: one for one in Claim.objects.filter(vm=vm).order_by("pk").select_for_update(of=("self",))}
        incoming = rows.get(ClaimKind.INCOMING)
        if incoming is None or incoming.operation_id != operation.pk:
            own = rows.get(ClaimKind.VM)
            if own is not None and own.host_id == _destination(operation, vm):
                return own
            raise NothingIncoming(f"No room is kept for {vm.name}.", vm=str(vm.pk), operation=str(operation.pk))
        own = rows.get(ClaimKind.VM)
        ended = [own] if own is not None else []
        if not running:
            ended.append(incoming)
        Claim.objects.filter(pk__in=[one.pk for one in ended]).delete()
        add_up(ended, sign=-1)
        if not running:
            return None
        incoming.kind, incoming.operation = ClaimKind.VM, None
        incoming.save(update_fields=["kind", "operation"])
    return incoming


def settle(*, vm: Vm, operation: Operation, running: bool = True, now: datetime) -> None:
    """A resize has ended: what was kept for it is given back, and the VM's own claim becomes what its row says that it
    has, room or not, in one transaction. A VM that is off needs no room. Doing it again is harmless. ``vm`` with its
    host as they are now."""
    with transaction.atomic():
        mine = Claim.objects.filter(Q(kind=ClaimKind.VM) | Q(operation=operation), vm=vm)
        rows = list(mine.order_by("pk").select_for_update(of=("self",)))
        own = next((one for one in rows if one.kind == ClaimKind.VM and one.host_id == vm.host_id), None)
        ended = [one for one in rows if one is not own or not running]
        Claim.objects.filter(pk__in=[one.pk for one in ended]).delete()
        changed = list(ended)
        if own is not None and running:
            more = Claim(host_id=own.host_id, vcpus=own.vcpus - vm.vcpus, memory_mib=own.memory_mib - vm.memory_mib)
            changed.append(more)  # what it had beyond what it has
            own.vcpus, own.memory_mib = vm.vcpus, vm.memory_mib
            own.save(update_fields=["vcpus", "memory_mib"])
        add_up(changed, sign=-1)
    if running and own is None:
        adopt(vms=[vm], now=now)


def _destination(operation: Operation, vm: Vm) -> UUID | None:
    migration = getattr(operation, "migration", None)
    return migration.target_id if migration is not None else vm.host_id


def adopt(*, vms: Iterable[Vm], now: datetime) -> int:
    """Running VMs without a claim get one on the host where they are, room or not: the hypervisor is the truth.

    Returns how many got one. Claims of VMs that have one already stay as they are.
    """
    wanted = {vm.pk: vm for vm in vms}
    if not wanted:
        return 0
    with transaction.atomic():
        hosts = {vm.host_id for vm in wanted.values()}
        HostCapacity.objects.bulk_create([HostCapacity(host_id=pk) for pk in sorted(hosts)], ignore_conflicts=True)
        list(HostCapacity.objects.filter(pk__in=hosts).order_by("pk").select_for_update())
        taken = set(Claim.objects.filter(kind=ClaimKind.VM, vm__in=list(wanted)).values_list("vm_id", flat=True))
        new = [
            Claim(
                host_id=vm.host_id,
                vm=vm,
                kind=ClaimKind.VM,
                vcpus=vm.vcpus,
                memory_mib=vm.memory_mib,
                adopted=True,
                created_at=now,
            )
            for pk, vm in sorted(wanted.items())
            if pk not in taken
        ]
        Claim.objects.bulk_create(new, batch_size=1_000)
        add_up(new, sign=1)
    return len(new)
