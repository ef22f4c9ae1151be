"""The configuration reference, made from the code that reads it, so that the two cannot drift apart."""

from __future__ import annotations

from collections.abc import Iterator

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from cloudops import env
from cloudops.core.runtime import tunable_fields, unit_of

INTRODUCTION = """# Configuration

<!-- Made by `manage.py render_reference`; change the help texts in the code instead. -->

What a deployer needs at boot, or must keep secret, is read from the environment. What an operator tunes while CloudOps
runs is on the Settings page and at `/api/v1/settings/`. No value is in both places.
"""


def configuration() -> str:
    """docs/configuration.md as it should be."""
    return "\n".join([INTRODUCTION, *_environment(), "", *_runtime(), ""])


def _environment() -> Iterator[str]:
    yield "## Environment\n"
    yield "| Variable | Kind | Default | Meaning |"
    yield "|---|---|---|---|"
    for variable in env.VARIABLES.values():
        default = f"`{variable.default}`" if variable.default and variable.name != "CLOUDOPS_STATIC_ROOT" else ""
        yield f"| `{variable.name}` | {variable.kind} | {default} | {variable.help} |"


def _runtime() -> Iterator[str]:
    yield "## Settings that act at once\n"
    yield "| Setting | Default | Range | Meaning |"
    yield "|---|---|---|---|"
    for field in tunable_fields():
        yield f"| {field.verbose_name} (`{field.name}`) | {_value(field)} | {_range(field)} | {field.help_text} |"


def _value(field: models.Field[object, object]) -> str:
    default = field.get_default()
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default} {unit_of(field.name)}".strip()


def _range(field: models.Field[object, object]) -> str:
    if field.choices:
        return ", ".join(f"`{value}`" for value, _ in field.flatchoices)
    low = [v.limit_value for v in field.validators if isinstance(v, MinValueValidator)]
    high = [v.limit_value for v in field.validators if isinstance(v, MaxValueValidator)]
    return f"{max(low, default=0)}–{min(high)}" if high else ""
