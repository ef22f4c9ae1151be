"""Compares sessions with the display connections that a platform really has.

Connections that CloudOps did not make are recorded and counted; one of our own whose session is over (a ghost, for
example half-open after a server died) is dropped where the platform can. A platform that only counts its connections
(vSphere before 7.0.1) tells how many are not ours. A host that does not answer is left as it is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F

from cloudops.core import events, live
from cloudops.core.actors import system
from cloudops.core.errors import Unavailable
from cloudops.hypervisors.port import (
    ConsoleConnection,
    HostNotConnected,
    Hypervisor,
    HypervisorError,
    NotSupported,
    PowerState,
    TimedOut,
    Unreachable,
)
from cloudops.inventory import endpoints
from cloudops.inventory.models import Connection, Endpoint, Vm
from consoles import connections
from consoles.connections import GHOST_SECONDS
from consoles.models import ATTACHED, ConsoleSession, ForeignConnection, OwnConnection, Status

log = structlog.get_logger(__name__)
T = TypeVar("T")

BUDGET_SECONDS: Final = 60.0
CALL_SECONDS: Final = 5.0
INVENTORY_SECONDS: Final = 20.0
MOST_SILENT_HOSTS: Final = 3
RECONCILER: Final = system("reconciler")


@dataclass(slots=True)
class Reconciled:
    """What one round found. ``unreachable`` says why an endpoint could not be asked; empty when it could."""

    vms: int = 0
    skipped: int = 0
    foreign: int = 0
    ghosts_dropped: int = 0
    unreachable: str = ""


@dataclass(frozen=True, slots=True)
class _Round:
    """One look at some VMs. ``besides``: a session that is just connecting and knows so; ``grace_seconds``: how long a
    session that just ended is given to close its connection."""

    endpoint: Endpoint
    now: datetime
    result: Reconciled
    besides: UUID | None
    grace_seconds: float

    def call(self, name: str, function: Callable[[Hypervisor], T], timeout_seconds: float) -> T:
        return endpoints.call(self.endpoint, name, function, timeout_seconds)


def reconcile_endpoint(*, endpoint: Endpoint, now: datetime) -> Reconciled:
    """Every running VM of one management endpoint, within a minute; blocking. A large endpoint is sampled at random,
    so that each VM has its turn; where the platform counts connections, only VMs that have some are asked."""
    vms = list(Vm.objects.filter(host__endpoint=endpoint, power_state=PowerState.RUNNING, missing_since__isnull=True))
    random.shuffle(vms)
    return reconcile_vms(endpoint=endpoint, vms=_worth_asking(endpoint, vms), now=now)


def _worth_asking(endpoint: Endpoint, vms: list[Vm]) -> list[Vm]:
    """Without those that have no connection, as far as the platform tells that for all at once."""
    if not vms or not any(vm.max_consoles for vm in vms):
        return vms  # no limit of its own: it does not count either
    try:
        facts = endpoints.call(endpoint, "vms", lambda driver: driver.vms(), INVENTORY_SECONDS)
    except (HypervisorError, Unavailable):
        return vms  # the first of them will tell
    quiet = {one.ref for one in facts if one.console_connections == 0}
    noted = ForeignConnection.objects.filter(vm__host__endpoint=endpoint).order_by().values_list("vm_id", flat=True)
    ours = OwnConnection.objects.filter(vm__host__endpoint=endpoint).order_by().values_list("vm_id", flat=True)
    known = {*noted, *ours}
    return [vm for vm in vms if vm.ref not in quiet or vm.pk in known]


def reconcile_vms(
    *,
    endpoint: Endpoint,
    vms: Sequence[Vm],
    now: datetime,
    besides: UUID | None = None,
    grace_seconds: float = GHOST_SECONDS,
) -> Reconciled:
    """These VMs of one endpoint. VMs of a host that does not answer are left; when the endpoint itself does not, or
    several of its hosts, all that are left are."""
    result = Reconciled()
    look = _Round(endpoint, now, result, besides, grace_seconds)
    give_up = time.monotonic() + BUDGET_SECONDS
    silent: set[UUID] = set()
    for index, vm in enumerate(vms):
        left = give_up - time.monotonic()
        if left <= 0 or len(silent) >= MOST_SILENT_HOSTS:
            result.skipped += len(vms) - index
            result.unreachable = result.unreachable or f"{len(vms) - index} VMs were not asked in {BUDGET_SECONDS:g} s."
            break
        if vm.host_id in silent:
            result.skipped += 1
            continue
        try:
            _reconcile(look, vm, min(CALL_SECONDS, left))
        except NotSupported:
            return result
        except (HostNotConnected, TimedOut) as error:
            silent.add(vm.host_id)
            result.skipped += 1
            result.unreachable = str(error)
        except (Unreachable, Unavailable) as error:
            result.skipped += len(vms) - index
            result.unreachable = str(error)
            break
        except HypervisorError as error:
            result.skipped += 1
            log.warning("console_reconcile_failed", vm=vm.name, error=str(error))
    if result.unreachable:
        log.warning(
            "console_reconcile_cut_short", endpoint=endpoint.uri, skipped=result.skipped, why=result.unreachable
        )
    return result


def vms_with_ghosts(*, now: datetime) -> list[UUID]:
    """VMs that have a connection of ours under a name, whose console is over or has another connection by now; those
    whose host can be asked."""
    live_ones = OwnConnection.objects.filter(
        session__status__in=ATTACHED, session__process__lease_until__gt=now, attachment=F("session__attachment")
    )
    over = OwnConnection.objects.exclude(pk__in=live_ones.order_by().values("pk"))
    over = over.filter(vm__host__connection=Connection.UP)
    return list(over.order_by().values_list("vm_id", flat=True).distinct())


def _reconcile(look: _Round, vm: Vm, timeout_seconds: float) -> None:
    counted = None
    try:
        found = list(look.call("connections", lambda driver: driver.connections(vm.ref), timeout_seconds))
    except NotSupported:
        found, counted = [], look.call("vm", lambda driver: driver.vm(vm.ref), timeout_seconds).console_connections
        if counted is None:
            raise
    sessions = list(ConsoleSession.objects.filter(vm=vm).select_related("process"))
    look.result.vms += 1
    _note_size(vm, len(found) if counted is None else counted)
    # One of ours that is just coming cannot be told from a foreign one yet; a ghost with a name can.
    is_coming = any(
        row.status == Status.CONNECTING and row.is_attached(look.now) and row.pk != look.besides for row in sessions
    )
    if counted is not None:
        if is_coming:
            look.result.skipped += 1
        else:
            _note_count(look, vm, counted, sessions)
        return
    own = list(OwnConnection.objects.filter(vm=vm).select_related("session__process"))
    sessions = [row for row in sessions if row.pk != look.besides]
    parts = connections.sort(
        found, sessions, look.now, own=own, account=look.endpoint.username, grace_seconds=look.grace_seconds
    )
    names = {one.label for one in own}
    ghosts = [ghost for ghost in parts.ghosts if not is_coming or ghost.label in names]
    dropped = _drop(look, vm, ghosts, timeout_seconds)
    with transaction.atomic():
        if dropped:
            events.record(
                "console.ghosts_dropped", by=RECONCILER, now=look.now, subject=vm, data={"connections": sorted(dropped)}
            )
        gone = {one.pk for one in parts.gone} | {one.pk for one in own if one.label in dropped}
        OwnConnection.objects.filter(pk__in=gone).delete()
        if not is_coming:
            _record(vm, _rows([one for one in ghosts if one.label not in dropped], parts.foreign), look)
    look.result.ghosts_dropped += len(dropped)
    look.result.skipped += is_coming


def _note_size(vm: Vm, count: int) -> None:
    """Where the platform counts, the inventory shows how many it had when it was last asked."""
    if vm.console_connections is not None and vm.console_connections != count:
        Vm.objects.filter(pk=vm.pk).update(console_connections=count)


def _drop(look: _Round, vm: Vm, ghosts: list[ConsoleConnection], timeout_seconds: float) -> set[str]:
    if not ghosts:
        return set()
    labels = [ghost.label for ghost in ghosts]
    try:
        return set(
            look.call("drop_connections", lambda driver: driver.drop_connections(vm.ref, labels), timeout_seconds)
        )
    except NotSupported:
        return set()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A row for :class:`ForeignConnection`."""

    label: str
    is_named: bool = True
    is_ghost: bool = False
    user_name: str = ""
    client_host: str = ""
    client_port: int | None = None


