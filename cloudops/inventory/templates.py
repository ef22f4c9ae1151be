"""Templates: what a VM was made from, as far as placement cares."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.validation import demand_valid
from cloudops.inventory import catalogue, tags
from cloudops.inventory.models import Template

TAG_FIELDS = catalogue.TAG_FIELDS
FIELDS = ("name", "description")


class TemplateInUse(Conflict):
    code = "template-in-use"
    title = "VMs were made from this template."
    remedy = "Give those VMs another template first."


def create(
    *,
    name: str,
    description: str = "",
    host_tags: Sequence[str] = (),
    soft_host_tags: Sequence[str] = (),
    by: Actor,
    now: datetime,
) -> Template:
    """A new template. Raises ``Invalid``."""
    template = Template(name=name.strip(), description=description)
    with transaction.atomic():
        demand_valid(template)
        template.save(force_insert=True)
        tags.put_on(template, {"host_tags": host_tags, "soft_host_tags": soft_host_tags})
        events.record("template.created", by=by, now=now, subject=template)
        live.publish("templates")
    return template


def change(template: Template, *, by: Actor, now: datetime, **changes: Any) -> Template:
    """Sets some of :data:`FIELDS` and :data:`TAG_FIELDS` (names); VMs that have it stay as they are.

    Raises ``Invalid``.
    """
    return catalogue.change(
        template, changes, fields=FIELDS, kind="template.changed", topic="templates", by=by, now=now
    )


def delete(template: Template, *, by: Actor, now: datetime) -> None:
    """Raises :class:`TemplateInUse` with the number of VMs that have it, and some of their names."""
    catalogue.delete(template, in_use=TemplateInUse, kind="template.deleted", topic="templates", by=by, now=now)
