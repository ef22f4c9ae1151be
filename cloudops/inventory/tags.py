"""Tags: words that hosts carry and that offerings ask for. They come with their first use."""

from __future__ import annotations

from collections.abc import Iterable

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
