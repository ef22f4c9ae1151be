"""The hosts' own maintenance mode (``EnterMaintenanceMode_Task``, ``ExitMaintenanceMode_Task``)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import HypervisorError, InvalidState, MigrationAborted, TimedOut
from cloudops.hypervisors.vsphere import properties, tasks
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import find_host, host_problem
from cloudops.hypervisors.vsphere.progress import UNDER_WAY, running_task
from cloudops.hypervisors.vsphere.session import Session

ENTER_SECONDS: Final = 600
"""vSphere gives up after so long with a host that others' VMs keep busy, and says so."""
LEAVE_SECONDS: Final = 300
SETTLE_SECONDS: Final = 1.0
CANCEL_SECONDS: Final = 2.0
MOST_NAMES: Final = 3
_ENTERING: Final = frozenset({"entermaintenancemode"})
_LEAVING: Final = frozenset({"exitmaintenancemode"})
_PATHS: Final = ("name", "runtime.inMaintenanceMode", "runtime.connectionState")


class Maintenance:
    """Into maintenance mode and out of it, as the port promises. Which task takes a host there is remembered, so that
    asking again tells how it failed, once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tasks: dict[str, str] = {}
        self._lock = threading.Lock()

    def enter(self, host_ref: str) -> None:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.enter_maintenance`. Powered-off VMs stay on the host."""
        self._session.call(lambda link: self._enter(link, host_ref))

    def _enter(self, link: Link, host_ref: str) -> None:
        host = find_host(link, host_ref)
        values = properties.read(link, host, _PATHS)
        if values.get("runtime.inMaintenanceMode"):
            self._forget(host_ref)
            return
        if (known := self._known(link, host_ref)) is not None:
            self._look(link, host, host_ref, known)
            return
        _demand_connected(values)
        if running_task(link, host, _ENTERING) is not None:
            return
        task = host.EnterMaintenanceMode_Task(ENTER_SECONDS, False, None)
        with self._lock:
            self._tasks[host_ref] = task._moId
        try:
            tasks.settle(link, task, SETTLE_SECONDS)
        except HypervisorError as error:
            self._forget(host_ref)
            raise _of_entering(link, host, error) from error

    def _look(self, link: Link, host: vim.HostSystem, host_ref: str, info: vim.TaskInfo) -> None:
        """What has become of the task that was begun; a failure is told once, then it can be asked for anew."""
        if info.state in UNDER_WAY:
            return
        self._forget(host_ref)
        if info.state == vim.TaskInfo.State.error:
            raise _of_entering(link, host, tasks.failure(info))

    def leave(self, host_ref: str) -> None:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.leave_maintenance`."""
        self._session.call(lambda link: self._leave(link, host_ref))

    def _leave(self, link: Link, host_ref: str) -> None:
        host = find_host(link, host_ref)
        self._forget(host_ref)
        entering = running_task(link, host, _ENTERING)
        if entering is not None:
            _cancel(link, entering)
        values = properties.read(link, host, _PATHS)
        if not values.get("runtime.inMaintenanceMode") or running_task(link, host, _LEAVING) is not None:
            return
        _demand_connected(values)
        tasks.settle(link, host.ExitMaintenanceMode_Task(LEAVE_SECONDS), SETTLE_SECONDS)

    def _known(self, link: Link, host_ref: str) -> vim.TaskInfo | None:
        with self._lock:
            task = self._tasks.get(host_ref)
        if task is None:
            return None
        try:
            return tasks.info(link, vim.Task(task, link.stub))
        except vmodl.fault.ManagedObjectNotFound:  # vCenter forgets old tasks, and all when it is restarted
            self._forget(host_ref)
            return None

    def _forget(self, host_ref: str) -> None:
        with self._lock:
            self._tasks.pop(host_ref, None)


def _demand_connected(values: Mapping[str, Any]) -> None:
    if problem := host_problem(values):
        raise InvalidState(f"{values.get('name')} {problem}.", remedy="Reconnect the host in vCenter, then try again.")


def _cancel(link: Link, task: vim.Task) -> None:
    """Ends the way there, and waits for that a moment: it may be too late."""
    try:
        task.CancelTask()
        tasks.settle(link, task, CANCEL_SECONDS)
    except (vim.fault.InvalidState, vmodl.fault.NotSupported, MigrationAborted):
        return  # it is over, or was just now; what the host says then counts


def _of_entering(link: Link, host: vim.HostSystem, error: HypervisorError) -> HypervisorError:
    """The task's own words are those of any task."""
    if isinstance(error, MigrationAborted):
        return InvalidState("Somebody cancelled it in vSphere.", platform_code=error.platform_code)
    if isinstance(error, TimedOut):
        running = _running(link, host)
        names = ", ".join(running[:MOST_NAMES]) + (" and more" if len(running) > MOST_NAMES else "")
        there = f"{len(running)} VMs still run there: {names}." if running else "No VM runs there any more."
        return InvalidState(
            f"It did not get there within {ENTER_SECONDS} s. {there}",
            platform_code=error.platform_code,
            remedy="Move or stop what runs there, then try again.",
        )
    return error


def _running(link: Link, host: vim.HostSystem) -> list[str]:
    rows = properties.read_around(link, host, ("vm",), {vim.VirtualMachine: ("name", "runtime.powerState")})
    on = vim.VirtualMachine.PowerState.poweredOn
    return sorted(str(row.values.get("name")) for row in rows if row.values.get("runtime.powerState") == on)
