"""A host's maintenance mode and its connection to vCenter."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake import moving, tasks
from tests.vsphere.fake.entities import Host, Vm
from tests.vsphere.fake.methods.moving import move
from tests.vsphere.fake.service import Call, method
from tests.vsphere.fake.types import Fault, refuse, vim, vmodl

MAINTENANCE = "Host.Config.Maintenance"


def _reached(host: Host) -> None:
    if host.connection != "connected":
        raise refuse(vmodl.fault.HostNotConnected, f"The host {host.name} is not connected.")


def _wrong_state(host: Host) -> Fault:
    return refuse(vim.fault.InvalidState, f"The operation is not allowed in the current state of the host {host.name}.")


def _in_the_way(host: Host, *, also_off: bool) -> list[Vm]:
    return [vm for vm in host.vms.values() if vm.power == "poweredOn" or (also_off and vm.power == "poweredOff")]


def _evacuate(call: Call, host: Host, *, also_off: bool) -> None:
    """What DRS does; a VM that no host takes stays, and the task waits for somebody to move it."""
    for vm in _in_the_way(host, also_off=also_off):
        target = moving.best(vm, host.cluster.hosts)
        if target is not None and not vm.busy:
            inner = Call(call.service, "MigrateVM_Task", vm.ref, call.version, call.session, call.client)
            move(inner, vm, target)


@method("EnterMaintenanceMode_Task", privilege=MAINTENANCE)
def enter(call: Call, timeout: int, evacuatePoweredOffVms: bool = False, maintenanceSpec: Any = None) -> Any:
    """Waits until no powered-on VM is left; without DRS somebody else must move them. ``timeout`` 0: for ever."""
    host: Host = call.entity()
    _reached(host)
    if host.in_maintenance:
        raise _wrong_state(host)
    drs = host.cluster.drs and not host.cluster.is_single
    also_off = bool(evacuatePoweredOffVms) and drs
    host.entering += 1

    def finish() -> None:
        _reached(host)
        host.in_maintenance = True

    def over() -> None:
        host.entering -= 1

    task = tasks.start(
        call,
        host,
        finish,
        until=lambda: not _in_the_way(host, also_off=also_off),
        within_seconds=timeout if timeout > 0 else 0,
        seconds=call.service.task_seconds / 4,
        over=over,
    )
    if drs:
        _evacuate(call, host, also_off=also_off)
    return task


@method("ExitMaintenanceMode_Task", privilege=MAINTENANCE)
def leave(call: Call, timeout: int) -> Any:
    host: Host = call.entity()
    _reached(host)
    if not host.in_maintenance:
        raise _wrong_state(host)

    def finish() -> None:
        host.in_maintenance = False

    return tasks.start(call, host, finish)


@method("DisconnectHost_Task", privilege="Host.Config.Connection")
def disconnect(call: Call) -> Any:
    host: Host = call.entity()
    if call.world.is_standalone:
        raise refuse(vmodl.fault.NotSupported, "The operation is not supported on the object.")
    return tasks.start(call, host, lambda: call.world.connect(host, "disconnected"))


@method("ReconnectHost_Task", privilege="Host.Config.Connection")
def reconnect(call: Call, cnxSpec: Any = None, reconnectSpec: Any = None) -> Any:
    host: Host = call.entity()
    return tasks.start(call, host, lambda: call.world.connect(host, "connected"))
