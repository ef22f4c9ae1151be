"""A VM's one operation slot, held for a single bounded call: nothing else resizes, moves or starts it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from cloudops.core import operations, operations_view
from cloudops.core.actors import Actor
from cloudops.core.errors import Refusal
from cloudops.core.models import Operation
from cloudops.hypervisors.port import HypervisorError
from cloudops.inventory.models import Connection, Vm
from cloudops.inventory.power import HostNotUp
from scaling.resize_errors import VmNotResizable


def demand_reported(vm: Vm) -> None:
    """``vm`` with its host joined. Raises :class:`VmNotResizable` and ``HostNotUp``."""
    if vm.missing_since is not None:
        raise VmNotResizable(f"Its hypervisor does not report {vm.name} any more.")
    if vm.host.connection != Connection.UP:
        raise HostNotUp(f"The host of {vm.name} cannot be reached.")


def demand_free(vm: Vm) -> None:
    """Before its hypervisor is asked for anything: who is at work on it decides soon enough. Raises
    ``OperationRunning``."""
    mine = Operation.objects.filter(subject_type=Vm._meta.label_lower, subject_id=str(vm.pk))
    running = mine.filter(status__in=[Operation.Status.PENDING, Operation.Status.RUNNING]).first()
    if running is not None:
        raise operations.OperationRunning(operations_view.at_work(running), operation=str(running.pk))


@contextmanager
def briefly(vm: Vm, *, kind: str, title: str, step: str, by: Actor, now: datetime) -> Iterator[Operation]:
    """An operation around the call, which ends as the call does. A process that dies in it leaves an operation that is
    failed as stale. Raises ``OperationRunning`` and what is raised within."""
    operation = operations.start(kind=kind, title=title[:200], subject=vm, steps=[step], by=by, now=now)
    operations.begin(operation, by=by, now=now)
    try:
        yield operation
    except (HypervisorError, Refusal) as error:
        words = error.detail or error.title
        remedy = error.remedy_text if isinstance(error, Refusal) else error.remedy
        operations.step(operation, 0, "failed", now=now, detail=words)
        operations.fail(operation, by=by, now=now, code=error.code, detail=words, remedy=remedy)
        raise
    operations.step(operation, 0, "done", now=now)
    operations.succeed(operation, by=by, now=now)
