"""From model validation to a refusal, and from changed attributes to an audit line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from cloudops.core.errors import Invalid


def demand_valid(obj: models.Model, *, prefix: str = "", exclude: Iterable[str] = ()) -> None:
    """Runs the model's validators and constraints. Raises :class:`Invalid` with each field's messages."""
    try:
        obj.full_clean(exclude=set(exclude))
    except ValidationError as error:
        fields = {prefix + name: messages for name, messages in error.message_dict.items()}
        raise Invalid("Some fields are not right.", fields=fields) from error


def demand_known(changes: Mapping[str, object], known: Iterable[str]) -> None:
    """Raises :class:`Invalid` for names that may not be changed."""
    if unknown := sorted(set(changes) - set(known)):
        raise Invalid(f"There is no field {unknown[0]!r}.", fields={name: ["Unknown field."] for name in unknown})


def assign(obj: models.Model, changes: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Sets the attributes and returns ``{name: [before, after]}`` of those that differ, in JSON's types."""
    changed: dict[str, list[Any]] = {}
    for name, value in changes.items():
        before = getattr(obj, name)
        if before != value:
            changed[name] = [_plain(before), _plain(value)]
            setattr(obj, name, value)
    return changed


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
