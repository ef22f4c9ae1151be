"""The connections on which calls are made: one call at a time on each.

libvirt allows several, but then a call that hangs (on a guest whose QEMU is stuck, say) shares its connection's fate
with the others, and libvirt before 10.0 loses wake-ups between threads on one connection, for seconds at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cloudops.hypervisors.libvirt.backoff import Backoff
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.port import HypervisorError, Overloaded, Unreachable

MAX_SESSIONS = 6
MAX_IDLE = 2


class SessionPool:
    """Opens sessions when needed, keeps a few, and cuts all of them when it is closed."""

    def __init__(self, make_session: Callable[[], Session], backoff: Backoff) -> None:
        self._make_session = make_session
        self._backoff = backoff
        self._free = threading.BoundedSemaphore(MAX_SESSIONS)
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._busy: set[Session] = set()
        self._closed = False

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
            sessions = [*self._idle, *self._busy]
            self._idle.clear()
        for session in sessions:
            session.close("it was closed")

    def _take(self, deadline: float) -> Session:
        with self._lock:
            self._check_open()
            while self._idle:
                session = self._idle.pop()
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
                self._idle.append(session)
                return
        session.close("no longer needed")
