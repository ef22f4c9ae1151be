"""Tells subscribers what changes in vSphere (``PropertyCollector.WaitForUpdatesEx``), while anybody listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pyVmomi import vim, vmodl

from cloudops.hypervisors.backoff import Backoff
from cloudops.hypervisors.hub import EventHub
from cloudops.hypervisors.port import EventKind, EventSink, HypervisorError, HypervisorEvent, Unreachable
from cloudops.hypervisors.vsphere.changes import WATCHED, Changes
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.properties import create_view, destroy, filter_spec
from cloudops.hypervisors.vsphere.session import Session

CHECK_SECONDS = 1.0
MAX_OBJECTS = 500
"""Objects per answer; more are said to follow (``truncated``)."""

_Collector = vmodl.query.PropertyCollector


class UpdateLoop:
    """One thread with a connection of its own. It tells CONNECTED once it has seen everything there is, then every
    change; DISCONNECTED when vSphere is lost; and after a gap CONNECTED again, upon which one reads everything anew."""

    def __init__(self, hub: EventHub, session: Session) -> None:
        self._hub = hub
        self._session = session
        self._backoff = Backoff()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._last: HypervisorEvent | None = None
        self._closed = False

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        """See the port. Raises Unreachable after :meth:`close`."""
        cancel = self._hub.subscribe(sink)
        with self._changed:
            if not self._closed:
                self._begin()
                return cancel
        cancel()
        raise Unreachable("This connection was closed.")

    def close(self) -> None:
        """Ends it at once, whatever it waits for."""
        with self._changed:
            self._closed = True
            link = self._link
            self._changed.notify_all()
        if link is not None:
            link.cut()

    def _begin(self) -> None:
        """With the lock held: starts the thread, or tells the newcomer how things stand."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vsphere updates", daemon=True)
            self._thread.start()
        elif self._last is not None:
            self._hub.publish(self._last)
        self._changed.notify_all()

    def _run(self) -> None:
        while self._wait_until_needed():
            try:
                self._watch()
            except HypervisorError as error:
                with self._changed:
                    if self._closed:
                        return
                    if not self._session.backoff.wait_seconds:  # else the session knows already
                        self._backoff.failed(error)
                    self._announce(EventKind.DISCONNECTED, str(error))

    def _wait_until_needed(self) -> bool:
        """Waits while nobody listens, or it is too early to try again. False: closed."""
        with self._changed:
            while not self._closed:
                if not self._hub.has_subscribers:
                    self._last = None
                    self._changed.wait(CHECK_SECONDS)
                elif (seconds := max(self._backoff.wait_seconds, self._session.backoff.wait_seconds)) > 0:
                    self._changed.wait(seconds)
                else:
                    return True
            return False

    def _watch(self) -> None:
        """Follows the changes until nobody listens. Raises HypervisorError when vSphere is lost."""
        with self._session.link(self._deadline()) as link:
            with self._changed:
                if self._closed:
                    return
                self._link = link
            try:
                while self._is_wanted():
                    self._follow(link)
            finally:
                self._link = None

    def _follow(self, link: Link) -> None:
        """From everything there is to the next gap: a login or a version that vSphere has forgotten."""
        try:
            watch = _Watch(link)
        except vim.fault.NotAuthenticated:  # since it was used last
            link.relogin()
            watch = _Watch(link)
        try:
            self._take(link, watch.collector)
        except vmodl.query.InvalidCollectorVersion:
            watch.end()  # and anew, with everything there is
        except vmodl.fault.ManagedObjectNotFound:
            return
        except vim.fault.NotAuthenticated:
            link.deadline = self._deadline()
            link.relogin()
        else:
            watch.end()

    def _take(self, link: Link, collector: vmodl.query.PropertyCollector) -> None:
        changes, version = Changes(), ""
        while self._is_wanted():
            link.deadline = self._deadline()
            answer = collector.WaitForUpdatesEx(version, self._options(quick=not changes.is_complete))
            if answer is not None:
                version = answer.version
            self._tell(changes, answer)

    def _tell(self, changes: Changes, answer: vmodl.query.PropertyCollector.UpdateSet | None) -> None:
        was_complete = changes.is_complete
        for event in changes.take(answer):
            self._hub.publish(event)
        if changes.is_complete and not was_complete:
            self._backoff.succeeded()
            with self._changed:
                self._announce(EventKind.CONNECTED, "")

    def _options(self, *, quick: bool) -> vmodl.query.PropertyCollector.WaitOptions:
        """vSphere answers before our own deadline, also when nothing has changed."""
        wait = 0 if quick else max(1, int(self._session.spec.timeout_seconds / 2))
        return _Collector.WaitOptions(maxWaitSeconds=wait, maxObjectUpdates=MAX_OBJECTS)

    def _deadline(self) -> float:
        return time.monotonic() + self._session.spec.timeout_seconds

    def _is_wanted(self) -> bool:
        return not self._closed and self._hub.has_subscribers

    def _announce(self, kind: EventKind, detail: str) -> None:
        repeated = self._last is not None and self._last.kind is kind is EventKind.DISCONNECTED
        self._last = HypervisorEvent(kind, at=datetime.now(UTC), detail=detail)
        if not repeated and not self._closed:
            self._hub.publish(self._last)


class _Watch:
    """A collector of our own, whose filters are nobody else's, and the view of everything that it watches."""

    def __init__(self, link: Link) -> None:
        self.collector = link.content.propertyCollector.CreatePropertyCollector()
        self._view = create_view(link, WATCHED)
        self.collector.CreateFilter(filter_spec(self._view, WATCHED), True)

    def end(self) -> None:
        """vSphere would keep both for as long as the login lives."""
        self.collector.DestroyPropertyCollector()
        destroy(self._view)
