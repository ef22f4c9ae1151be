"""Keeps the inventory in step with the hypervisors. The hypervisor is the truth; there is no other input."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from django.db import transaction

from cloudops.core.actors import Actor, system
from cloudops.core.errors import NotFound, Unavailable
from cloudops.core.metrics import SYNC_SECONDS
from cloudops.hypervisors.port import (
    HostFacts,
    HypervisorError,
    Overloaded,
    VmFacts,
    VmNotFound,
)
from cloudops.inventory import endpoints, reconcile_hosts, reconcile_vms
from cloudops.inventory.models import Endpoint, Host, Vm
from cloudops.inventory.notices import Notices

log = structlog.get_logger(__name__)
INVENTORY: Actor = system("inventory")


class CredentialUnreadable(HypervisorError):
    """The stored secret cannot be decrypted here."""

    code = "credential-unreadable"
    title = "The stored credential of this host cannot be decrypted."
    remedy = "Add the key it was encrypted with to CLOUDOPS_ENCRYPTION_KEYS, or enter the credential again."


@dataclass(frozen=True, slots=True)
class Reading:
    """What an endpoint reported, or why it could not be read."""

    hosts: Sequence[HostFacts] = ()
    vms: Sequence[VmFacts] = ()
    error: HypervisorError | None = None


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one synchronisation found and changed; ``error`` is the code of why the endpoint could not be read."""

    reachable: bool
    hosts: int = 0
    vms: int = 0
    appeared: int = 0
    changed: int = 0
    moved: int = 0
    vanished: int = 0
    removed: int = 0
    error: str = ""


def sync_endpoint(endpoint: Endpoint, *, now: datetime) -> SyncReport:
    """Reads hosts and VMs of one endpoint (each within its timeout) and writes the differences.

    An endpoint that cannot be read has its hosts marked unreachable, with the reason; that raises nothing.
    Raises :class:`NotFound` when the endpoint is being removed.
    """
    return apply(endpoint, read(endpoint), now=now)


def read(endpoint: Endpoint) -> Reading:
    """Asks the endpoint; no database is used. Never raises for the endpoint's sake."""
    started = time.perf_counter()
    try:
        reading = Reading(*endpoints.read(endpoint))
    except HypervisorError as error:
        reading = Reading(error=error)
    except Unavailable as error:
        reading = Reading(error=CredentialUnreadable(error.detail))
    outcome = reading.error.code if reading.error else "ok"
    SYNC_SECONDS.labels(outcome).observe(time.perf_counter() - started)
    return reading


def apply(endpoint: Endpoint, reading: Reading, *, now: datetime) -> SyncReport:
    """Writes what was read from ``now`` on, in one transaction. Raises :class:`NotFound` for a removed endpoint."""
    error = reading.error
    if error is None:
        return _apply_facts(endpoint, reading, now=now)
    log.warning("endpoint_unreadable", endpoint=str(endpoint.pk), code=error.code, detail=error.detail)
    if not isinstance(error, Overloaded):  # then our own queue is full, which says nothing about the host
        _apply_failure(endpoint, error, now=now)
    return SyncReport(reachable=False, error=error.code)


def refresh_vm(endpoint: Endpoint, ref: str, *, now: datetime) -> None:
    """Re-reads one VM and writes the differences. Raises :class:`HypervisorError` when it cannot be read; a VM that
    the hypervisor does not know any more is marked missing instead."""
    apply_vms(endpoint, {ref: read_vm(endpoint, ref)}, now=now)


def hand_over(endpoint: Endpoint, ref: str, *, now: datetime) -> bool:
    """A VM is known to have moved to ``endpoint``: reads it there and gives its row the new host at once, running or
    not; whether it is there. Who was first, this or a synchronisation, tells of the move; the other finds it done.

    Raises :class:`HypervisorError` when it cannot be read.
    """
    facts = read_vm(endpoint, ref)
    if facts is not None:
        apply_vms(endpoint, {ref: facts}, now=now, arrived=True)
    return facts is not None


def assume_moved(vm: Vm, host: Host, *, now: datetime) -> None:
    """A VM is known to have gone to ``host``, which cannot be asked: its row follows, its power state is unknown."""
    with transaction.atomic():
        row = Vm.objects.select_for_update(of=("self",)).select_related("host").get(pk=vm.pk)
        if row.host_id == host.pk:
            return
        notices = Notices(by=INVENTORY, now=now)
        reconcile_vms.move_unseen(row, host, notices)
        notices.send()


def read_vm(endpoint: Endpoint, ref: str) -> VmFacts | None:
    """One VM, or None when the hypervisor does not know it. Raises :class:`HypervisorError`."""
    try:
        return endpoints.call(endpoint, "vm", lambda hypervisor: hypervisor.vm(ref))
    except VmNotFound:
        return None


def apply_vms(endpoint: Endpoint, facts: Mapping[str, VmFacts | None], *, now: datetime, arrived: bool = False) -> None:
    """Writes what was read of some VMs, by ref, from ``now`` on; ``arrived``: they are known to have moved here.
    Raises :class:`NotFound` for a removed endpoint."""
    with transaction.atomic():
        locked = _lock(endpoint)
        rows = {host.ref: host for host in Host.objects.filter(endpoint=locked)}
        notices = Notices(by=INVENTORY, now=now)
        known = [fact for fact in facts.values() if fact is not None]
        refs = list(facts)
        moved = refs if arrived else ()
        reconcile_vms.reconcile(locked, rows, known, read_at=now, notices=notices, only_refs=refs, arrived=moved)
        notices.send()


def _apply_facts(endpoint: Endpoint, reading: Reading, *, now: datetime) -> SyncReport:
    with transaction.atomic():
        locked = _lock(endpoint)
        notices = Notices(by=INVENTORY, now=now)
        rows = reconcile_hosts.reconcile(locked, reading.hosts, notices)
        outcome = reconcile_vms.reconcile(locked, rows, reading.vms, read_at=now, notices=notices)
        outcome.removed = reconcile_vms.follow_up_missing(locked, notices=notices)
        Endpoint.objects.filter(pk=locked.pk).update(synced_at=now, offered_certificate=None)
        notices.send()
    return SyncReport(
        reachable=True,
        hosts=len(reading.hosts),
        vms=len(reading.vms),
        appeared=outcome.appeared,
        changed=outcome.changed,
        moved=outcome.moved,
        vanished=outcome.vanished,
        removed=outcome.removed,
    )


def _apply_failure(endpoint: Endpoint, error: HypervisorError, *, now: datetime) -> None:
    with transaction.atomic():
        locked = _lock(endpoint)
        if not reconcile_vms.is_newer(locked.synced_at, now):  # else somebody has read it since we began
            notices = Notices(by=INVENTORY, now=now)
            reconcile_hosts.mark_unreachable(locked, error, notices)
            notices.send()


def _lock(endpoint: Endpoint) -> Endpoint:
    """The endpoint's row, locked: two synchronisations of one endpoint follow one another."""
    locked = Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
    if locked is None:
        raise NotFound("This endpoint was removed.")
    return locked
