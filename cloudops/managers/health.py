"""Whether this process can serve: each part is asked within a deadline, and what fails says how to mend it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from redis import Redis

from cloudops.hypervisors.bulkhead import Bulkhead
from cloudops.hypervisors.port import TimedOut
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess

log = structlog.get_logger(__name__)
DEADLINE_SECONDS: Final = 2.0
# A check that hangs keeps its thread: few of them, so that frequent probes of a dead database exhaust nothing.
_bulkhead = Bulkhead("health checks", workers=5, waiting=5)


def _after_fork() -> None:
    global _bulkhead
    _bulkhead = Bulkhead("health checks", workers=5, waiting=5)


os.register_at_fork(after_in_child=_after_fork)


class _NotReady(Exception):
    """A check's own answer is no, with words that strangers may read."""


@dataclass(frozen=True, slots=True)
class Check:
    """One part's answer. Nothing here names addresses, users or versions: /readyz is open to everybody."""

    name: str
    ok: bool
    detail: str
    elapsed_ms: float
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """All checks; ready only if every one is well."""

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        return all(check.ok for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        checks = [
            {"name": c.name, "ok": c.ok, "detail": c.detail, "elapsed_ms": c.elapsed_ms, "remedy": c.remedy}
            for c in self.checks
        ]
        return {"ready": self.ready, "server": settings.SERVER_NAME, "checks": checks}


async def readiness(*, now: datetime, deadline_seconds: float = DEADLINE_SECONDS) -> Health:
    """Asks every part, all at the same time, for at most ``deadline_seconds``. Never raises."""
    parts = (
        _Part("database", _database, "Start the database, or mend CLOUDOPS_DATABASE_URL."),
        _Part("migrations", _migrations, "Run manage.py migrate."),
        _Part("redis", _redis, "Start Redis, or mend CLOUDOPS_REDIS_URL."),
        _Part("lease", partial(_lease, now), "Wait a few seconds; if this stays, look at this process's log."),
    )
    return Health(tuple(await asyncio.gather(*(_ask(part, deadline_seconds) for part in parts))))


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    function: Callable[[], str]
    remedy: str


async def _ask(part: _Part, deadline_seconds: float) -> Check:
    started = time.perf_counter()
    try:
        detail, ok = (
            await _bulkhead.arun(lambda: _with_own_connection(part.function), timeout_seconds=deadline_seconds),
            True,
        )
    except TimedOut:
        detail, ok = f"No answer within {deadline_seconds:g} s.", False
    except _NotReady as no:
        detail, ok = str(no), False
    except Exception as error:
        log.warning("not_ready", check=part.name, error=str(error))
        detail, ok = "It does not answer; this process's log says why.", False
    elapsed_ms = round((time.perf_counter() - started) * 1000, 1)
    return Check(part.name, ok, detail, elapsed_ms, "" if ok else part.remedy)


def _with_own_connection(function: Callable[[], str]) -> str:
    try:
        return function()
    finally:
        connections.close_all()


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "It answers."


def _migrations() -> str:
    executor = MigrationExecutor(connection)
    missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if missing:
        raise _NotReady(f"{missing} are not applied.")
    return "All are applied."


def _redis() -> str:
    with Redis.from_url(
        settings.REDIS_URL, socket_timeout=DEADLINE_SECONDS, socket_connect_timeout=DEADLINE_SECONDS
    ) as redis:
        redis.ping()
    return "It answers."


def _lease(now: datetime) -> str:
    """Every web process holds one from its start on; without it no console can be served here."""
    here = {"server_name": settings.SERVER_NAME, "pid": os.getpid(), "role": ServerProcess.Role.WEB}
    row = processes.alive(now).filter(**here).order_by("-started_at").first()
    if row is None:
        raise _NotReady("This process holds no lease.")
    if row.draining:
        raise _NotReady("This process is draining and takes no new consoles.")
    return "It is held."
