"""Live updates and messages between processes, over the channel layer.

``publish`` tells pages that something changed (they fetch it again); ``send`` delivers a message to one group at once,
for example "close this session" to the relay that holds it. Both are hints: correctness never depends on their arrival.
They are sent after commit by one background thread per process, so that a slow or dead Redis never holds a request.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import structlog
from channels.layers import get_channel_layer
from django.db import transaction

log = structlog.get_logger(__name__)
SEND_SECONDS = 2.0
ATTEMPTS = 2
MOST_WAITING = 10_000
_GROUP_PREFIX = "live."


def group_of(topic: str) -> str:
    """The channel-layer group of a topic; group names allow only letters, digits, hyphen, underscore and period."""
    return _GROUP_PREFIX + topic.replace(":", ".")


def publish(*topics: str) -> None:
    """Tells every page that watches one of ``topics``, after the current transaction commits."""
    for topic in dict.fromkeys(topics):
        send(group_of(topic), {"type": "live.changed", "topic": topic})


def send(group: str, message: dict[str, Any]) -> None:
    """Delivers ``message`` (with its ``type``) to ``group`` after the current transaction commits; never raises."""
    transaction.on_commit(lambda: _outbox().put(group, message), robust=True)


class _Outbox:
    """One daemon thread and event loop that sends; equal messages that wait together are sent once.

    Nothing here blocks in an executor: its threads would be joined at exit, and the process would never end.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._open = 0
        self._idle = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        threading.Thread(target=self._run, name="live-outbox", daemon=True).start()

    def put(self, group: str, message: dict[str, Any]) -> None:
        with self._idle:
            if len(self._waiting) >= MOST_WAITING:
                log.warning("live_outbox_full", group=group)
                return
            self._waiting.append((group, message))
            self._open += 1
        self._loop.call_soon_threadsafe(self._wake.set)

    def flush(self, timeout_seconds: float) -> bool:
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0, timeout_seconds)

    def _run(self) -> None:
        self._loop.run_until_complete(self._forward())

    async def _forward(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            with self._idle:
                batch, self._waiting = self._waiting, []
            unique = {(group, repr(sorted(message.items()))): (group, message) for group, message in batch}
            for group, message in unique.values():
                await self._send(group, message)
            with self._idle:
                self._open -= len(batch)
                self._idle.notify_all()

    async def _send(self, group: str, message: dict[str, Any]) -> None:
        layer = get_channel_layer()
        if layer is None:
            return
        failure = ""
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await layer.group_send(group, message)
                    return
            except Exception as error:  # after a restart of Redis, the first use finds the old connection dead
                failure = str(error) or type(error).__name__
        log.warning("live_send_failed", group=group, error=failure)


_lock = threading.Lock()
_current: _Outbox | None = None


def _outbox() -> _Outbox:
    """This process's outbox; a forked child gets its own, as threads do not survive a fork."""
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = _Outbox()
        return _current


def flush(timeout_seconds: float = 5.0) -> bool:
    """Waits until everything put so far has been sent; for shutdown and tests."""
    return _outbox().flush(timeout_seconds)
