"""A few threads for the blocking calls of one endpoint, so that a hung host exhausts nothing but its own share.

Unlike ``concurrent.futures``, threads are daemons (a call that hangs for ever does not keep the process from ending),
the queue is bounded, and whoever waits for a call waits no longer than its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from cloudops.hypervisors.port import Overloaded, TimedOut, Unreachable

T = TypeVar("T")

IDLE_THREAD_SECONDS = 60.0


class Bulkhead:
    """At most ``workers`` calls at once and ``waiting`` more in a queue; a thread is started only when needed."""

    def __init__(self, name: str, *, workers: int, waiting: int) -> None:
        self.name = name
        self._workers = workers
        self._waiting = waiting
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._pending = 0
        self._closed = False

    def run(
        self, function: Callable[[], T], *, timeout_seconds: float, discard: Callable[[T], None] | None = None
    ) -> T:
        """The result of ``function``. Raises what it raises, :class:`TimedOut` after the deadline, :class:`Overloaded`.

        A call whose deadline passed goes on in its thread; what it returns then is given to ``discard``.
        """
        future = self._submit(function)
        try:
            return future.result(timeout_seconds)
        except FutureTimeoutError as error:
            if future.done():  # at the very last moment, or the function itself raised a TimeoutError
                return future.result()
            _abandon(future, discard)
            raise self._timed_out(timeout_seconds) from error

    async def arun(
        self, function: Callable[[], T], *, timeout_seconds: float, discard: Callable[[T], None] | None = None
    ) -> T:
        """:meth:`run` for an event loop, which it never blocks. Cancellation abandons the call likewise."""
        future = self._submit(function)
        waiter = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait({waiter}, timeout=timeout_seconds)
        except asyncio.CancelledError:
            _abandon(future, discard)
            waiter.cancel()
            raise
        if not done:
            _abandon(future, discard)
            waiter.cancel()
            raise self._timed_out(timeout_seconds)
        return waiter.result()

    def close(self) -> None:
        """Lets the threads end; calls that still wait in the queue fail with :class:`Unreachable`."""
        with self._lock:
            self._closed = True
            threads = self._threads
        with contextlib.suppress(queue.Empty):
            while True:
                entry = self._queue.get_nowait()
                if entry is not None and entry[0].set_running_or_notify_cancel():
                    entry[0].set_exception(Unreachable(f"{self.name} was closed"))
        for _ in range(threads):
            self._queue.put(None)

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise Unreachable(f"{self.name} was closed")
            if self._pending >= self._workers + self._waiting:
                raise Overloaded(
                    f"{self._pending} calls to {self.name} wait already",
                    numbers={"running": self._workers, "waiting": self._pending - self._workers},
                )
            self._pending += 1
            start = self._threads < min(self._workers, self._pending)
            self._threads += start
            self._queue.put((future, function))
        if start:
            threading.Thread(target=self._work, name=f"hypervisor {self.name}", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            try:
                entry = self._queue.get(timeout=IDLE_THREAD_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._pending >= self._threads:  # a call came in at this very moment
                        continue
                    self._threads -= 1
                return
            if entry is None:
                return
            self._execute(*entry)

    def _execute(self, future: Future[T], function: Callable[[], T]) -> None:
        try:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
        finally:
            with self._lock:
                self._pending -= 1

    def _timed_out(self, seconds: float) -> TimedOut:
        return TimedOut(f"{self.name} did not answer within {seconds:g} s", numbers={"timeout_seconds": seconds})


def _abandon(future: Future[T], discard: Callable[[T], None] | None) -> None:
    """Nobody waits any more: a call that has not begun is dropped, the result of one that has is thrown away."""
    if future.cancel() or discard is None:
        return

    def throw_away(finished: Future[T]) -> None:
        if finished.exception() is None:
            discard(finished.result())

    future.add_done_callback(throw_away)
