"""VMs: whose they are, what they are, their power and their picture. Rights are checked at the edge (``access``)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import structlog
from django.core.cache import cache
from django.db import transaction
from redis.exceptions import RedisError

from cloudops.accounts.models import Project
from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.models import Event
from cloudops.core.validation import assign as changes_of
from cloudops.core.validation import demand_known
from cloudops.hypervisors.port import Screenshot
from cloudops.inventory import endpoints, signals, sync
from cloudops.inventory.models import Offering, Vm
from cloudops.inventory.notices import after_commit
from cloudops.inventory.power import blocked_actions as blocked_actions
from cloudops.inventory.power import power as power

log = structlog.get_logger(__name__)
SCREENSHOT_SECONDS = 10
LARGEST_CACHED_BYTES = 2 * 1024 * 1024


def assign(vms: Iterable[Vm], *, project: Project | None, by: Actor, now: datetime) -> int:
    """Gives VMs to a project, or to nobody; returns how many changed. Consoles of people who lose their right end."""
    with transaction.atomic():
        locked = Vm.objects.select_for_update(of=("self",)).filter(pk__in=[vm.pk for vm in vms]).order_by("pk")
        rows = [row for row in locked.select_related("project") if row.project_id != (project.pk if project else None)]
        if not rows:
            return 0
        lines: list[Event] = []
        topics: dict[str, None] = {"vms": None}
        for row in rows:
            was = row.project
            row.project = project
            owner = row.project_id or (was.pk if was else None)
            lines.append(
                events.line(
                    "vm.assigned",
                    by=by,
                    now=now,
                    subject=row,
                    project_id=owner,
                    from_state=_name(was),
                    to_state=_name(project),
                )
            )
            topics |= dict.fromkeys(f"project:{item.pk}" for item in (was, project) if item is not None)
        Vm.objects.filter(pk__in=[row.pk for row in rows]).update(project=project)
        events.record_many(lines)
        live.publish(*topics, *(f"vm:{row.pk}" for row in rows[:100]))
        after_commit(signals.vm_access_changed, vm_ids=[row.pk for row in rows], now=now)
    return len(rows)


def set_offering(vm: Vm, *, offering: Offering | None, by: Actor, now: datetime) -> None:
    """Notes which offering, in its present version, a VM is said to be; its size is not changed by this."""
    with transaction.atomic():
        row = Vm.objects.select_for_update(of=("self",)).select_related("offering").get(pk=vm.pk)
        was, row.offering = row.offering, offering
        if was != offering:
            row.offering_version = offering.version if offering is not None else None
            row.save(update_fields=["offering", "offering_version"])
            events.record(
                "vm.offering_set", by=by, now=now, subject=row, from_state=_name(was), to_state=_name(offering)
            )
            live.publish("vms", "offerings", f"vm:{row.pk}")


def set_placement(vm: Vm, *, by: Actor, now: datetime, **changes: Any) -> None:
    """Notes ``template`` and ``pinned``, which say where the VM may run; it stays where it is. Raises ``Invalid``."""
    demand_known(changes, ("template", "pinned"))
    with transaction.atomic():
        row = Vm.objects.select_for_update(of=("self",)).select_related("template").get(pk=vm.pk)
        if changed := changes_of(row, changes):
            row.save(update_fields=list(changed))
            events.record("vm.placement_set", by=by, now=now, subject=row, data={"changed": changed})
            live.publish("vms", f"vm:{row.pk}")


def set_live_scaling(vm: Vm, *, allowed: bool, by: Actor, now: datetime) -> None:
    """Whether the VM's size may be changed while it runs; nothing is changed by saying so."""
    with transaction.atomic():
        row = Vm.objects.select_for_update(of=("self",)).get(pk=vm.pk)
        if changed := changes_of(row, {"dynamic_scaling": allowed}):
            row.save(update_fields=list(changed))
            events.record("vm.live_scaling_set", by=by, now=now, subject=row, data={"changed": changed})
            live.publish("vms", f"vm:{row.pk}")


def _name(thing: Project | Offering | None) -> str:
    return thing.name[:64] if thing is not None else ""


def refresh(vm: Vm, *, now: datetime) -> Vm:
    """Re-reads a VM from its hypervisor and writes the differences. Raises :class:`HypervisorError`."""
    sync.refresh_vm(vm.host.endpoint, vm.ref, now=now)
    return Vm.objects.select_related("host__endpoint", "host__cluster", "project", "offering").get(pk=vm.pk)


def screenshot(vm: Vm) -> Screenshot:
    """The VM's display, at most :data:`SCREENSHOT_SECONDS` old. Blocks for the endpoint's timeout at most.

    Raises :class:`HypervisorError` (not running, not supported, unreachable).
    """
    key = f"screenshot:{vm.pk}"
    if (known := _cached(key)) is not None:
        return known
    ref = vm.ref
    picture = endpoints.call(vm.host.endpoint, "screenshot", lambda hypervisor: hypervisor.screenshot(ref))
    if len(picture.data) <= LARGEST_CACHED_BYTES:
        _keep(key, picture)
    return picture


def _cached(key: str) -> Screenshot | None:
    try:
        entry = cache.get(key)
    except RedisError as error:
        log.warning("cache_unavailable", error=str(error))
        return None
    return Screenshot(*entry) if entry is not None else None


def _keep(key: str, picture: Screenshot) -> None:
    try:
        cache.set(key, (picture.data, picture.media_type), SCREENSHOT_SECONDS)
    except RedisError as error:
        log.warning("cache_unavailable", error=str(error))
