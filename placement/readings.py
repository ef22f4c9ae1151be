"""Hosts and clusters read from the database for the scheduler's columns, in a handful of queries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from uuid import UUID

from cloudops.inventory.models import Cluster, Host
from placement.fleet import HostRow
from placement.models import ClusterPolicy
from placement.structure import ClusterRow

_CAPACITY = ("vcpu_capacity", "memory_capacity_mib", "vcpu_claimed", "memory_claimed_mib", "hold", "structure")
_HOST = ("pk", "name", "cluster_id", "endpoint__kind", "cpu_model", "networks", "datastores", "schedulable")
COLUMNS = (*_HOST, "connection", "platform_maintenance", *(f"capacity__{name}" for name in _CAPACITY))


@dataclass(frozen=True, slots=True)
class Reading:
    """A host's columns, whether it has a capacity row, and the structure it was last said to have."""

    row: HostRow
    counted: bool
    structure: int
    fingerprint: int


def _cluster(row: Cluster, policy: ClusterPolicy | None) -> ClusterRow:
    return ClusterRow(
        id=str(row.pk),
        name=row.name,
        position=row.position,
        allocator=policy.allocator if policy else "",
        weights=dict(policy.weights) if policy else {},
        cpu_threshold_percent=policy.cpu_threshold_percent if policy else None,
        memory_threshold_percent=policy.memory_threshold_percent if policy else None,
    )


def read(*, host_ids: Collection[UUID] | None = None) -> tuple[list[ClusterRow], list[Reading]]:
    """Every cluster with its policy, and these hosts (None: all): four queries."""
    tags: dict[UUID, list[str]] = defaultdict(list)
    tagged = Host.tags.through.objects.order_by("tag__name")
    rows = Host.objects.order_by()
    if host_ids is not None:
        tagged, rows = tagged.filter(host__in=list(host_ids)), rows.filter(pk__in=list(host_ids))
    for host_id, name in tagged.values_list("host_id", "tag__name"):
        tags[host_id].append(name)
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows.values_list(*COLUMNS)]
    policies = {policy.pk: policy for policy in ClusterPolicy.objects.all()}
    clusters = [_cluster(row, policies.get(row.pk)) for row in Cluster.objects.order_by()]
    by_id = {cluster.id: cluster for cluster in clusters}
    # A cluster that went between two of these queries took its hosts with it.
    return clusters, [_reading(row, tags, by_id) for row in found if str(row["cluster_id"]) in by_id]


def _reading(row: dict[str, Any], tags: dict[UUID, list[str]], by_id: dict[str, ClusterRow]) -> Reading:
    counted = row["capacity__vcpu_capacity"] is not None
    host = HostRow(
        id=str(row["pk"]),
        name=row["name"],
        cluster=str(row["cluster_id"]),
        kind=row["endpoint__kind"],
        cpu_model=row["cpu_model"],
        tags=tuple(tags.get(row["pk"], ())),
        networks=tuple(sorted(set(row["networks"]))),
        datastores=tuple(sorted(set(row["datastores"]))),
        schedulable=row["schedulable"],
        connection=row["connection"],
        hold=row["capacity__hold"] or ("platform" if row["platform_maintenance"] else ""),
        vcpu_capacity=row["capacity__vcpu_capacity"] or 0,
        memory_capacity_mib=row["capacity__memory_capacity_mib"] or 0,
        vcpu_claimed=row["capacity__vcpu_claimed"] or 0,
        memory_claimed_mib=row["capacity__memory_claimed_mib"] or 0,
        console_limit=0,
    )
    return Reading(host, counted, row["capacity__structure"] or 0, fingerprint(host, by_id[host.cluster]))


def fingerprint(host: HostRow, cluster: ClusterRow) -> int:
    """A number that changes with anything but the numbers: 62 bits, so that it fits a database's integer."""
    facts = (
        host.name,
        host.kind,
        host.cpu_model,
        host.tags,
        host.networks,
        host.datastores,
        (cluster.id, cluster.name, cluster.position, cluster.allocator, sorted(cluster.weights.items())),
        (cluster.cpu_threshold_percent, cluster.memory_threshold_percent),
    )
    return int.from_bytes(blake2b(json.dumps(facts).encode(), digest_size=8).digest(), "little") >> 2
