"""The inventory behind the fake: entities by id and by name, and the count that tells waiting clients what changed.

Thread-safe by ``lock``: whoever reads several things, or changes one, holds it and says ``changed(…)`` afterwards.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tests.vsphere.fake.entities import (
    Cluster,
    Datacenter,
    Datastore,
    Entity,
    Folder,
    Host,
    Network,
    Pool,
    Task,
    View,
    Vm,
)
from tests.vsphere.fake.plans import ClusterPlan, DatastorePlan, HostPlan, VmPlan, WorldPlan
from tests.vsphere.fake.properties import READERS
from tests.vsphere.fake.types import vim

E = TypeVar("E", bound=Entity)


class World:
    """``address`` is the management address, ``api_version`` as vSphere writes it ("8.0.2.0")."""

    def __init__(self, plan: WorldPlan, *, address: str, api_version: str, is_standalone: bool = False) -> None:
        self.lock = threading.RLock()
        self.address = address
        self.api_version = api_version
        self.is_standalone = is_standalone
        self.is_built = False
        self.revision = 1
        self.structure = 1
        """The revision at which an object last came, went or moved."""
        self.objects: dict[str, Entity] = {}
        self.hosts: dict[str, Host] = {}
        self.vms: dict[str, Vm] = {}
        self.vms_by_uuid: dict[str, Vm] = {}
        self.clusters: dict[str, Cluster] = {}
        self.datastores: dict[str, Datastore] = {}
        self.networks: dict[str, Network] = {}
        self.tasks: dict[str, Task] = {}
        self.tag_categories = list(plan.tag_categories)
        self._listeners: list[Callable[[], None]] = []
        self._numbers = itertools.count(1)
        self._build(plan)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Called (from any thread, under the lock) after each change."""
        self._listeners.append(listener)

    def changed(self, *entities: Entity, structure: bool = False) -> None:
        """Says that these entities' properties may be others now."""
        with self.lock:
            self.revision += 1
            if structure:
                self.structure = self.revision
            for entity in entities:
                entity.touched(self.revision)
            for listener in self._listeners:
                listener()

    def number(self) -> int:
        return next(self._numbers)

    def add(self, entity: E, ref: Any) -> E:
        """Makes the entity known under its reference."""
        entity.ref = ref
        entity.world = self
        entity.readers = READERS[type(entity)]
        entity.revision = self.revision
        self.objects[entity.mo_id] = entity
        return entity

    def find(self, ref: Any) -> Entity | None:
        return self.objects.get(str(ref._moId))

    # What tests and tasks do

    def add_host(self, plan: HostPlan) -> Host:
        with self.lock:
            cluster = self._cluster_for(plan)
            number = self.number()
            mo_id = "ha-host" if self.is_standalone else f"host-{number}"
            host = self.add(Host(plan, cluster, address=self.address), vim.HostSystem(mo_id))
            host.uuid = str(uuid.uuid5(uuid.NAMESPACE_DNS, plan.name))
            host.datastores = [self._datastore(name) for name in plan.datastores]
            host.networks = [self._network(name) for name in plan.networks]
            cluster.hosts.append(host)
            self.hosts[plan.name] = host
            self.changed(host, cluster, *host.datastores, *host.networks, structure=True)
            return host

    def remove_host(self, host: Host) -> None:
        """Takes the host and its VMs out of the inventory."""
        with self.lock:
            for vm in list(host.vms.values()):
                self.remove_vm(vm)
            host.cluster.hosts.remove(host)
            del self.hosts[host.name], self.objects[host.mo_id]
            self.changed(host.cluster, structure=True)

    def add_vm(self, plan: VmPlan) -> Vm:
        with self.lock:
            host = self.hosts[plan.host] if plan.host else next(iter(self.hosts.values()))
            instance = plan.instance_uuid or str(uuid.uuid5(uuid.NAMESPACE_OID, plan.name))
            number = self.number()
            vm = Vm(
                plan,
                plan.name,
                host,
                self._datastore(plan.datastore),
                self._network(plan.network),
                plan.cpus,
                plan.memory_mib,
                plan.max_connections,
                plan.cpu_hot_add,
                plan.cpu_hot_remove,
                plan.memory_hot_add,
                instance,
                str(uuid.uuid5(uuid.NAMESPACE_URL, instance)),
                vnc=plan.vnc,
                power="poweredOn" if plan.powered_on else "poweredOff",
                template=plan.template,
            )
            self.add(vm, vim.VirtualMachine(str(number) if self.is_standalone else f"vm-{number}"))
            host.vms[vm.mo_id] = vm
            self.vms[vm.name] = vm
            self.vms_by_uuid[instance] = vm
            self.changed(vm, host, vm.datastore, vm.network, structure=True)
            return vm

    def remove_vm(self, vm: Vm) -> None:
        with self.lock:
            del self.objects[vm.mo_id], self.vms[vm.name], vm.host.vms[vm.mo_id]
            self.vms_by_uuid.pop(vm.instance_uuid, None)
            self.changed(vm.host, vm.datastore, vm.network, structure=True)

    def place(self, vm: Vm, host: Host, datastore: Datastore | None = None) -> None:
        """Puts the VM on the host, as vMotion leaves it."""
        with self.lock:
            source, old = vm.host, vm.datastore
            del source.vms[vm.mo_id]
            host.vms[vm.mo_id] = vm
            vm.host, vm.datastore = host, datastore or old
            self.changed(vm, source, host, *{old, vm.datastore}, structure=True)

    def connect(self, host: Host, state: str) -> None:
        """``state``: connected, disconnected or notResponding; its VMs are shown as disconnected with it."""
        with self.lock:
            host.connection = state
            self.changed(host, host.cluster, *host.vms.values())

    def running_tasks(self, entity: Entity) -> list[Task]:
        return [task for task in self.tasks.values() if task.entity is entity and task.state == "running"]

    def shown(self, view: View) -> list[Entity]:
        """What a container view holds: objects of its kinds below its container."""
        return [
            entity
            for entity in self.objects.values()
            if not isinstance(entity, (View, Task))
            and (not view.kinds or isinstance(entity.ref, view.kinds))
            and self._is_below(entity, view.container, recursive=view.recursive)
        ]

    def _is_below(self, entity: Entity, container: Entity, *, recursive: bool) -> bool:
        if entity is container:
            return False
        if container is self.root and recursive:
            return True
        above = self.parent(entity)
        while above is not None:
            if above is container:
                return True
            if not recursive:
                return False
            above = self.parent(above)
        return False

    def parent(self, entity: Entity) -> Entity | None:
        """The inventory's parent; a VM's is its folder."""
        match entity:
            case Vm():
                return self.datacenter.vm_folder
            case Host():
                return entity.cluster
            case Pool():
                return entity.owner
            case Folder() | Datacenter() | Cluster() | Datastore() | Network():
                return entity.parent
        return None

    # How it is built

    def _build(self, plan: WorldPlan) -> None:
        names = ("ha-folder-root", "ha-datacenter") if self.is_standalone else ("group-d1", "datacenter-2")
        self.root = self.add(Folder("Datacenters"), vim.Folder(names[0]))
        folders = {
            name: self.add(Folder(name), vim.Folder(f"{names[1]}-{name}" if self.is_standalone else f"group-{letter}"))
            for name, letter in (("vm", "v3"), ("host", "h4"), ("datastore", "s5"), ("network", "n6"))
        }
        self.datacenter = self.add(
            Datacenter("Lab", self.root, folders["vm"], folders["host"], folders["datastore"], folders["network"]),
            vim.Datacenter(names[1]),
        )
        self.root.children.append(self.datacenter)
        for folder in folders.values():
            folder.parent = self.datacenter
        self._numbers = itertools.count(1 if self.is_standalone else 10)
        self.is_built = True
        self._datastore_plans = {one.name: one for one in plan.datastores}
        for cluster in plan.clusters:
            self._add_cluster(cluster, is_single=False)
        self._add_all(plan.hosts, plan.vms)

    def _add_all(self, hosts: Iterable[HostPlan], vms: Iterable[VmPlan]) -> None:
        for host in hosts:
            self.add_host(host)
        for vm in vms:
            self.add_vm(vm)

    def _cluster_for(self, plan: HostPlan) -> Cluster:
        if plan.cluster and not self.is_standalone:
            known = self.clusters.get(plan.cluster)
            return known or self._add_cluster(ClusterPlan(plan.cluster), is_single=False)
        return self._add_cluster(ClusterPlan(plan.name), is_single=True)

    def _add_cluster(self, plan: ClusterPlan, *, is_single: bool) -> Cluster:
        number = self.number()
        pool = self.add(Pool(), vim.ResourcePool("ha-root-pool" if self.is_standalone else f"resgroup-{number}"))
        folder = self.datacenter.host_folder
        if is_single:
            ref = vim.ComputeResource("ha-compute-res" if self.is_standalone else f"domain-s{number}")
        else:
            ref = vim.ClusterComputeResource(f"domain-c{number}")
        cluster = self.add(Cluster(plan, folder, pool, is_single=is_single), ref)
        pool.owner = cluster
        folder.children.append(cluster)
        if not is_single:
            self.clusters[plan.name] = cluster
        self.changed(folder, structure=True)
        return cluster

    def _datastore(self, name: str) -> Datastore:
        if name not in self.datastores:
            folder = self.datacenter.datastore_folder
            plan = self._datastore_plans.get(name, DatastorePlan(name))
            self.datastores[name] = self.add(Datastore(plan, folder), vim.Datastore(f"datastore-{self.number()}"))
            folder.children.append(self.datastores[name])
        return self.datastores[name]

    def _network(self, name: str) -> Network:
        if name not in self.networks:
            folder = self.datacenter.network_folder
            self.networks[name] = self.add(Network(name, folder), vim.Network(f"network-{self.number()}"))
            folder.children.append(self.networks[name])
        return self.networks[name]
