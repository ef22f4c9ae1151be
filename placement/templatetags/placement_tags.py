"""Placement's own template tags."""

from __future__ import annotations

from typing import Any, Final

from django import template
from django.utils.safestring import SafeString

from cloudops.core.templatetags import ui
from placement.views.room import Bar

register = template.Library()

TABS: Final = (
    ("placement", "Capacity"),
    ("decisions", "Decisions"),
    ("affinity-groups", "Groups"),
    ("templates", "Templates"),
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
