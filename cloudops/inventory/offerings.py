"""Offerings: what a VM may be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.validation import demand_valid
from cloudops.inventory import catalogue, tags
from cloudops.inventory.models import Offering

TAG_FIELDS = catalogue.TAG_FIELDS
FIELDS = ("name", "description", "vcpus", "cpu_mhz", "memory_mib", "dynamic_scaling", "enabled")


class OfferingInUse(Conflict):
    code = "offering-in-use"
    title = "VMs still have this offering."
    remedy = "Disable it instead, so that nobody can choose it any more, or give its VMs another one first."


def create(
    *,
    name: str,
    vcpus: int,
    memory_mib: int,
    description: str = "",
    cpu_mhz: int | None = None,
    dynamic_scaling: bool = False,
    host_tags: Sequence[str] = (),
    soft_host_tags: Sequence[str] = (),
    enabled: bool = True,
    by: Actor,
    now: datetime,
) -> Offering:
    """A new offering. Raises ``Invalid``."""
    offering = Offering(
        name=name.strip(),
        description=description,
        vcpus=vcpus,
        cpu_mhz=cpu_mhz,
        memory_mib=memory_mib,
        dynamic_scaling=dynamic_scaling,
        enabled=enabled,
    )
    with transaction.atomic():
        demand_valid(offering)
        offering.save(force_insert=True)
        tags.put_on(offering, {"host_tags": host_tags, "soft_host_tags": soft_host_tags})
        events.record("offering.created", by=by, now=now, subject=offering)
        live.publish("offerings")
    return offering


def change(offering: Offering, *, by: Actor, now: datetime, **changes: Any) -> Offering:
    """Sets some of :data:`FIELDS` and :data:`TAG_FIELDS` (names); VMs that have it stay as they are.

    Raises ``Invalid``.
    """
    return catalogue.change(
        offering, changes, fields=FIELDS, kind="offering.changed", topic="offerings", by=by, now=now
    )


def delete(offering: Offering, *, by: Actor, now: datetime) -> None:
    """Raises :class:`OfferingInUse` with the number of VMs that have it, and some of their names."""
    catalogue.delete(offering, in_use=OfferingInUse, kind="offering.deleted", topic="offerings", by=by, now=now)
