"""Keeps one session to a host: opens it when needed, again after it broke, and not more often than makes sense."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cloudops.hypervisors.hub import EventHub
from cloudops.hypervisors.libvirt.session import Session
from cloudops.hypervisors.port import EventKind, HypervisorError, HypervisorEvent, Unreachable

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 15.0


class Connector:
    """Gives out the live session. While somebody is subscribed, a thread reconnects by itself."""

    def __init__(self, hub: EventHub, make_session: Callable[[Connector], Session]) -> None:
        self._hub = hub
        self._make_session = make_session
        self._opening = threading.Lock()
        self._changed = threading.Condition()
        self._session: Session | None = None
        self._keeper: threading.Thread | None = None
        self._failure: HypervisorError | None = None
        self._delay_seconds = 0.0
        self._retry_at = 0.0
        self._announced: EventKind | None = None
        self._closed = False

    def session(self) -> Session:
        """The live session, opened first if need be. Raises at once, without trying, shortly after a failure."""
        with self._opening:
            with self._changed:
                if self._closed:
                    raise Unreachable("This connection was closed.")
                if self._session is not None and self._session.is_alive:
                    return self._session
                self._raise_recent_failure()
            return self._open()

    def keep(self) -> None:
        """Starts reconnecting by itself, and tells the hub how things stand."""
        with self._changed:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._run, name="libvirt reconnect", daemon=True)
                self._keeper.start()
            elif self._announced is not None:
                self._publish(self._announced, str(self._failure or ""))

    def cut(self, reason: str) -> None:
        """Gives the session up because it no longer moves; the next call opens another."""
        with self._changed:
            session = self._session
        if session is not None:
            self.ended(session, reason)
            session.close(reason)

    def ended(self, session: Session, reason: str) -> None:
        """A session ended by itself."""
        with self._changed:
            if self._session is not session:
                return
            self._session = None
            self._announce(EventKind.DISCONNECTED, reason)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            session, self._session = self._session, None
            self._changed.notify_all()
        if session is not None:
            session.close("it was closed")

    def _open(self) -> Session:
        session = self._make_session(self)
        try:
            session.open()
        except HypervisorError as error:
            with self._changed:
                self._failure = error
                self._delay_seconds = min(MAX_DELAY_SECONDS, self._delay_seconds * 2 or FIRST_DELAY_SECONDS)
                self._retry_at = time.monotonic() + self._delay_seconds
                self._announce(EventKind.DISCONNECTED, str(error))
            raise
        with self._changed:
            if self._closed:
                session.close("it was closed")
                raise Unreachable("This connection was closed.")
            self._failure = None
            self._delay_seconds = 0.0
            self._session = session
            self._announce(EventKind.CONNECTED, "")
        return session

    def _raise_recent_failure(self) -> None:
        wait_seconds = self._retry_at - time.monotonic()
        if self._failure is not None and wait_seconds > 0:
            raise type(self._failure)(
                f"{self._failure} Next attempt in {wait_seconds:.1f} s.",
                platform_code=self._failure.platform_code,
                numbers={**self._failure.numbers, "retry_seconds": round(wait_seconds, 1)},
                remedy=self._failure.remedy,
            )

    def _announce(self, kind: EventKind, detail: str) -> None:
        if kind is not self._announced or kind is EventKind.CONNECTED:
            self._publish(kind, detail)
        self._announced = kind

    def _publish(self, kind: EventKind, detail: str) -> None:
        self._hub.publish(HypervisorEvent(kind, at=datetime.now(UTC), detail=detail))

    def _run(self) -> None:
        while True:
            with self._changed:
                # Nothing to do while the session lives or nobody listens; a new subscriber is noticed within a second.
                while not self._closed and (self._alive() or not self._hub.has_subscribers):
                    self._changed.wait(1.0)
                if self._closed:
                    return
                wait_seconds = self._retry_at - time.monotonic()
                if wait_seconds > 0:
                    self._changed.wait(wait_seconds)
                    continue
            try:
                self.session()
            except HypervisorError:
                continue  # announced, and tried again after the delay

    def _alive(self) -> bool:
        return self._session is not None and self._session.is_alive
