"""Compares sessions with the display connections that a platform really has.

Connections that CloudOps did not make are recorded and counted; one of our own whose session is over (a ghost, for
example half-open after a server died) is dropped where the platform can. A host that does not answer is left as it is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import system
from cloudops.core.errors import Unavailable
from cloudops.hypervisors.port import ConsoleConnection, HypervisorError, NotSupported, PowerState, Unreachable
from cloudops.inventory import endpoints
from cloudops.inventory.models import Endpoint, Vm
from consoles.models import ATTACHED, ConsoleSession, ForeignConnection, Status

log = structlog.get_logger(__name__)

BUDGET_SECONDS: Final = 60.0
CALL_SECONDS: Final = 5.0
GHOST_SECONDS: Final = 15
"""A session over for less long may have its connection still closing."""
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
class Sorted:
    """A VM's connections: how many are ours, whose session is over, and whose are not ours at all."""

    ghosts: list[ConsoleConnection]
    foreign: list[ConsoleConnection]


def reconcile_endpoint(*, endpoint: Endpoint, now: datetime) -> Reconciled:
    """Every running VM of one management endpoint, within a minute; blocking. A large endpoint is sampled at random,
    so that each VM has its turn."""
    vms = list(Vm.objects.filter(host__endpoint=endpoint, power_state=PowerState.RUNNING, missing_since__isnull=True))
    random.shuffle(vms)
    return reconcile_vms(endpoint=endpoint, vms=vms, now=now)


def reconcile_vms(*, endpoint: Endpoint, vms: Sequence[Vm], now: datetime) -> Reconciled:
    """These VMs of one endpoint. Stops at the first sign that the host does not answer."""
    result = Reconciled()
    give_up = time.monotonic() + BUDGET_SECONDS
    for index, vm in enumerate(vms):
        left = give_up - time.monotonic()
        if left <= 0:
            result.skipped += len(vms) - index
            result.unreachable = f"{len(vms) - index} VMs were not asked within {BUDGET_SECONDS:g} s."
            break
        try:
            _reconcile(endpoint, vm, min(CALL_SECONDS, left), now, result)
        except NotSupported:
            return result
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


def _reconcile(endpoint: Endpoint, vm: Vm, timeout_seconds: float, now: datetime, result: Reconciled) -> None:
    found = endpoints.call(endpoint, "connections", lambda driver: driver.connections(vm.ref), timeout_seconds)
    sessions = list(ConsoleSession.objects.filter(vm=vm).select_related("process"))
    result.vms += 1
    if any(session.status == Status.CONNECTING and session.is_attached(now) for session in sessions):
        result.skipped += 1  # one of ours is just coming, and cannot be told from a foreign one yet
        return
    parts = sort(found, sessions, now)
    dropped = _drop(endpoint, vm, parts.ghosts, timeout_seconds)
    result.ghosts_dropped += len(dropped)
    left = [ghost for ghost in parts.ghosts if ghost.label not in dropped]
    result.foreign += len(parts.foreign) + len(left)
    with transaction.atomic():
        if dropped:
            events.record(
                "console.ghosts_dropped", by=RECONCILER, now=now, subject=vm, data={"connections": sorted(dropped)}
            )
        _record(vm, [*parts.foreign, *left], now)


def sort(found: Iterable[ConsoleConnection], sessions: Iterable[ConsoleSession], now: datetime) -> Sorted:
    """Tells ours from ghosts and from foreign ones.

    Ours is known by our own end's address and port. A passed descriptor has no address: as many of those are ours as
    we have open without one. A connection of a session that is over, for a moment at least, is a ghost.
    """
    rows = list(sessions)
    open_now = [row for row in rows if row.status in ATTACHED and row.is_attached(now)]
    ours = {(row.relay_host, row.relay_port) for row in open_now if row.relay_port}
    nameless = sum(1 for row in open_now if not row.relay_port)
    over = {(row.relay_host, row.relay_port) for row in rows if row.relay_port and _is_over(row, now)} - ours
    known = {(row.relay_host, row.relay_port) for row in rows if row.relay_port}
    ghosts, foreign = [], []
    for connection in found:
        address = (connection.client_host, connection.client_port)
        if connection.family == "unix":
            if nameless:
                nameless -= 1
            else:
                foreign.append(connection)
        elif address in over:
            ghosts.append(connection)
        elif address not in known:
            foreign.append(connection)
    return Sorted(ghosts, foreign)


def _is_over(session: ConsoleSession, now: datetime) -> bool:
    """Ended, dropped or lapsed long enough ago for its connection to be gone by itself."""
    before = now - timedelta(seconds=GHOST_SECONDS)
    if session.status == Status.CLOSED:
        return session.ended_at is not None and session.ended_at < before
    if session.status in ATTACHED:
        return session.process is None or session.process.lease_until < before
    return session.status == Status.DETACHED and session.resume_until is not None and session.resume_until < now


def _drop(endpoint: Endpoint, vm: Vm, ghosts: list[ConsoleConnection], timeout_seconds: float) -> set[str]:
    if not ghosts:
        return set()
    labels = [ghost.label for ghost in ghosts]
    try:
        return set(
            endpoints.call(
                endpoint, "drop_connections", lambda driver: driver.drop_connections(vm.ref, labels), timeout_seconds
            )
        )
    except NotSupported:
        return set()


def _record(vm: Vm, foreign: list[ConsoleConnection], now: datetime) -> None:
    rows = ForeignConnection.objects.filter(vm=vm)
    before = set(rows.values_list("label", flat=True))
    present = {connection.label[:255]: connection for connection in foreign}
    for label, connection in present.items():
        ForeignConnection.objects.update_or_create(
            vm=vm,
            label=label,
            defaults={
                "host_id": vm.host_id,
                "client_host": connection.client_host[:255],
                "client_port": connection.client_port or None,
                "last_seen_at": now,
            },
            create_defaults={
                "host_id": vm.host_id,
                "client_host": connection.client_host[:255],
                "client_port": connection.client_port or None,
                "first_seen_at": now,
                "last_seen_at": now,
            },
        )
    gone = before - set(present)
    if gone:
        rows.filter(label__in=gone).delete()
    if before != set(present):
        live.publish("consoles", "hosts", f"host:{vm.host_id}", f"vm:{vm.pk}")
