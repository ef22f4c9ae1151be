"""When endpoints are synchronised: each by itself, once an interval in the whole installation."""

from __future__ import annotations

from datetime import datetime, timedelta

from cloudops.core import runtime
from cloudops.core.models import Tick
from cloudops.core.ticks import claim_tick
from cloudops.inventory.hosts import tick_name
from cloudops.inventory.models import Endpoint


def claim_due(*, now: datetime) -> list[Endpoint]:
    """The endpoints whose interval has passed, claimed for the caller alone. Queries grow only with what is due."""
    interval = runtime.current().inventory_sync_interval_seconds
    fresh = set(
        Tick.objects.filter(name__startswith="sync:", last_at__gt=now - timedelta(seconds=interval)).values_list(
            "name", flat=True
        )
    )
    waiting = [endpoint for endpoint in Endpoint.objects.all() if tick_name(endpoint) not in fresh]
    return [item for item in waiting if claim_tick(tick_name(item), interval_seconds=interval, now=now)]
