"""Celery tasks: the reaper's and the reconciler's intervals. Any number of workers and beats is harmless."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from celery import shared_task
from django.utils import timezone

from cloudops.core import metrics, runtime
from cloudops.core.ticks import claim_tick
from cloudops.inventory.models import Connection, Endpoint, Vm
from consoles import reaper, reconcile

REAPER_TICK: Final = "console-reaper"
RECONCILE_TICK: Final = "console-reconcile"
EXPIRES_SECONDS: Final = 60
GHOSTS_EXPIRE_SECONDS: Final = 5


@shared_task(time_limit=300, soft_time_limit=280)
def reap() -> None:
    """Asked every few seconds, works once per cleanup interval; then one task per endpoint reconciles. Connections that
    are known to be ghosts do not wait for that: they take somebody's slot on the platform."""
    now = timezone.now()
    if ghosts := reconcile.vms_with_ghosts(now=now):
        reconcile_vms.apply_async(([str(vm_id) for vm_id in ghosts],), expires=GHOSTS_EXPIRE_SECONDS)
    interval = runtime.current().console_cleanup_interval_seconds
    if not claim_tick(REAPER_TICK, interval_seconds=interval, now=now):
        return
    try:
        reaper.reap(now=now)
    except Exception:
        metrics.REAPER_RUNS.labels(outcome="failed").inc()
        raise
    metrics.REAPER_RUNS.labels(outcome="ok").inc()
    up = Endpoint.objects.filter(hosts__connection=Connection.UP).distinct().order_by()
    for endpoint_id in up.values_list("pk", flat=True):
        reconcile_endpoint.apply_async((str(endpoint_id),), expires=EXPIRES_SECONDS)


@shared_task(time_limit=120, soft_time_limit=100)
def reconcile_endpoint(endpoint_id: str) -> None:
    """One endpoint, once per interval however often it is asked for."""
    now = timezone.now()
    endpoint = Endpoint.objects.filter(pk=endpoint_id).first()
    half = runtime.current().console_cleanup_interval_seconds / 2
    if endpoint is not None and claim_tick(f"{RECONCILE_TICK}:{endpoint_id}", interval_seconds=half, now=now):
        reconcile.reconcile_endpoint(endpoint=endpoint, now=now)


@shared_task(time_limit=120, soft_time_limit=100)
def reconcile_vms(vm_ids: list[str]) -> None:
    """VMs whose display connections just changed."""
    now = timezone.now()
    vms = Vm.objects.filter(pk__in=[UUID(vm_id) for vm_id in vm_ids]).select_related("host__endpoint")
    by_endpoint: dict[Endpoint, list[Vm]] = {}
    for vm in vms:
        by_endpoint.setdefault(vm.host.endpoint, []).append(vm)
    for endpoint, group in by_endpoint.items():
        reconcile.reconcile_vms(endpoint=endpoint, vms=group, now=now)
