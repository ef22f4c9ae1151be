"""A watcher process among the management servers' others: its row, its share, its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from cloudops.core import live
from cloudops.hypervisors import registry
from cloudops.inventory.watcher import STEP_SECONDS, Watcher
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess

log = structlog.get_logger(__name__)
FLUSH_SECONDS: Final = 2.0


def run(*, stop: threading.Event, clock: Callable[[], datetime], version: str) -> None:
    """Watches until ``stop`` is set. A database that is away is waited for; readings go on meanwhile."""
    process = _register(clock(), version)
    watcher = Watcher(str(process.pk), clock=clock)
    log.info("watcher_started", process=str(process.pk))
    try:
        while not stop.wait(STEP_SECONDS):
            try:
                process = _keep(process, watcher, clock(), version)
                watcher.step(watchers=processes.alive(clock()).filter(role=ServerProcess.Role.WATCHER).count())
            except (DatabaseError, InterfaceError) as error:
                log.warning("watcher_database_away", error=str(error))
                connection.close()
    finally:
        _end(process, watcher, clock)


def _register(now: datetime, version: str) -> ServerProcess:
    return processes.register(
        role=ServerProcess.Role.WATCHER, server_name=settings.SERVER_NAME, pid=os.getpid(), version=version, now=now
    )


def _keep(process: ServerProcess, watcher: Watcher, now: datetime, version: str) -> ServerProcess:
    """Renews the row; one that lapsed (the process was frozen, or the database away) is replaced."""
    if (now - process.renewed_at).total_seconds() < processes.RENEW_SECONDS or processes.renew(
        process=process, now=now
    ):
        return process
    log.warning("watcher_lease_lapsed", process=str(process.pk))
    fresh = _register(now, version)
    watcher.name = str(fresh.pk)
    return fresh


def _end(process: ServerProcess, watcher: Watcher, clock: Callable[[], datetime]) -> None:
    try:
        watcher.stop()
        processes.stop(process=process, now=clock())
    except (DatabaseError, InterfaceError) as error:
        log.warning("watcher_database_away", error=str(error))
    live.flush(FLUSH_SECONDS)
    registry.close_all()
    log.info("watcher_stopped", process=str(process.pk))
