"""Whether a host is in its platform's own maintenance mode, as somebody saw who just asked."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from cloudops.core import live
from cloudops.inventory import signals
from cloudops.inventory.models import Host
from cloudops.inventory.notices import after_commit


def note(host: Host, inside: bool, *, now: datetime) -> None:
    """Writes what was seen ahead of the next synchronisation, and lets placement know."""
    with transaction.atomic():
        if Host.objects.filter(pk=host.pk).exclude(platform_maintenance=inside).update(platform_maintenance=inside):
            live.publish("hosts", f"host:{host.pk}")
            after_commit(signals.hosts_changed, host_ids=[host.pk], now=now)
    host.platform_maintenance = inside
