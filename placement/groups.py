"""Affinity groups: VMs that belong together on one host, or apart on different ones.

A group is heeded when its VMs are placed; VMs that run already stay where they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.validation import assign, demand_known, demand_valid
from cloudops.inventory.models import Vm
from placement.models import AffinityGroup
from placement.requests import AT_REST

FIELDS = ("name", "kind", "strict")
NAMES_SHOWN = 5


def create(
    *, name: str, kind: str, strict: bool = True, vms: Iterable[Vm] = (), by: Actor, now: datetime
) -> AffinityGroup:
    """A new group. Raises ``Invalid``."""
    group = AffinityGroup(name=name.strip(), kind=kind, strict=strict, created_at=now)
    with transaction.atomic():
        demand_valid(group)
        group.save(force_insert=True)
        members = list(vms)
        group.vms.set(members)
        names = sorted(vm.name for vm in members)
        events.record("affinitygroup.created", by=by, now=now, subject=group, data={"kind": kind, "vms": names})
        live.publish("groups")
    return group


def change(group: AffinityGroup, *, by: Actor, now: datetime, **changes: Any) -> AffinityGroup:
    """Sets some of :data:`FIELDS` and ``vms`` (all of them). Raises ``Invalid``."""
    demand_known(changes, (*FIELDS, "vms"))
    members: Iterable[Vm] | None = changes.pop("vms", None)
    with transaction.atomic():
        row = AffinityGroup.objects.select_for_update().get(pk=group.pk)
        changed = assign(row, changes)
        if changed:
            demand_valid(row)
            row.save(update_fields=list(changed))
        if members is not None:
            before = sorted(row.vms.values_list("name", flat=True))
            row.vms.set(list(members))
            after = sorted(row.vms.values_list("name", flat=True))
            if before != after:
                changed["vms"] = [before, after]
        if changed:
            events.record("affinitygroup.changed", by=by, now=now, subject=row, data={"changed": changed})
            live.publish("groups")
    return row


def delete(group: AffinityGroup, *, by: Actor, now: datetime) -> None:
    """Its VMs stay where they are. Doing it twice is harmless."""
    with transaction.atomic():
        row = AffinityGroup.objects.select_for_update().filter(pk=group.pk).first()
        if row is not None:
            events.record("affinitygroup.deleted", by=by, now=now, subject=row)
            row.delete()
            live.publish("groups")


def broken(groups: Sequence[AffinityGroup]) -> dict[UUID, str]:
    """Groups whose rule does not hold now, in words. VMs that are off do not count. One query."""
    members = AffinityGroup.vms.through.objects.filter(affinitygroup__in=[group.pk for group in groups])
    running = members.exclude(vm__power_state__in=AT_REST).order_by("vm__name", "pk")
    where: dict[UUID, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group_id, vm, host in running.values_list("affinitygroup_id", "vm__name", "vm__host__name"):
        where[group_id][host].append(vm)
    found = {}
    for group in groups:
        hosts = where[group.pk]
        if group.kind == AffinityGroup.Kind.TOGETHER and len(hosts) > 1:
            found[group.pk] = f"Its VMs are on {len(hosts)} hosts: {_listed(sorted(hosts))}."
        crowded = {host: vms for host, vms in hosts.items() if len(vms) > 1}
        if group.kind == AffinityGroup.Kind.APART and crowded:
            host, vms = min(crowded.items())
            found[group.pk] = f"{_listed(vms)} are all on {host}."
    return found


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
