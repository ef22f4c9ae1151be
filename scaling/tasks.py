"""Celery's edge of scaling. Resizes run where everything waits for hypervisors (queue ``hypervisors``, threads)."""

from __future__ import annotations

from typing import Any, Final

import structlog
from celery import shared_task
from celery.signals import worker_shutting_down
from django.utils import timezone

from cloudops.core.errors import Conflict, Refusal
from cloudops.core.models import Operation
from cloudops.core.ticks import claim_tick
from cloudops.hypervisors.port import HypervisorError
from cloudops.inventory.models import Vm
from scaling import history, next_start, resize_run, resizes

log = structlog.get_logger(__name__)
RECOVER_SECONDS: Final = 1.0
PURGE_SECONDS: Final = 3600.0


@shared_task(name=resizes.TASK, acks_late=False)
def run_resize(operation_id: str) -> None:
    """Executes a resize; one that another worker has in hand is left to it. Not acknowledged late: whatever happens to
    this worker, :func:`recover_resizes` queues it again, and sooner."""
    operation = Operation.objects.filter(pk=operation_id).first()
    if operation is None:
        return
    try:
        resize_run.run(operation, clock=timezone.now)
    except Conflict as conflict:
        log.info("operation_taken", operation=operation_id, code=conflict.code)


@shared_task(name="scaling.tasks.recover_resizes")
def recover_resizes() -> None:
    """Every second or two in the whole installation: resizes that lost their worker, and sizes that waited for a start
    of which nobody told."""
    now = timezone.now()
    if claim_tick("resizes-recover", interval_seconds=RECOVER_SECONDS, now=now):
        resizes.recover(now=now)
        next_start.follow(now=now)


@shared_task(name=next_start.TASK)
def define_while_off(vm_id: str) -> None:
    """What waited until a VM was off. What it fails at is tried again as long as the VM is off."""
    vm = Vm.objects.filter(pk=vm_id).first()
    if vm is None:
        return
    try:
        next_start.define_while_off(vm, now=timezone.now())
    except (HypervisorError, Refusal) as error:
        log.warning("not_defined_while_off", vm=vm_id, error=str(error))


@shared_task(name="scaling.tasks.purge_sizes")
def purge_sizes() -> None:
    """Removes the sizes that VMs had, past their retention."""
    now = timezone.now()
    if claim_tick("sizes-purge", interval_seconds=PURGE_SECONDS - 60, now=now):
        history.purge(now=now)


@worker_shutting_down.connect(dispatch_uid="scaling-resizes-let-go")
def _let_go(**_: Any) -> None:
    """Runners in this process hand their resizes on."""
    resize_run.stopping.set()
