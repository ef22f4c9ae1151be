"""Celery's edge of placement. Migrations run in workers of their own (queue ``migrations``, a pool of threads), as each
takes minutes of waiting and next to no CPU; everything else is short and runs where all jobs do."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import structlog
from celery import shared_task
from celery.signals import worker_shutting_down
from django.utils import timezone

from cloudops.core.errors import Conflict
from cloudops.core.models import Operation
from cloudops.core.queue import enqueue
from cloudops.core.ticks import claim_tick
from placement import decisions, maintenance, migration_run, reconciling, vm_migrations
from placement.maintenance import jobs, platform

log = structlog.get_logger(__name__)
ADVANCE_TASK: Final = "placement.tasks.advance_maintenance"
RECOVER_SECONDS: Final = 1.0
CLAIMS_SECONDS: Final = 30.0
PURGE_SECONDS: Final = 3600.0
ADVANCE_EXPIRES_SECONDS: Final = 10.0


@shared_task(name=vm_migrations.TASK, acks_late=False)
def run_migration(operation_id: str) -> None:
    """Executes a migration; one that another worker has in hand is left to it. Not acknowledged late: whatever happens
    to this worker, :func:`recover_migrations` queues it again, and sooner."""
    operation = Operation.objects.filter(pk=operation_id).first()
    if operation is None:
        return
    try:
        migration_run.run(operation, clock=timezone.now)
    except Conflict as conflict:
        log.info("operation_taken", operation=operation_id, code=conflict.code)
        return
    vm_migrations.recover(now=timezone.now())  # the next one's turn may have come


@shared_task(name="placement.tasks.recover_migrations")
def recover_migrations() -> None:
    """Every second or two in the whole installation: migrations that wait for their turn or lost their worker."""
    now = timezone.now()
    if claim_tick("migrations-recover", interval_seconds=RECOVER_SECONDS, now=now):
        vm_migrations.recover(now=now)


@shared_task(name="placement.tasks.reconcile_claims")
def reconcile_claims() -> None:
    """Claims and capacity as they should be, should a signal have been lost."""
    now = timezone.now()
    if claim_tick("claims-reconcile", interval_seconds=CLAIMS_SECONDS - 5, now=now):
        reconciling.reconcile(now=now)


@shared_task(name="placement.tasks.advance_due")
def advance_due() -> None:
    """Queues one task per maintenance job that is to be looked at, so that none waits for another."""
    now = timezone.now()
    if claim_tick("maintenance-advance", interval_seconds=RECOVER_SECONDS, now=now):
        for maintenance_id in maintenance.advance_due(now=now):
            if not enqueue(ADVANCE_TASK, str(maintenance_id), expires_seconds=ADVANCE_EXPIRES_SECONDS):
                break


@shared_task(name=ADVANCE_TASK)
def advance_maintenance(maintenance_id: str) -> None:
    """One look at one maintenance job; one that another worker has in hand is left to it."""
    maintenance.advance(UUID(maintenance_id), clock=timezone.now)


@shared_task(name="placement.tasks.follow_platforms")
def follow_platforms() -> None:
    """Queues one task per host that is on its way into its platform's own maintenance mode, or out of it."""
    now = timezone.now()
    if claim_tick("maintenance-platforms", interval_seconds=RECOVER_SECONDS, now=now):
        for row_id in platform.due(now=now):
            if not enqueue(platform.TASK, str(row_id), expires_seconds=ADVANCE_EXPIRES_SECONDS):
                break


@shared_task(name=platform.TASK)
def follow_platform(row_id: str) -> None:
    """One look at one such host, which asks its platform."""
    platform.follow(int(row_id), clock=timezone.now)


@shared_task(name="placement.tasks.purge_decisions")
def purge_decisions() -> None:
    """Removes decisions and ended maintenance jobs past their retention."""
    now = timezone.now()
    if claim_tick("decisions-purge", interval_seconds=PURGE_SECONDS - 60, now=now):
        decisions.purge(now=now)
        jobs.purge(now=now)


@worker_shutting_down.connect(dispatch_uid="placement-migrations-let-go")
def _let_go(**_: Any) -> None:
    """Runners in this process hand their migrations on; the hypervisors go on with them."""
    migration_run.stopping.set()
