"""The connection on which events arrive: kept by a thread of its own, and opened again whenever it breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cloudops.hypervisors.backoff import Backoff
from cloudops.hypervisors.hub import EventHub
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.port import EventKind, HypervisorError, HypervisorEvent, Unreachable

CHECK_SECONDS = 1.0


class EventWatch:
    """Runs while the hub has subscribers, and tells it CONNECTED and DISCONNECTED."""

    def __init__(
        self,
        hub: EventHub,
        make_session: Callable[[Callable[[Session, str], None]], Session],
        backoff: Backoff,
        timeout_seconds: float,
    ) -> None:
        """``make_session`` takes what is to be called when the session ends by itself."""
        self._hub = hub
        self._make_session = make_session
        self._backoff = backoff
        self._timeout_seconds = timeout_seconds
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._session: Session | None = None
        self._last: HypervisorEvent | None = None
        self._closed = False

    def start(self) -> None:
        """For a new subscriber: starts the thread, or says again how things stand. Raises
        :class:`Unreachable` after :meth:`close`."""
        with self._changed:
            if self._closed:
                raise Unreachable("This connection was closed.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="libvirt watch", daemon=True)
                self._thread.start()
            elif self._last is not None:
                self._hub.publish(self._last)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            session, self._session = self._session, None
            self._changed.notify_all()
        if session is not None:
            session.close("it was closed")

    def _run(self) -> None:
        while self._wait_until_needed():
            session = self._make_session(self._ended)
            try:
                session.open(time.monotonic() + self._timeout_seconds)
            except HypervisorError as error:
                self._backoff.failed(error)
                with self._changed:
                    self._announce(EventKind.DISCONNECTED, str(error))
                continue
            self._backoff.succeeded()
            with self._changed:
                if not self._closed and session.is_alive:
                    self._session = session
                    self._announce(EventKind.CONNECTED, "")
                    continue
            session.close("it was closed")

    def _wait_until_needed(self) -> bool:
        """Waits while the session lives, nobody listens, or it is too early to try again. False: closed."""
        with self._changed:
            while not self._closed:
                if self._session is not None and self._session.is_alive:
                    self._drop_unwanted()
                    self._changed.wait(CHECK_SECONDS)
                elif not self._hub.has_subscribers:
                    self._changed.wait(CHECK_SECONDS)
                elif self._backoff.wait_seconds > 0:
                    self._changed.wait(self._backoff.wait_seconds)
                else:
                    return True
            return False

    def _drop_unwanted(self) -> None:
        if self._session is not None and not self._hub.has_subscribers:
            session, self._session, self._last = self._session, None, None
            session.close("nobody listens")

    def _ended(self, session: Session, reason: str) -> None:
        with self._changed:
            if session is self._session:
                self._session = None
                self._announce(EventKind.DISCONNECTED, reason)
            self._changed.notify_all()

    def _announce(self, kind: EventKind, detail: str) -> None:
        repeated = self._last is not None and self._last.kind is kind is EventKind.DISCONNECTED
        self._last = HypervisorEvent(kind, at=datetime.now(UTC), detail=detail)
        if not repeated and not self._closed:
            self._hub.publish(self._last)
