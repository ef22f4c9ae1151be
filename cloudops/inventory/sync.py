"""Keeps the inventory in step with the hypervisors. The hypervisor is the truth; there is no other input."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from django.db import transaction

from cloudops.core.actors import Actor, system
from cloudops.core.errors import NotFound, Refusal
from cloudops.core.metrics import SYNC_SECONDS
from cloudops.hypervisors.port import (
    HostFacts,
    HypervisorError,
    Overloaded,
    VmFacts,
    VmNotFound,
)
from cloudops.inventory import endpoints, reconcile_hosts, reconcile_vms
from cloudops.inventory.models import Endpoint, Host
from cloudops.inventory.notices import Notices

log = structlog.get_logger(__name__)
INVENTORY: Actor = system("inventory")


class CredentialUnreadable(HypervisorError):
    """The stored secret cannot be decrypted here."""

    code = "credential-unreadable"
    title = "The stored credential of this host cannot be decrypted."
    remedy = "Add the key it was encrypted with to CLOUDOPS_ENCRYPTION_KEYS, or enter the credential again."


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one synchronisation found and changed; ``error`` is the reason why the endpoint could not be read."""

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
    started = time.perf_counter()
    try:
        hosts, vms = _read(endpoint)
    except Overloaded as error:  # our own queue is full: that says nothing about the host
        _measure(started, error.code)
        return SyncReport(reachable=False, error=error.code)
    except HypervisorError as error:
        report = apply_failure(endpoint, error, now=now)
        _measure(started, error.code)
        return report
    report = apply_facts(endpoint, hosts, vms, now=now)
    _measure(started, "ok")
    return report


def refresh_vm(endpoint: Endpoint, ref: str, *, now: datetime) -> None:
    """Re-reads one VM and writes the differences. Raises :class:`HypervisorError` when it cannot be read; a VM that
    the hypervisor does not know any more is marked missing instead."""
    try:
        facts: list[VmFacts] = [endpoints.call(endpoint, "vm", lambda hypervisor: hypervisor.vm(ref))]
    except VmNotFound:
        facts = []
    with transaction.atomic():
        locked = _lock(endpoint)
        rows = {host.ref: host for host in Host.objects.filter(endpoint=locked)}
        notices = Notices(by=INVENTORY, now=now)
        reconcile_vms.reconcile(locked, rows, facts, read_at=now, notices=notices, only_ref=ref)
        notices.send()


def _read(endpoint: Endpoint) -> tuple[Sequence[HostFacts], Sequence[VmFacts]]:
    try:
        return endpoints.read(endpoint)
    except Refusal as error:
        raise CredentialUnreadable(error.detail) from error


def apply_facts(endpoint: Endpoint, hosts: Sequence[HostFacts], vms: Sequence[VmFacts], *, now: datetime) -> SyncReport:
    """Writes what was read from ``now`` on. Raises :class:`NotFound` when the endpoint is not there any more."""
    with transaction.atomic():
        locked = _lock(endpoint)
        notices = Notices(by=INVENTORY, now=now)
        rows = reconcile_hosts.reconcile(locked, hosts, notices)
        outcome = reconcile_vms.reconcile(locked, rows, vms, read_at=now, notices=notices)
        outcome.removed = reconcile_vms.follow_up_missing(locked, notices=notices)
        Endpoint.objects.filter(pk=locked.pk).update(synced_at=now)
        notices.send()
    return SyncReport(
        reachable=True,
        hosts=len(hosts),
        vms=len(vms),
        appeared=outcome.appeared,
        changed=outcome.changed,
        moved=outcome.moved,
        vanished=outcome.vanished,
        removed=outcome.removed,
    )


def apply_failure(endpoint: Endpoint, error: HypervisorError, *, now: datetime) -> SyncReport:
    """Marks the endpoint's hosts unreachable, unless it was read since ``now``."""
    log.warning("endpoint_unreadable", endpoint=str(endpoint.pk), code=error.code, detail=error.detail)
    with transaction.atomic():
        locked = _lock(endpoint)
        if locked.synced_at is None or locked.synced_at <= now:  # else somebody has read it since we began
            notices = Notices(by=INVENTORY, now=now)
            reconcile_hosts.mark_unreachable(locked, error, notices)
            notices.send()
    return SyncReport(reachable=False, error=error.code)


def _lock(endpoint: Endpoint) -> Endpoint:
    """The endpoint's row, locked: two synchronisations of one endpoint follow one another."""
    locked = Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
    if locked is None:
        raise NotFound("This endpoint was removed.")
    return locked


def _measure(started: float, outcome: str) -> None:
    SYNC_SECONDS.labels(outcome).observe(time.perf_counter() - started)
