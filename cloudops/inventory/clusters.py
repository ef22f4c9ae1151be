"""Clusters: hosts among which VMs may move freely."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import Max

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.validation import assign, demand_known, demand_valid
from cloudops.inventory import signals
from cloudops.inventory.models import Cluster
from cloudops.inventory.notices import after_commit

FIELDS = ("name", "description", "position")


class ClusterInUse(Conflict):
    code = "cluster-in-use"
    title = "The cluster still has hosts."
    remedy = "Move its hosts to another cluster, or remove them, first."


def create(*, name: str, description: str = "", position: int | None = None, by: Actor, now: datetime) -> Cluster:
    """A new cluster, last in order unless ``position`` says otherwise. Raises ``Invalid``."""
    with transaction.atomic():
        if position is None:
            last = Cluster.objects.aggregate(last=Max("position"))["last"]
            position = 0 if last is None else last + 1
        cluster = Cluster(name=name.strip(), description=description, position=position)
        demand_valid(cluster)
        cluster.save(force_insert=True)
        events.record("cluster.created", by=by, now=now, subject=cluster)
        live.publish("hosts")
    return cluster


def change(cluster: Cluster, *, by: Actor, now: datetime, **changes: object) -> Cluster:
    """Sets some of :data:`FIELDS`. Raises ``Invalid``."""
    demand_known(changes, FIELDS)
    with transaction.atomic():
        row = Cluster.objects.select_for_update().get(pk=cluster.pk)
        if changed := assign(row, changes):
            demand_valid(row)
            row.save(update_fields=list(changed))
            events.record("cluster.changed", by=by, now=now, subject=row, data={"changed": changed})
            live.publish("hosts")
            after_commit(signals.hosts_changed, host_ids=list(row.hosts.values_list("pk", flat=True)), now=now)
    return row


def delete(cluster: Cluster, *, by: Actor, now: datetime) -> None:
    """Raises :class:`ClusterInUse` while hosts are in it."""
    with transaction.atomic():
        row = Cluster.objects.select_for_update().get(pk=cluster.pk)
        if hosts := row.hosts.count():
            raise ClusterInUse(f"{hosts} hosts are in {row.name}.", hosts=hosts)
        events.record("cluster.deleted", by=by, now=now, subject=row)
        row.delete()
        live.publish("hosts")
