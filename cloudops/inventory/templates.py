"""Templates: what a VM was made from, as far as placement cares."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.validation import assign, demand_known, demand_valid
from cloudops.inventory import tags
from cloudops.inventory.models import Template

TAG_FIELDS = ("host_tags", "soft_host_tags")
FIELDS = ("name", "description")
NAMES_SHOWN = 5


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
    """Sets some of :data:`FIELDS` and :data:`TAG_FIELDS` (names); VMs stay where they are. Raises ``Invalid``."""
    demand_known(changes, (*FIELDS, *TAG_FIELDS))
    wanted = tags.taken_from(changes, *TAG_FIELDS)
    with transaction.atomic():
        row = Template.objects.select_for_update().get(pk=template.pk)
        changed = assign(row, changes)
        if changed:
            demand_valid(row)
            row.save(update_fields=list(changed))
        changed |= tags.put_on(row, wanted)
        if changed:
            events.record("template.changed", by=by, now=now, subject=row, data={"changed": changed})
            live.publish("templates")
    return row


def delete(template: Template, *, by: Actor, now: datetime) -> None:
    """Raises :class:`TemplateInUse` with the number of VMs that were made from it, and some of their names."""
    with transaction.atomic():
        row = Template.objects.select_for_update().get(pk=template.pk)
        if count := row.vms.count():
            names = list(row.vms.values_list("name", flat=True)[:NAMES_SHOWN])
            more = f" and {count - len(names)} more" if count > len(names) else ""
            raise TemplateInUse(f"{count} VMs have {row.name}: {', '.join(names)}{more}.", vms=count, names=names)
        events.record("template.deleted", by=by, now=now, subject=row)
        row.delete()
        live.publish("templates")
