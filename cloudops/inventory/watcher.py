"""The watcher: listens to its share of the endpoints, so that pages follow within a second of what happens."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import structlog
from django.db import connections

from cloudops.inventory import leases
from cloudops.inventory.models import Endpoint
from cloudops.inventory.watching import EndpointWatch, identity_of

log = structlog.get_logger(__name__)
STEP_SECONDS: Final = 1.0
WRITERS = 4
WRITE_SECONDS = 60.0


class Watcher:
    """Call :meth:`step` every :data:`STEP_SECONDS` from one thread, and :meth:`stop` at the end."""

    def __init__(self, name: str, *, clock: Callable[[], datetime]) -> None:
        self.name = name
        self._clock = clock
        self._watches: dict[UUID, EndpointWatch] = {}
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="watch-write")

    @property
    def watched(self) -> frozenset[UUID]:
        """The endpoints that this watcher listens to."""
        return frozenset(self._watches)

    def step(self, *, watchers: int) -> None:
        """Renews leases and brings subscriptions in step with them; ``watchers`` share the endpoints."""
        held = {endpoint.pk: endpoint for endpoint in leases.hold(self.name, watchers=watchers, now=self._clock())}
        for pk in list(self._watches):
            endpoint = held.get(pk)
            if endpoint is None or identity_of(endpoint) != self._watches[pk].identity:
                self._watches.pop(pk).stop()
        for pk, endpoint in held.items():
            if pk not in self._watches:
                self._watch(endpoint)

    def stop(self) -> None:
        """Ends every subscription, lets writes that are under way end, and gives up the leases."""
        for watch in self._watches.values():
            watch.stop()
        self._watches.clear()
        self._writers.shutdown(wait=True, cancel_futures=True)
        leases.release(self.name, now=self._clock())

    def _watch(self, endpoint: Endpoint) -> None:
        log.info("watching", endpoint=str(endpoint.pk), uri=endpoint.uri)
        self._watches[endpoint.pk] = watch = EndpointWatch(endpoint, write=self._write, clock=self._clock)
        watch.start()

    def _write(self, function: Callable[[], Any]) -> Any:
        return self._writers.submit(_with_fresh_connection, function).result(WRITE_SECONDS)


def _with_fresh_connection(function: Callable[[], Any]) -> Any:
    try:
        return function()
    finally:
        connections.close_all()