def _rows(ghosts: Iterable[ConsoleConnection], foreign: Iterable[ConsoleConnection]) -> list[_Seen]:
    """Ghosts that could not be dropped take slots as foreign ones do."""
    both = [(ghost, True) for ghost in ghosts] + [(one, False) for one in foreign]
    return [
        _Seen(
            label=one.label[:255],
            is_ghost=is_ghost,
            user_name=one.user_name[:255],
            client_host=one.client_host[:255],
            client_port=one.client_port or None,
        )
        for one, is_ghost in both
    ]


def _note_count(look: _Round, vm: Vm, counted: int, sessions: Iterable[ConsoleSession]) -> None:
    """What the platform counts beyond our open consoles is foreign, or a ghost; nothing tells which, or ends one."""
    ours = sum(1 for row in sessions if row.is_attached(look.now) and row.pk != look.besides)
    rows = [_Seen(label=f"unnamed {number}", is_named=False) for number in range(1, counted - ours + 1)]
    with transaction.atomic():
        _record(vm, rows, look)


def _record(vm: Vm, seen: Sequence[_Seen], look: _Round) -> None:
    look.result.foreign += len(seen)
    rows = ForeignConnection.objects.filter(vm=vm)
    before = set(rows.values_list("label", "is_ghost"))
    for one in seen:
        values = {
            "host_id": vm.host_id,
            "is_named": one.is_named,
            "is_ghost": one.is_ghost,
            "user_name": one.user_name,
            "client_host": one.client_host,
            "client_port": one.client_port,
            "last_seen_at": look.now,
        }
        ForeignConnection.objects.update_or_create(
            vm=vm, label=one.label, defaults=values, create_defaults={**values, "first_seen_at": look.now}
        )
    present = {(one.label, one.is_ghost) for one in seen}
    gone = {label for label, _ in before} - {label for label, _ in present}
    if gone:
        rows.filter(label__in=gone).delete()
    if before != present:
        live.publish("consoles", "hosts", f"host:{vm.host_id}", f"vm:{vm.pk}")
