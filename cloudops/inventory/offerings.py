"""Offerings: what a VM may be. Changing one makes a new version of it; VMs keep what they were given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.validation import demand_valid
from cloudops.inventory import catalogue, offering_rules, tags
from cloudops.inventory.models import Offering, OfferingKind, OfferingVersion
from cloudops.inventory.offering_rules import Bounds as Bounds
from cloudops.inventory.offering_rules import bounds as bounds

TAG_FIELDS = catalogue.TAG_FIELDS
FIELDS = ("name", "description", *offering_rules.SIZE_FIELDS, "dynamic_scaling", "enabled")


class OfferingInUse(Conflict):
    code = "offering-in-use"
    title = "VMs still have this offering."
    remedy = "Disable it instead, so that nobody can choose it any more, or give its VMs another one first."


def create(
    *,
    name: str,
    vcpus: int,
    memory_mib: int,
    kind: str = OfferingKind.FIXED,
    max_vcpus: int | None = None,
    max_memory_mib: int | None = None,
    description: str = "",
    cpu_mhz: int | None = None,
    cpu_cap: bool = False,
    dynamic_scaling: bool = False,
    host_tags: Sequence[str] = (),
    soft_host_tags: Sequence[str] = (),
    enabled: bool = True,
    by: Actor,
    now: datetime,
) -> Offering:
    """A new offering in its version 1. Raises ``Invalid``."""
    offering = Offering(
        name=name.strip(),
        description=description,
        kind=kind,
        vcpus=vcpus,
        max_vcpus=max_vcpus,
        cpu_mhz=cpu_mhz,
        cpu_cap=cpu_cap,
        memory_mib=memory_mib,
        max_memory_mib=max_memory_mib,
        dynamic_scaling=dynamic_scaling,
        enabled=enabled,
    )
    with transaction.atomic():
        demand_valid(offering)
        offering.save(force_insert=True)
        tags.put_on(offering, {"host_tags": host_tags, "soft_host_tags": soft_host_tags})
        _keep_version(offering, by=by, now=now)
        events.record("offering.created", by=by, now=now, subject=offering)
        live.publish("offerings")
    return offering


def change(offering: Offering, *, by: Actor, now: datetime, **changes: Any) -> Offering:
    """Sets some of :data:`FIELDS` and :data:`TAG_FIELDS` (names); VMs that have it stay as they are.

    A new version is kept when it gives VMs anything else than before. One that is no longer custom loses its bounds.
    Raises ``Invalid``.
    """
    if changes.get("kind", OfferingKind.CUSTOM) != OfferingKind.CUSTOM:
        changes = dict.fromkeys(offering_rules.BOUNDS) | changes

    def count(row: Offering, changed: dict[str, Any]) -> None:
        if not set(offering_rules.VERSIONED).isdisjoint(changed):
            row.version += 1
            row.save(update_fields=["version"])
            _keep_version(row, by=by, now=now)

    return catalogue.change(
        offering, changes, fields=FIELDS, kind="offering.changed", topic="offerings", then=count, by=by, now=now
    )


def delete(offering: Offering, *, by: Actor, now: datetime) -> None:
    """Raises :class:`OfferingInUse` with the number of VMs that have it, and some of their names."""
    catalogue.delete(offering, in_use=OfferingInUse, kind="offering.deleted", topic="offerings", by=by, now=now)


def _keep_version(offering: Offering, *, by: Actor, now: datetime) -> None:
    OfferingVersion.objects.create(
        offering=offering,
        version=offering.version,
        values=offering_rules.values(offering),
        by_name=by.name[:200],
        created_at=now,
    )
