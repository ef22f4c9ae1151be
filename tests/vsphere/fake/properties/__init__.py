"""Which properties of which managed object the fake shows."""

from __future__ import annotations

from tests.vsphere.fake.entities import (
    Cluster,
    Datacenter,
    Datastore,
    Entity,
    Folder,
    Host,
    Network,
    Pool,
    Reader,
    Task,
    View,
    Vm,
)
from tests.vsphere.fake.properties import host, other, vm

READERS: dict[type[Entity], dict[str, Reader]] = {
    Vm: vm.READERS,
    Host: host.READERS,
    Folder: other.FOLDER,
    Datacenter: other.DATACENTER,
    Cluster: other.CLUSTER,
    Pool: other.POOL,
    Datastore: other.DATASTORE,
    Network: other.NETWORK,
    View: other.VIEW,
    Task: other.TASK,
}
