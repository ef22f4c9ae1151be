"""Moves VMs between the hosts of one vCenter (``MigrateVM_Task``; ``RelocateVM_Task`` where disks move too).

vCenter does it by itself: what this process begins is a task, which anybody who asks for the VM's recent tasks finds
again. How it ended is remembered here only; a later process looks where the VM is.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import (
    Busy,
    HostNotConnected,
    HypervisorError,
    InvalidState,
    MigrationInterrupted,
    MigrationOptions,
    MigrationState,
    MigrationStatus,
    MigrationTarget,
    Objection,
    PowerState,
    TimedOut,
    VmNotFound,
    VmNotRunning,
)
from cloudops.hypervisors.vsphere import destination, tasks
from cloudops.hypervisors.vsphere.errors import typed
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import Found, find_vm
from cloudops.hypervisors.vsphere.progress import Progress, moving_task, of_task
from cloudops.hypervisors.vsphere.session import Session

SETTLE_SECONDS = 0.5
"""How long a refusal of what was begun is waited for, so that it is told at once."""
CANCEL_SECONDS = 2.0
MOST_REMEMBERED = 1_000
ALIVE = (PowerState.RUNNING, PowerState.PAUSED)


@dataclass(slots=True)
class _Job:
    """A migration that this process began. ``ended`` once its last word is in ``status``."""

    task: str
    label: str
    status: MigrationStatus
    ended: bool = False


class Migrations:
    """The jobs that move VMs away from this endpoint's hosts, as the port promises them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> Sequence[Objection]:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.check_migration`."""

        def ask(link: Link) -> Sequence[HypervisorError]:
            found = find_vm(link, vm_ref)
            found.demand_host()
            try:
                place = destination.find(link, found, target, self._session.spec)
            except HypervisorError as error:
                return [error]
            return destination.objections(link, found, place, copy_storage=options.copy_storage)

        return [Objection(error.code, error.detail or error.title, error.remedy) for error in self._session.call(ask)]

    def begin(self, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.migrate`."""
        self._session.call(lambda link: self._begin(link, vm_ref, target, options))

    def _begin(self, link: Link, vm_ref: str, target: MigrationTarget, options: MigrationOptions) -> None:
        found = find_vm(link, vm_ref)
        found.demand_host()
        _demand_ready(found, options)
        if moving_task(link, found.vm) is not None:
            raise Busy(f"VM {found.name} is being moved already.")
        place = destination.find(link, found, target, self._session.spec)
        self._forget(vm_ref)
        task = destination.start(link, found, place, copy_storage=options.copy_storage)
        job = _Job(task._moId, options.label, MigrationStatus(MigrationState.RUNNING, label=options.label))
        with self._lock:
            self._jobs[vm_ref] = job
            while len(self._jobs) > MOST_REMEMBERED:
                self._jobs.popitem(last=False)
        try:
            tasks.settle(link, task, SETTLE_SECONDS)
        except HypervisorError as error:
            self._forget(vm_ref)
            raise _of_migration(error) from error

    def status(self, vm_ref: str) -> MigrationStatus:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.migration`."""
        return self._session.call(lambda link: self._status(link, vm_ref))

    def _status(self, link: Link, vm_ref: str) -> MigrationStatus:
        with self._lock:
            job = self._jobs.get(vm_ref)
        try:
            found = find_vm(link, vm_ref)
        except VmNotFound:
            return job.status if job is not None and job.ended else MigrationStatus(MigrationState.NONE)
        task = vim.Task(job.task, link.stub) if job is not None and not job.ended else moving_task(link, found.vm)
        progress = of_task(link, task, found.vm) if task is not None else None
        if job is None or job.ended:
            if progress is None or progress.ended:
                return job.status if job is not None else MigrationStatus(MigrationState.NONE)
            if job is not None:  # a later one, which another process began
                self._forget(vm_ref)
            return progress.status
        return self._follow(job, progress)

    def _follow(self, job: _Job, progress: Progress | None) -> MigrationStatus:
        """What this process began, and what has become of it."""
        if progress is None:
            error = MigrationInterrupted("vCenter has forgotten the task; it was probably restarted.")
            status = replace(job.status, state=MigrationState.FAILED, error=error)
        elif progress.error is not None:
            status = replace(progress.status, state=MigrationState.FAILED, error=_of_migration(progress.error))
        else:
            status = progress.status
        with self._lock:
            job.status = replace(status, label=job.label)
            job.ended = progress is None or progress.ended
            return job.status

    def abort(self, vm_ref: str) -> None:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.abort_migration`; returns when it has ended, or soon."""

        def stop(link: Link) -> None:
            found = find_vm(link, vm_ref)
            task = moving_task(link, found.vm)
            if task is None:
                raise InvalidState(f"No migration of {found.name} is running.")
            try:
                task.CancelTask()
            except (vim.fault.InvalidState, vmodl.fault.NotSupported) as error:
                raise InvalidState(f"vCenter does not stop the migration of {found.name} any more.") from error
            until = time.monotonic() + CANCEL_SECONDS
            while time.monotonic() < until and moving_task(link, found.vm) is not None:
                time.sleep(tasks.FIRST_LOOK_SECONDS * 2)

        self._session.call(stop)

    def _forget(self, vm_ref: str) -> None:
        with self._lock:
            self._jobs.pop(vm_ref, None)


def _demand_ready(found: Found, options: MigrationOptions) -> None:
    if options.live and found.power_state not in ALIVE:
        raise VmNotRunning(f"VM {found.name} is {found.power_state}.")
    if not options.live and found.power_state in ALIVE:
        raise InvalidState(f"VM {found.name} is {found.power_state}; only a VM that is off moves without its memory.")


def _of_migration(error: HypervisorError) -> HypervisorError:
    """What the loss of a host or the task's own time limit means for a migration that was under way."""
    if isinstance(error, HostNotConnected | TimedOut):
        return MigrationInterrupted(
            error.detail,
            platform_code=error.platform_code,
            numbers=error.numbers,
            remedy="Check that both hosts are connected in vCenter, then try again or choose another host.",
        )
    return typed(error)
