"""Answers who asks which VMs are on their way: consoles wait for them instead of ending."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from placement.models import VmMigration


def on_vms_moving(*, vm_ids: Sequence[UUID], **_: Any) -> dict[UUID, str]:
    """The destination's name for each VM that may change hosts at any moment."""
    phases = [VmMigration.Phase.COPYING, VmMigration.Phase.VERIFYING]
    rows = VmMigration.objects.filter(vm_id__in=vm_ids, ended_at=None, phase__in=phases)
    return dict(rows.order_by().values_list("vm_id", "target__name"))
