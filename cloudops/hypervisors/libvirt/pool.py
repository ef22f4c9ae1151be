"""The connections on which calls are made: one call at a time on each.

libvirt allows several, but then a call that hangs (on a guest whose QEMU is stuck, say) shares its connection's fate
with the others, and libvirt before 10.0 loses wake-ups between threads on one connection, for seconds at a time.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cloudops.hypervisors.backoff import Backoff
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.port import HypervisorError, Overloaded, Unreachable

MAX_SESSIONS = 6
MAX_IDLE = 2
IDLE_SECONDS = 60.0


class _Janitor:
    """One thread of the process closes what the pools have not used for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: weakref.WeakSet[SessionPool] = weakref.WeakSet()
        self._started = False

    def look_after(self, pool: SessionPool) -> None:
        with self._lock:
            self._pools.add(pool)
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="libvirt idle connections", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(IDLE_SECONDS / 4)
            with self._lock:
                pools = list(self._pools)
            for pool in pools:
                pool.trim(time.monotonic())
            del pools


_janitor = _Janitor()


def _after_fork() -> None:
    global _janitor
    _janitor = _Janitor()


os.register_at_fork(after_in_child=_after_fork)


class SessionPool:
    """Opens sessions when needed, keeps a few, and cuts all of them when it is closed."""

    def __init__(self, make_session: Callable[[], Session], backoff: Backoff) -> None:
        self._make_session = make_session
        self._backoff = backoff
        self._free = threading.BoundedSemaphore(MAX_SESSIONS)
        self._lock = threading.Lock()
        self._idle: list[tuple[Session, float]] = []
        """Free sessions and since when, the longest first."""
        self._busy: set[Session] = set()
        self._closed = False
        _janitor.look_after(self)

    @contextmanager
    def session(self, deadline: float) -> Iterator[Session]:
        """An open session for the caller alone, opened by ``deadline`` on the monotonic clock.

        Raises what opening raises, :class:`Overloaded` when none became free in time, :class:`Unreachable` when closed.
        """
        if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Overloaded(f"{MAX_SESSIONS} calls to this host are under way.", numbers={"running": MAX_SESSIONS})
        try:
            session = self._take(deadline)
            try:
                yield session
            finally:
                self._give_back(session)
        finally:
            self._free.release()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sessions = [*(session for session, _ in self._idle), *self._busy]
            self._idle.clear()
        for session in sessions:
            session.close("it was closed")

    def trim(self, now: float) -> None:
        """Closes the sessions that nobody has used for a while; ``now`` is on the monotonic clock."""
        with self._lock:
            old = [session for session, since in self._idle if since < now - IDLE_SECONDS]
            self._idle = [entry for entry in self._idle if entry[0] not in old]
        for session in old:
            session.close("nobody used it")

    def _take(self, deadline: float) -> Session:
        with self._lock:
            self._check_open()
            while self._idle:
                session, _ = self._idle.pop()
                if session.is_alive:
                    self._busy.add(session)
                    return session
        self._backoff.check()
        session = self._make_session()
        try:
            session.open(deadline)
        except HypervisorError as error:
            self._backoff.failed(error)
            raise
        self._backoff.succeeded()
        with self._lock:
            if not self._closed:
                self._busy.add(session)
                return session
        session.close("it was closed")
        raise Unreachable("This connection was closed.")

    def _check_open(self) -> None:
        if self._closed:
            raise Unreachable("This connection was closed.")

    def _give_back(self, session: Session) -> None:
        with self._lock:
            self._busy.discard(session)
            if session.is_alive and not self._closed and len(self._idle) < MAX_IDLE:
                self._idle.append((session, time.monotonic()))
                return
        session.close("no longer needed")
