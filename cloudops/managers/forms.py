"""The settings form, made from the fields of RuntimeSettings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator

from cloudops.core import capacity, runtime

_GROUPS = [
    ("console_", "limit", "Console limits", "How many consoles may be open. A host may have a limit of its own."),
    ("console_", "foreign", "Console limits", ""),
    ("console_", "idle", "Idle consoles", "When a console without key or pointer input is warned, and when it ends."),
    ("console_", "max", "Idle consoles", ""),
    ("console_", "redeem", "Links and dropped lines", "How long a console link can be opened or taken up again."),
    ("console_", "resume", "Links and dropped lines", ""),
    ("console_", "", "Clean-up and history", "The reaper's interval, and how long ended consoles are kept."),
    ("inventory_", "", "Inventory", "How hosts are read."),
    ("placement_", "threshold", "Capacity", "How much of a host may be promised to VMs. A cluster may have its own."),
    ("placement_", "ratio", "Capacity", ""),
    ("placement_", "reserve", "Capacity", ""),
    ("placement_", "", "Placement", "How a host is chosen for a VM. A cluster may have its own allocator."),
    ("migration_", "", "Migration", "How VMs move between hosts, and how many at once."),
    ("scaling_", "", "Live scaling", "How far VMs can grow while they run. A cluster or VM may have its own headroom."),
    ("audit_", "", "Audit trail", "What happened, who did it, and for how long that is kept."),
    ("", "", "Other", "Settings of their own kind."),
]


@dataclass(frozen=True, slots=True)
class Item:
    """A bound field with its unit, its bounds in words, its default and whether the default is in force."""

    field: forms.BoundField
    unit: str
    bounds: str
    default: str
    words: str
    is_default: bool

    @property
    def count(self) -> str:
        """What a number without a unit of time counts."""
        name = self.field.name
        return "consoles" if name.startswith("console_") and name.endswith("_limit") else ""


class SettingsForm(forms.Form):
    """Every tunable setting; ``groups`` orders them for the page."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in runtime.tunable_fields():
            self.fields[field.name] = field.formfield()

    def groups(self) -> Iterator[tuple[str, str, list[Item]]]:
        """Title, explanation and items of each section, in order."""
        sections: dict[str, tuple[str, list[Item]]] = {}
        by_field = {field.name: field for field in runtime.tunable_fields()}
        placed = {name: _group_of(name) for name in by_field}
        for _, _, title, text in _GROUPS:
            if title in sections:
                continue
            items = [_item(self[name], by_field[name]) for name, group in placed.items() if group == title]
            if items:
                sections[title] = (text, items)
        return ((title, text, items) for title, (text, items) in sections.items())


def _group_of(name: str) -> str:
    return next(title for prefix, word, title, _ in _GROUPS if name.startswith(prefix) and word in name)


def _item(bound: forms.BoundField, field: Any) -> Item:
    unit = runtime.unit_of(field.name)
    low = [v.limit_value for v in field.validators if isinstance(v, MinValueValidator)]
    high = [v.limit_value for v in field.validators if isinstance(v, MaxValueValidator)]
    value, default = bound.value(), field.get_default()
    is_flag = isinstance(default, bool)
    return Item(
        field=bound,
        unit=unit,
        bounds="" if is_flag or not high else f"{max(low, default=0)}–{min(high)}",
        default=_default(field, default),
        words=_in_words(value, unit),
        is_default=str(value) == str(default),
    )


def _default(field: Any, default: Any) -> str:
    """The default as the page would show it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return str(dict(field.flatchoices).get(default, default))


def _in_words(value: Any, unit: str) -> str:
    """A number of seconds as people say it; empty where that adds nothing."""
    try:
        seconds = int(value)
    except (TypeError, ValueError):
        return ""
    return capacity.duration_words(seconds) if unit == "seconds" and seconds >= 60 else ""
