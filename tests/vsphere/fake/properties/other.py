"""What the API shows of folders, clusters, datastores, networks, pools, views and tasks."""

from __future__ import annotations

from typing import Any

from tests.vsphere.fake.entities import Cluster, Datastore, Folder, Network, Pool, Reader, Task, View
from tests.vsphere.fake.types import array, filled, vim

GIB = 1 << 30


def _parent(entity: Any) -> Any:
    return entity.parent.ref if entity.parent is not None else None


FOLDER: dict[str, Reader] = {
    "name": lambda folder: folder.name,
    "parent": _parent,
    "childEntity": lambda folder: array("vim.ManagedEntity", [one.ref for one in _children(folder)]),
}


def _children(folder: Folder) -> list[Any]:
    world = folder.world
    if not world.is_built or folder is not world.datacenter.vm_folder:
        return list(folder.children)
    return [*folder.children, *world.vms.values()]


DATACENTER: dict[str, Reader] = {
    "name": lambda one: one.name,
    "parent": _parent,
    "vmFolder": lambda one: one.vm_folder.ref,
    "hostFolder": lambda one: one.host_folder.ref,
    "datastoreFolder": lambda one: one.datastore_folder.ref,
    "networkFolder": lambda one: one.network_folder.ref,
    "datastore": lambda one: array("vim.Datastore", [each.ref for each in one.world.datastores.values()]),
    "network": lambda one: array("vim.Network", [each.ref for each in one.world.networks.values()]),
}


def _cluster_summary(cluster: Cluster) -> Any:
    kind = vim.ComputeResource.Summary if cluster.is_single else vim.ClusterComputeResource.Summary
    reached = [host for host in cluster.hosts if host.connection == "connected"]
    summary = kind(
        numHosts=len(cluster.hosts),
        numEffectiveHosts=len([host for host in reached if not host.in_maintenance]),
        numCpuThreads=sum(host.plan.cpu_threads for host in reached),
        numCpuCores=sum(host.plan.cpu_threads // 2 for host in reached),
        totalCpu=sum(host.plan.cpu_threads // 2 * host.plan.cpu_mhz for host in reached),
        totalMemory=sum(host.plan.memory_mib << 20 for host in reached),
        effectiveCpu=sum(host.plan.cpu_threads // 2 * host.plan.cpu_mhz for host in reached),
        effectiveMemory=sum(host.plan.memory_mib for host in reached),
        overallStatus="green",
    )
    if not cluster.is_single:
        summary.currentEVCModeKey = cluster.plan.evc_mode or None
    return filled(summary)


def _cluster_configuration(cluster: Cluster) -> Any:
    if cluster.is_single:
        return filled(vim.ComputeResource.ConfigInfo(vmSwapPlacement="vmDirectory"))
    drs = vim.cluster.DrsConfigInfo(enabled=cluster.drs, defaultVmBehavior="fullyAutomated", vmotionRate=3)
    return filled(
        vim.cluster.ConfigInfoEx(
            dasConfig=vim.cluster.DasConfigInfo(enabled=cluster.plan.ha),
            drsConfig=drs,
            vmSwapPlacement="vmDirectory",
        )
    )


CLUSTER: dict[str, Reader] = {
    "name": lambda cluster: cluster.name,
    "parent": _parent,
    "host": lambda cluster: array("vim.HostSystem", [host.ref for host in cluster.hosts]),
    "resourcePool": lambda cluster: cluster.pool.ref,
    "datastore": lambda cluster: array(
        "vim.Datastore", dict.fromkeys(one.ref for host in cluster.hosts for one in host.datastores)
    ),
    "network": lambda cluster: array(
        "vim.Network", dict.fromkeys(one.ref for host in cluster.hosts for one in host.networks)
    ),
    "summary": _cluster_summary,
    "configurationEx": _cluster_configuration,
    "overallStatus": lambda cluster: vim.ManagedEntity.Status.green,
}


def _pool_name(pool: Pool) -> str:
    return "Resources"


POOL: dict[str, Reader] = {
    "name": _pool_name,
    "owner": lambda pool: pool.owner.ref,
    "parent": lambda pool: pool.owner.ref,
    "vm": lambda pool: array("vim.VirtualMachine", [vm.ref for host in pool.owner.hosts for vm in host.vms.values()]),
}


def _datastore_summary(datastore: Datastore) -> Any:
    return filled(
        vim.Datastore.Summary(
            datastore=datastore.ref,
            name=datastore.name,
            url=f"ds:///vmfs/volumes/{datastore.mo_id}/",
            capacity=datastore.plan.capacity_gib * GIB,
            freeSpace=datastore.plan.free_gib * GIB,
            accessible=True,
            multipleHostAccess=datastore.plan.shared,
            type="VMFS",
            maintenanceMode="normal",
        )
    )


def _mounts(datastore: Datastore) -> Any:
    mount = vim.host.MountInfo(accessMode="readWrite", mounted=True, accessible=True)
    hosts = [host for host in datastore.world.hosts.values() if datastore in host.datastores]
    return array(
        "vim.Datastore.HostMount", [filled(vim.Datastore.HostMount(key=host.ref, mountInfo=mount)) for host in hosts]
    )


DATASTORE: dict[str, Reader] = {
    "name": lambda datastore: datastore.name,
    "parent": _parent,
    "summary": _datastore_summary,
    "host": _mounts,
    "vm": lambda one: array("vim.VirtualMachine", [vm.ref for vm in one.world.vms.values() if vm.datastore is one]),
    "overallStatus": lambda one: vim.ManagedEntity.Status.green,
}


def _network_summary(network: Network) -> Any:
    return filled(vim.Network.Summary(network=network.ref, name=network.name, accessible=True))


NETWORK: dict[str, Reader] = {
    "name": lambda network: network.name,
    "parent": _parent,
    "summary": _network_summary,
    "host": lambda one: array(
        "vim.HostSystem", [host.ref for host in one.world.hosts.values() if one in host.networks]
    ),
    "vm": lambda one: array("vim.VirtualMachine", [vm.ref for vm in one.world.vms.values() if vm.network is one]),
}


def _shown(view: View) -> Any:
    return array("vim.ManagedEntity", [entity.ref for entity in view.world.shown(view)])


VIEW: dict[str, Reader] = {
    "view": _shown,
    "container": lambda view: view.container.ref,
    "type": lambda view: array("string", [kind.__name__ for kind in view.kinds]),
    "recursive": lambda view: view.recursive,
}


def task_info(task: Task) -> Any:
    return filled(
        vim.TaskInfo(
            key=task.mo_id,
            task=task.ref,
            descriptionId=task.name,
            entity=task.entity.ref if task.entity is not None else None,
            entityName=task.entity.name if task.entity is not None else None,
            state=task.state,
            cancelled=task.cancelled,
            cancelable=task.cancelable and task.state in ("queued", "running"),
            error=task.error,
            result=task.result,
            progress=task.progress if task.state == "running" else None,
            reason=vim.TaskReasonUser(userName=task.user),
            queueTime=task.begun_at,
            startTime=task.begun_at,
            completeTime=task.ended_at,
            eventChainId=1,
        )
    )


TASK: dict[str, Reader] = {"info": task_info}
