"""How far a task that moves a VM is. vSphere tells per cent of the task; memory is counted from that."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import HypervisorError, MigrationState, MigrationStatus
from cloudops.hypervisors.vsphere import properties, tasks
from cloudops.hypervisors.vsphere.link import Link

MOVES = frozenset({"migrate", "relocate", "executevmotionlro"})
"""How ``TaskInfo.descriptionId`` ends for tasks that move VMs: ours, the vSphere Client's and DRS's."""
UNDER_WAY = (vim.TaskInfo.State.running, vim.TaskInfo.State.queued)


@dataclass(frozen=True, slots=True)
class Progress:
    """``error``: why it failed; ``status`` is RUNNING or COMPLETED otherwise."""

    status: MigrationStatus
    ended: bool
    error: HypervisorError | None = None


def kind_of(info: vim.TaskInfo) -> str:
    """The end of its ``descriptionId``: ``migrate`` of ``VirtualMachine.migrate``."""
    return str(info.descriptionId or "").rpartition(".")[2].lower()


def running_task(link: Link, entity: vim.ManagedEntity, kinds: frozenset[str]) -> vim.Task | None:
    """The task of one of these kinds that is at work on the object now."""
    for task in properties.read(link, entity, ("recentTask",)).get("recentTask") or ():
        try:
            info = tasks.info(link, task)
        except vmodl.fault.ManagedObjectNotFound:
            continue
        if info.state in UNDER_WAY and kind_of(info) in kinds:
            found: vim.Task = task
            return found
    return None


def moving_task(link: Link, vm: vim.VirtualMachine) -> vim.Task | None:
    """The task that moves the VM now, whoever began it."""
    return running_task(link, vm, MOVES)


def of_task(link: Link, task: vim.Task, vm: vim.VirtualMachine) -> Progress | None:
    """None: vCenter does not know the task any more."""
    try:
        info = tasks.info(link, task)
    except vmodl.fault.ManagedObjectNotFound:
        return None
    values = properties.read(link, vm, ("config.hardware.memoryMB", "runtime.powerState"))
    runs = values.get("runtime.powerState") == vim.VirtualMachine.PowerState.poweredOn
    memory_mib = int(values.get("config.hardware.memoryMB") or 0) if runs else 0
    seconds = _elapsed_seconds(link, info)
    if info.state == vim.TaskInfo.State.success:
        status = MigrationStatus(
            MigrationState.COMPLETED,
            memory_total_mib=memory_mib,
            memory_sent_mib=memory_mib,
            elapsed_seconds=seconds,
        )
        return Progress(status, ended=True)
    sent = memory_mib * min(100, max(0, int(info.progress or 0))) // 100
    status = MigrationStatus(
        MigrationState.RUNNING,
        memory_total_mib=memory_mib,
        memory_remaining_mib=memory_mib - sent,
        memory_sent_mib=sent,
        rate_mib_per_second=sent / seconds if seconds else 0.0,
        elapsed_seconds=seconds,
    )
    failed = info.state == vim.TaskInfo.State.error
    return Progress(status, ended=failed, error=tasks.failure(info) if failed else None)


def _elapsed_seconds(link: Link, info: vim.TaskInfo) -> float:
    """By vCenter's own clock: ours may be another."""
    began: datetime | None = info.startTime or info.queueTime
    if began is None:
        return 0.0
    until = info.completeTime or vim.ServiceInstance("ServiceInstance", link.stub).CurrentTime()
    return max(0.001, (until - began).total_seconds())
