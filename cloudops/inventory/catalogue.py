"""What offerings and templates have in common: values and tags that are changed together, and VMs that use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from django.db import transaction

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.validation import assign, demand_known, demand_valid
from cloudops.inventory import tags
from cloudops.inventory.models import Offering, Template

Entry = TypeVar("Entry", Offering, Template)
TAG_FIELDS: Final = ("host_tags", "soft_host_tags")
NAMES_SHOWN: Final = 5


def change(
    entry: Entry,
    changes: dict[str, Any],
    *,
    fields: Sequence[str],
    kind: str,
    topic: str,
    then: Callable[[Entry, dict[str, Any]], None] | None = None,
    by: Actor,
    now: datetime,
) -> Entry:
    """Sets some of ``fields`` and :data:`TAG_FIELDS` (names), with an event of ``kind`` if anything differs; ``then``
    hears of it in the same transaction.

    VMs stay as they are. Raises ``Invalid``.
    """
    demand_known(changes, (*fields, *TAG_FIELDS))
    wanted = tags.taken_from(changes, *TAG_FIELDS)
    with transaction.atomic():
        row = type(entry).objects.select_for_update().get(pk=entry.pk)
        changed = assign(row, changes)
        if changed:
            demand_valid(row)
            row.save(update_fields=list(changed))
        changed |= tags.put_on(row, wanted)
        if changed:
            if then is not None:
                then(row, changed)
            events.record(kind, by=by, now=now, subject=row, data={"changed": changed})
            live.publish(topic)
    return row


def delete(
    entry: Offering | Template, *, in_use: type[Conflict], kind: str, topic: str, by: Actor, now: datetime
) -> None:
    """Raises ``in_use`` with the number of VMs that have it, and some of their names."""
    with transaction.atomic():
        row = type(entry).objects.select_for_update().get(pk=entry.pk)
        if count := row.vms.count():
            names = list(row.vms.values_list("name", flat=True)[:NAMES_SHOWN])
            more = f" and {count - len(names)} more" if count > len(names) else ""
            raise in_use(f"{count} VMs have {row.name}: {', '.join(names)}{more}.", vms=count, names=names)
        events.record(kind, by=by, now=now, subject=row)
        row.delete()
        live.publish(topic)
