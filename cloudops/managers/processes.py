"""Processes of the management servers: each renews a lease; a web process' lease carries the consoles of its relay.

All times come from the caller. A lease that lapsed is never revived, as others may have given its consoles' slots away:
the process registers anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db.models import Q, QuerySet

from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.held import SKEW_SECONDS as SKEW_SECONDS
from cloudops.managers.models import ServerProcess

LEASE_SECONDS: Final = 12.0
RENEW_SECONDS: Final = 3.0


def register(
    *, role: str, server_name: str, pid: int, version: str, now: datetime, lease_seconds: float = LEASE_SECONDS
) -> ServerProcess:
    """A new row for this process; also after its lease lapsed."""
    process = ServerProcess.objects.create(
        role=role,
        server_name=server_name,
        pid=pid,
        version=version,
        started_at=now,
        renewed_at=now,
        lease_until=now + timedelta(seconds=lease_seconds),
    )
    live.publish("servers")
    return process


def renew(*, process: ServerProcess, now: datetime, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Moves the lease on. False when it has lapsed, is about to, or was ended: :func:`register` then."""
    until = now + timedelta(seconds=lease_seconds)
    still_held = Q(lease_until__gt=now + timedelta(seconds=SKEW_SECONDS), stopped_at__isnull=True)
    if not ServerProcess.objects.filter(still_held, pk=process.pk).update(renewed_at=now, lease_until=until):
        return False
    process.renewed_at, process.lease_until = now, until
    return True


def stop(*, process: ServerProcess, now: datetime) -> None:
    """The process ends in good order: its lease ends with it. Stopping twice is harmless."""
    if ServerProcess.objects.filter(pk=process.pk, stopped_at__isnull=True).update(stopped_at=now, lease_until=now):
        process.stopped_at = process.lease_until = now
        live.publish("servers")


def drain(*, process: ServerProcess, by: Actor, now: datetime) -> None:
    """Takes no new consoles any more; those that are open stay."""
    _set_draining(process, True, by=by, now=now)


def undrain(*, process: ServerProcess, by: Actor, now: datetime) -> None:
    """Takes new consoles again."""
    _set_draining(process, False, by=by, now=now)


def _set_draining(process: ServerProcess, draining: bool, *, by: Actor, now: datetime) -> None:
    if ServerProcess.objects.filter(pk=process.pk, draining=not draining).update(draining=draining):
        events.record("server.drained" if draining else "server.undrained", by=by, now=now, subject=process)
        live.publish("servers")
    process.draining = draining


def alive(now: datetime) -> QuerySet[ServerProcess]:
    """Processes whose lease has not lapsed."""
    return ServerProcess.objects.filter(lease_until__gt=now)


def purge(*, now: datetime, keep_seconds: float) -> int:
    """Removes processes whose lease ended more than ``keep_seconds`` ago; returns how many."""
    return ServerProcess.objects.filter(lease_until__lt=now - timedelta(seconds=keep_seconds)).delete()[0]
