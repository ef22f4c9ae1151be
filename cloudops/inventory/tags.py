"""Tags: words that hosts carry and that offerings ask for. They come with their first use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ValidationError

from cloudops.core.errors import Invalid
from cloudops.inventory.models import Tag, validate_tag


def names() -> list[str]:
    """Every tag in use or used once, in order."""
    return list(Tag.objects.values_list("name", flat=True))


def ensure(wanted: Iterable[str], *, field: str = "tags") -> list[Tag]:
    """The tags of these names, made where they are missing. Raises :class:`Invalid` naming ``field``."""
    clean = sorted({name.strip().lower() for name in wanted if name.strip()})
    for name in clean:
        try:
            validate_tag(name)
        except ValidationError as error:
            raise Invalid(f"“{name}” cannot be a tag.", fields={field: error.messages}) from error
    Tag.objects.bulk_create([Tag(name=name) for name in clean], ignore_conflicts=True)
    return list(Tag.objects.filter(name__in=clean))


def put_on(row: Any, wanted: Mapping[str, Iterable[str]]) -> dict[str, list[list[str]]]:
    """Gives a saved row these tags, by the name of its many-to-many field; returns before and after of those that
    changed. Raises :class:`Invalid`."""
    changed = {}
    for field, tag_names in wanted.items():
        rows = getattr(row, field)
        before = sorted(rows.values_list("name", flat=True))
        rows.set(ensure(tag_names, field=field))
        after = sorted(rows.values_list("name", flat=True))
        if before != after:
            changed[field] = [before, after]
    return changed


def taken_from(changes: dict[str, Any], *fields: str) -> dict[str, Iterable[str]]:
    """Takes the tag fields out of ``changes``, for :func:`put_on`; those that are not named, or None, stay."""
    taken = {field: changes.pop(field, None) for field in fields}
    return {field: names for field, names in taken.items() if names is not None}
