"""Run-time settings: read them, change them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Invalid
from cloudops.core.models import RuntimeSettings


def current() -> RuntimeSettings:
    """The settings now: one indexed read, never cached, so that a change acts at once on every server."""
    row = RuntimeSettings.objects.filter(pk=1).first()
    return row or RuntimeSettings.objects.get_or_create(pk=1)[0]


def tunable_fields() -> list[Any]:
    """The model fields that people may change, in their order."""
    return [f for f in RuntimeSettings._meta.concrete_fields if f.name not in {"id", "updated_at"}]


_UNITS = {
    "_mib_per_second": "MiB/s",
    "_milliseconds": "ms",
    "_seconds": "seconds",
    "_days": "days",
    "_mib": "MiB",
    "_percent": "%",
}


def unit_of(name: str) -> str:
    """The unit that a setting's name ends with, as people write it; empty for a mere number."""
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def change(*, by: Actor, now: datetime, **values: object) -> RuntimeSettings:
    """Sets the named settings. Raises :class:`Invalid` with each field's message; then nothing is changed."""
    known = {field.name for field in tunable_fields()}
    if unknown := sorted(set(values) - known):
        raise Invalid(f"There is no setting {unknown[0]!r}.", fields={name: ["Unknown setting."] for name in unknown})
    current()
    with transaction.atomic():
        row = RuntimeSettings.objects.select_for_update().get(pk=1)
        before = {name: getattr(row, name) for name in values}
        for name, value in values.items():
            setattr(row, name, value)
        try:
            row.full_clean()
        except ValidationError as error:
            raise Invalid("Some settings are not right.", fields=error.message_dict) from error
        changed = {n: [before[n], getattr(row, n)] for n in values if before[n] != getattr(row, n)}
        if changed:
            row.save()
            events.record("settings.changed", by=by, now=now, subject=row, data={"changed": changed})
            live.publish("settings")
    return row
