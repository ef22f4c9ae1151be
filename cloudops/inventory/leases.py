"""Which watcher listens to which endpoint: shared evenly, taken over when a watcher dies."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q

from cloudops.inventory.models import Endpoint

LEASE_SECONDS = 6.0
GRACE_SECONDS = 2.0
"""What nobody wanted for so long is taken even beyond one's share: a watcher that just died is still counted."""


def hold(watcher: str, *, watchers: int, now: datetime) -> list[Endpoint]:
    """Renews ``watcher``'s leases, gives up or takes endpoints towards its share among ``watchers``, and returns the
    endpoints that are its own until the lease is over. Two statements when nothing changes."""
    until = now + timedelta(seconds=LEASE_SECONDS)
    ageing = now + timedelta(seconds=LEASE_SECONDS / 2)
    Endpoint.objects.filter(watched_by=watcher, watch_until__lte=ageing).update(watch_until=until)
    everything = list(Endpoint.objects.order_by("created_at", "pk"))
    share = -(-len(everything) // max(1, watchers))
    mine = [endpoint for endpoint in everything if endpoint.watched_by == watcher]
    if len(mine) > share:
        release(watcher, [endpoint.pk for endpoint in mine[share:]], now=now)
        return mine[:share]
    for endpoint in everything:
        wanted = _is_free(endpoint, now) and (len(mine) < share or _is_forsaken(endpoint, now))
        if wanted and _take(endpoint, watcher, now=now, until=until):
            mine.append(endpoint)
    return mine


def release(watcher: str, ids: Collection[UUID] | None = None, *, now: datetime) -> None:
    """Gives up the watcher's leases on these endpoints, or on all."""
    rows = Endpoint.objects.filter(watched_by=watcher)
    if ids is not None:
        rows = rows.filter(pk__in=ids)
    rows.update(watched_by="", watch_until=now)


def _is_free(endpoint: Endpoint, now: datetime) -> bool:
    return not endpoint.watched_by or endpoint.watch_until is None or endpoint.watch_until <= now


def _is_forsaken(endpoint: Endpoint, now: datetime) -> bool:
    return (endpoint.watch_until or endpoint.created_at) <= now - timedelta(seconds=GRACE_SECONDS)


def _take(endpoint: Endpoint, watcher: str, *, now: datetime, until: datetime) -> bool:
    free = Q(watched_by="") | Q(watch_until__isnull=True) | Q(watch_until__lte=now)
    return Endpoint.objects.filter(free, pk=endpoint.pk).update(watched_by=watcher, watch_until=until) == 1
