"""What scaling has to say when hosts and VMs are removed from the inventory: receivers, connected in ``apps``."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from cloudops.core import operations
from cloudops.core.actors import system
from placement import claims
from scaling.models import Resize
from scaling.resize_hold import LIVE


def on_vm_use(*, vm_ids: list[UUID], **_: Any) -> set[UUID]:
    """Vanished VMs that are still being resized."""
    live = Resize.objects.filter(vm__in=vm_ids, ended_at__isnull=True)
    return set(live.order_by().values_list("vm_id", flat=True))


def on_host_use(*, host_ids: list[UUID], **_: Any) -> dict[str, int]:
    """How many resizes go on on hosts that somebody wants to remove."""
    return {"resizes": Resize.objects.filter(vm__host__in=host_ids, ended_at__isnull=True).count()}


def on_host_removing(*, host_ids: list[UUID], now: datetime, **_: Any) -> None:
    """Their VMs' resizes go with the hosts, in this transaction: the operations end first, in words."""
    live = Resize.objects.filter(vm__host__in=host_ids, ended_at__isnull=True, operation__status__in=LIVE)
    for row in live.select_related("operation"):
        row.operation.refresh_from_db()
        if row.operation.status not in LIVE:  # its migration's end has ended it
            continue
        claims.release(operation=row.operation, now=now)
        operations.fail(
            row.operation,
            by=system("inventory"),
            now=now,
            code="host-removed",
            detail="The VM's host was removed from the inventory.",
            remedy="Add the host again to see the VM's size.",
        )
