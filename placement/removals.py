"""What placement has to say when hosts and VMs are removed from the inventory: receivers, connected in ``apps``."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q

from cloudops.core import operations
from cloudops.core.actors import system
from placement import claims
from placement.models import MaintenanceHost, MaintenanceHostStatus, VmMigration


def on_vm_use(*, vm_ids: list[UUID], **_: Any) -> set[UUID]:
    """Vanished VMs that are still being migrated."""
    live = VmMigration.objects.filter(vm__in=vm_ids, ended_at__isnull=True)
    return set(live.order_by().values_list("vm_id", flat=True))


def on_host_use(*, host_ids: list[UUID], **_: Any) -> dict[str, int]:
    """How many migrations go on from or to hosts that somebody wants to remove, and how many maintenance jobs have
    them in hand."""
    held = MaintenanceHost.objects.filter(host__in=host_ids).exclude(status=MaintenanceHostStatus.RELEASED)
    jobs = held.order_by().values("maintenance").distinct().count()
    return {"migrations": _touching(host_ids).count(), "maintenance_jobs": jobs}


def on_host_removing(*, host_ids: list[UUID], now: datetime, **_: Any) -> None:
    """Their migrations' rows go with the hosts, in this transaction: the operations end first, in words."""
    for migration in _touching(host_ids).select_related("operation"):
        claims.release(operation=migration.operation, now=now)
        operations.fail(
            migration.operation,
            by=system("inventory"),
            now=now,
            code="host-removed",
            detail="A host of this migration was removed from the inventory.",
            remedy="The hypervisors go on by themselves; synchronise the other host to see where the VM is.",
        )


def _touching(host_ids: list[UUID]) -> Any:
    here = Q(source__in=host_ids) | Q(target__in=host_ids)
    return VmMigration.objects.filter(here, ended_at__isnull=True)
