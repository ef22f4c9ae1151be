"""Live updates and messages between processes, over the channel layer.

``publish`` tells pages that something changed (they fetch it again); ``send`` delivers a message to one group at once,
for example "close this session" to the relay that holds it. Both are hints: correctness never depends on their arrival.
They are sent after commit by one background thread per process, so that a slow or dead Redis never holds a request.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from typing import Any

import structlog
from channels.layers import get_channel_layer
from django.db import transaction

log = structlog.get_logger(__name__)
SEND_SECONDS = 2.0
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
    """One thread and event loop that sends; equal messages that wait together are sent once."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._waiting: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue(maxsize=10_000)
        self._idle = threading.Condition()
        self._open = 0
        threading.Thread(target=self._run, name="live-outbox", daemon=True).start()

    def put(self, group: str, message: dict[str, Any]) -> None:
        try:
            self._waiting.put_nowait((group, message))
        except queue.Full:
            log.warning("live_outbox_full", group=group)
            return
        with self._idle:
            self._open += 1

    def flush(self, timeout_seconds: float) -> bool:
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0, timeout_seconds)

    def _run(self) -> None:
        asyncio.run(self._forward())

    async def _forward(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await loop.run_in_executor(None, self._waiting.get)]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            unique = [item for index, item in enumerate(batch) if item not in batch[:index]]
            for group, message in unique:
                await self._send(group, message)
            with self._idle:
                self._open -= len(batch)
                self._idle.notify_all()

    async def _send(self, group: str, message: dict[str, Any]) -> None:
        layer = get_channel_layer()
        if layer is None:
            return
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await layer.group_send(group, message)
        except Exception as error:
            log.warning("live_send_failed", group=group, error=str(error))


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
