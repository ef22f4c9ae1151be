"""Celery's edge of the inventory."""

from __future__ import annotations

import structlog
from celery import shared_task
from django.utils import timezone

from cloudops.core.errors import Conflict, NotFound
from cloudops.core.models import Operation
from cloudops.core.queue import enqueue
from cloudops.inventory import power, schedule, sync
from cloudops.inventory.hosts import SYNC_TASK
from cloudops.inventory.models import Endpoint

log = structlog.get_logger(__name__)
SYNC_EXPIRES_SECONDS = 60.0
"""A synchronisation that waited this long is not worth doing: the next one is due."""


@shared_task(name="cloudops.inventory.tasks.sync_due")
def sync_due() -> None:
    """Queues one task per endpoint whose interval passed, so that a hung one delays no other."""
    for endpoint in schedule.claim_due(now=timezone.now()):
        if not enqueue(SYNC_TASK, str(endpoint.pk), expires_seconds=SYNC_EXPIRES_SECONDS):
            break


@shared_task(name=SYNC_TASK)
def sync_endpoint(endpoint_id: str) -> None:
    """Synchronises one endpoint."""
    endpoint = Endpoint.objects.filter(pk=endpoint_id).first()
    if endpoint is None:
        return
    try:
        sync.sync_endpoint(endpoint, now=timezone.now())
    except NotFound:
        log.info("endpoint_removed_meanwhile", endpoint=endpoint_id)


@shared_task(name=power.TASK)
def run_power(operation_id: str) -> None:
    """Executes a power operation; one that another worker has taken up is left to it."""
    operation = Operation.objects.filter(pk=operation_id).first()
    if operation is None:
        return
    try:
        power.run(operation, clock=timezone.now)
    except Conflict as conflict:
        log.info("operation_taken", operation=operation_id, code=conflict.code)
