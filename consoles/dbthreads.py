"""Database work of sockets: in a few threads of their own, each call with a deadline, never on the event loop.

Threads are daemons, so that a database that hangs never holds up the process' end. A call that missed its deadline may
still commit later; whoever makes one copes with that.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import close_old_connections

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class DbThreads:
    """At most ``size`` threads at work; one that hangs past its call's deadline is replaced."""

    def __init__(self, name: str, *, size: int):
        self._name = name
        self._free = size
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0

    async def run(self, function: Callable[[], T], *, timeout_seconds: float) -> T:
        """``function()`` in a thread. Raises what it raises, and :class:`TimeoutError` after ``timeout_seconds``."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((function, loop, future))
        self._start_one_if_needed()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await future
        except (TimeoutError, asyncio.CancelledError):
            self._replace_one()
            raise

    def _start_one_if_needed(self) -> None:
        with self._lock:
            if self._waiting >= self._jobs.qsize() or self._free == 0:
                return
            self._free -= 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _replace_one(self) -> None:
        """The thread of an abandoned call retires when it returns; another may take its place now."""
        with self._lock:
            self._free += 1
        if self._jobs.qsize():
            self._start_one_if_needed()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._waiting += 1
            function, loop, future = self._jobs.get()
            with self._lock:
                self._waiting -= 1
            outcome = self._call(function) if not future.cancelled() else (None, None)
            abandoned = future.cancelled()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, *outcome)
            if abandoned:
                return

    def _call(self, function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        try:
            close_old_connections()
            return function(), None
        except BaseException as error:
            return None, error
        finally:
            with contextlib.suppress(Exception):
                close_old_connections()


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
