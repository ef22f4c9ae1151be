"""vMotion, storage vMotion, and asking beforehand."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake import moving, tasks
from tests.vsphere.fake.entities import Cluster, Datastore, Host, Vm
from tests.vsphere.fake.service import Call, method
from tests.vsphere.fake.types import Fault, array, filled, refuse, vim, vmodl

STORAGE_FACTOR = 3
"""Moving disks takes so many times as long."""


def move(call: Call, vm: Vm, host: Host, datastore: Datastore | None = None) -> Any:
    """Begins the task; shared with DRS."""
    copies_disks = datastore is not None and datastore is not vm.datastore

    def check() -> None:
        if found := moving.objections(vm, host, datastore):
            raise Fault(found[0])

    def finish() -> None:
        check()
        if host is not vm.host:
            call.service.consoles.drop_all(vm, 1001, "vMotion")
        call.world.place(vm, host, datastore)

    seconds = call.service.task_seconds * (STORAGE_FACTOR if copies_disks else 1)
    return tasks.start(call, vm, finish, check=check, seconds=seconds)


def _destination(call: Call, vm: Vm, pool: Any, host: Any) -> Host:
    if host is not None:
        found: Host = call.entity(host)
        return found
    owner = call.entity(pool).owner if pool is not None else vm.host.cluster
    if vm.host in owner.hosts:
        return vm.host
    chosen = moving.best(vm, owner.hosts)
    if chosen is None:
        raise refuse(vim.fault.NoCompatibleHost, "No host is compatible with the virtual machine.")
    return chosen


def _demand(call: Call, vm: Vm, host: Host) -> None:
    if call.world.is_standalone:
        raise refuse(vmodl.fault.NotSupported, "The operation is not supported on the object.")
    call.demand("Resource.HotMigrate" if vm.power == "poweredOn" else "Resource.ColdMigrate", vm)
    if host.cluster is not vm.host.cluster:
        call.demand("Resource.AssignVMToPool", host.cluster.pool)


@method("MigrateVM_Task")
def migrate(call: Call, priority: str, pool: Any = None, host: Any = None, state: str | None = None) -> Any:
    vm: Vm = call.entity()
    if state and state != vm.power:
        raise refuse(
            vim.fault.InvalidPowerState,
            "The attempted operation cannot be performed in the current state.",
            existingState=vm.power,
            requestedState=state,
        )
    if host is None and pool is None:
        raise refuse(vmodl.fault.InvalidArgument, "A specified parameter was not correct: host", invalidProperty="host")
    destination = _destination(call, vm, pool, host)
    _demand(call, vm, destination)
    return move(call, vm, destination)


@method("RelocateVM_Task")
def relocate(call: Call, spec: Any, priority: str | None = None) -> Any:
    vm: Vm = call.entity()
    if spec.service is not None:
        raise refuse(vmodl.fault.NotSupported, "Moving to another vCenter is not simulated.")
    destination = _destination(call, vm, spec.pool, spec.host)
    _demand(call, vm, destination)
    datastore: Datastore | None = call.entity(spec.datastore) if spec.datastore is not None else None
    if datastore is not None and datastore is not vm.datastore:
        call.demand("Datastore.AllocateSpace", datastore)
    return move(call, vm, destination, datastore)


def _results(call: Call, vm: Vm, hosts: list[Host], datastore: Datastore | None) -> Any:
    made = [
        filled(vim.vm.check.Result(vm=vm.ref, host=host.ref, error=moving.objections(vm, host, datastore)))
        for host in hosts
    ]
    return array("vim.vm.check.Result", made)


def _candidates(call: Call, vm: Vm, pool: Any, host: Any) -> list[Host]:
    if host is not None:
        return [call.entity(host)]
    owner: Cluster = call.entity(pool).owner if pool is not None else vm.host.cluster
    return list(owner.hosts)


def _check(call: Call, vm: Vm, pool: Any, host: Any, datastore: Datastore | None) -> Any:
    hosts = _candidates(call, vm, pool, host)
    return tasks.start(
        call,
        vm,
        lambda: _results(call, vm, hosts, datastore),
        seconds=call.service.task_seconds / 10,
        is_exclusive=False,
    )


@method("CheckMigrate_Task")
def check_migrate(
    call: Call,
    vm: Any,
    host: Any = None,
    pool: Any = None,
    state: str | None = None,
    testType: Any = (),
) -> Any:
    return _check(call, call.entity(vm), pool, host, None)


@method("CheckRelocate_Task")
def check_relocate(call: Call, vm: Any, spec: Any, testType: Any = ()) -> Any:
    datastore = call.entity(spec.datastore) if spec.datastore is not None else None
    return _check(call, call.entity(vm), spec.pool, spec.host, datastore)


@method("QueryVMotionCompatibilityEx_Task")
def query_compatibility(call: Call, vm: Any, host: Any) -> Any:
    vms, hosts = [call.entity(one) for one in vm], [call.entity(one) for one in host]

    def finish() -> Any:
        made = [result for one in vms for result in _results(call, one, hosts, None)]
        return array("vim.vm.check.Result", made)

    return tasks.start(call, vms[0], finish, seconds=call.service.task_seconds / 10, is_exclusive=False)
