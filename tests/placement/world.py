"""Hosts, clusters and VMs for placement tests, as rows and as columns, in one line each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from cloudops.core.actors import Actor, system
from cloudops.core.models import Operation
from cloudops.core.operations import start
from cloudops.hypervisors.port import PowerState
from cloudops.inventory import tags as tag_rows
from cloudops.inventory.models import Cluster, Connection, Endpoint, Host, Offering, Template, Vm
from placement import capacity
from placement.fleet import Fleet, HostRow
from placement.spec import Purpose, Spec
from placement.structure import ClusterRow

NOW = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)
BY: Actor = system("test")
_numbers = itertools.count(1)
_NAMESPACE = UUID("0f3f3f1e-2f6c-4a43-9b56-0a0d7a8f6a11")


def key(name: str) -> str:
    """The same UUID for the same name."""
    return str(uuid5(_NAMESPACE, name))


def row(name: str, cluster: str = "linux", **values: Any) -> HostRow:
    """A host as columns are made from: 16 vCPUs and 16 GiB unless said otherwise."""
    given: dict[str, Any] = {"vcpu_capacity": 16, "memory_capacity_mib": 16_384, "kind": "libvirt"} | values
    return HostRow(id=key(name), name=name, cluster=key(cluster), **given)


def fleet(*rows: HostRow, clusters: Iterable[ClusterRow] | None = None) -> Fleet:
    """A fleet of these hosts; clusters, unless given, are linux, windows and gpu in this order."""
    known = clusters or [ClusterRow(key(n), n, place) for place, n in enumerate(("linux", "windows", "gpu"))]
    return Fleet.build(rows, known)


def spec(**values: Any) -> Spec:
    given: dict[str, Any] = {"purpose": Purpose.DEPLOY, "vcpus": 2, "memory_mib": 2_048, "kind": "libvirt"} | values
    return Spec(**given)


def add_cluster(name: str, position: int = 0) -> Cluster:
    return Cluster.objects.get_or_create(name=name, defaults={"position": position})[0]


def add_host(name: str, cluster: Cluster, *, tags: Iterable[str] = (), refresh: bool = True, **values: Any) -> Host:
    """A host of 16 threads and 17 GiB, of which 1 GiB is kept for itself; its capacity is known at once."""
    endpoint = Endpoint.objects.create(kind="simulated", uri=f"simulated://{name}-{next(_numbers)}?hosts=1")
    fields: dict[str, Any] = {"cpu_threads": 16, "memory_mib": 17_408, "connection": Connection.UP} | values
    host = Host.objects.create(endpoint=endpoint, cluster=cluster, ref=name, name=name, **fields)
    host.tags.set(tag_rows.ensure(tags))
    if refresh:
        capacity.refresh(host_ids=[host.pk], now=NOW)
    return host


def add_vm(name: str, host: Host, **values: Any) -> Vm:
    fields: dict[str, Any] = {"power_state": PowerState.RUNNING, "vcpus": 2, "memory_mib": 2_048} | values
    return Vm.objects.create(ref=f"ref-{name}-{next(_numbers)}", name=name, host=host, **fields)


def add_offering(name: str, *, vcpus: int = 2, memory_mib: int = 2_048, tags: Iterable[str] = ()) -> Offering:
    offering = Offering.objects.create(name=name, vcpus=vcpus, memory_mib=memory_mib)
    offering.host_tags.set(tag_rows.ensure(tags))
    return offering


def add_template(name: str, tags: Iterable[str] = (), soft: Iterable[str] = ()) -> Template:
    template = Template.objects.create(name=name)
    template.host_tags.set(tag_rows.ensure(tags))
    template.soft_host_tags.set(tag_rows.ensure(soft))
    return template


def operation_on(vm: Vm) -> Operation:
    return start(kind="vm.migrate", title=f"Move {vm.name}", subject=vm, steps=["Copy"], by=BY, now=NOW)
