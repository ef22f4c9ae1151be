"""Placement's own template tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from django import template
from django.utils.safestring import SafeString

from cloudops.core.templatetags import ui
from placement.migration_words import copying
from placement.models import Maintenance, MaintenanceHost, MaintenanceMove, MoveStatus, VmMigration
from placement.views.room import Bar

register = template.Library()

TABS: Final = (
    ("placement", "Capacity"),
    ("decisions", "Decisions"),
    ("migrations", "Migrations"),
    ("affinity-groups", "Groups"),
    ("templates", "Templates"),
    ("drift", "Drift"),
)
_STATES: Final = {
    "open": ("takes VMs", "ok"),
    "cordoned": ("cordoned", "notice"),
    "draining": ("being drained", "busy"),
    "maintenance": ("in maintenance", "notice"),
    "fenced": ("fenced", "danger"),
    "unreachable": ("unreachable", "danger"),
    "unknown": ("not seen yet", "off"),
}


@register.inclusion_tag("placement/_tabs.html")
def placement_tabs(current: str) -> dict[str, Any]:
    """The tabs of the placement pages; ``current`` is the URL name of the one that is open."""
    return {"tabs": TABS, "current": current}


@register.simple_tag
def placement_state(state: str) -> SafeString:
    """Whether a host takes VMs, in shape and words."""
    words, kind = _STATES.get(state, (state, "neutral"))
    return ui.status(state, text=words, kind=kind)


@register.simple_tag
def room_bar(bar: Bar, label: str, unit: str, size: str = "", stacked: bool = False) -> SafeString:
    """Used, claimed and free of what may be promised, with a mark where overcommitting starts."""
    return ui.capacity_bar(
        bar.used, bar.total, claimed=bar.claimed, label=label, unit=unit, physical=bar.physical, size=size,
        stacked=stacked,
    )  # fmt: skip


_JOB_KINDS: Final = {
    "planning": "busy",
    "draining": "busy",
    "blocked": "danger",
    "holding": "notice",
    "completed": "ok",
    "cancelled": "off",
    "waiting": "off",
    "entering": "busy",
    "held": "notice",
    "released": "ok",
    "moving": "busy",
    "moved": "ok",
    "skipped": "notice",
    "stopping": "busy",
    "stopped": "notice",
    "gone": "off",
}


@register.simple_tag
def job_state(job: Maintenance) -> SafeString:
    """Where a maintenance job is, in shape and words."""
    return _worded(job)


@register.simple_tag
def job_host_state(row: MaintenanceHost) -> SafeString:
    """Where one host of a job is."""
    return _worded(row)


@register.simple_tag
def move_state(row: MaintenanceMove) -> SafeString:
    """Where one VM of a job is; one that stays without anybody having chosen so just stays."""
    if row.status == MoveStatus.SKIPPED and row.choice != MaintenanceMove.Choice.SKIP:
        return ui.status(row.status, text="stays", kind="off")
    return _worded(row)


def _worded(row: Maintenance | MaintenanceHost | MaintenanceMove) -> SafeString:
    words = str(row.get_status_display())
    return ui.status(row.status, text=words[:1].lower() + words[1:], kind=_JOB_KINDS[row.status])


@register.simple_tag
def migration_words(migration: VmMigration) -> str:
    """How far a migration is."""
    if migration.phase == VmMigration.Phase.COPYING:
        return copying(migration.progress)
    return f"{migration.get_phase_display()} …"


@register.simple_tag
def left_on(left: Mapping[UUID, int], host_id: UUID) -> int:
    """How many VMs have yet to leave a host."""
    return left.get(host_id, 0)
