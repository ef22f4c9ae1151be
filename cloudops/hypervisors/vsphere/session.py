"""One login at vCenter or ESXi, shared by a few connections: one per call that is under way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pyVmomi import vim, vmodl

from cloudops.hypervisors.backoff import Backoff
from cloudops.hypervisors.port import EndpointSpec, HypervisorError, TimedOut, Unreachable
from cloudops.hypervisors.vsphere.address import parse
from cloudops.hypervisors.vsphere.certificates import Trust
from cloudops.hypervisors.vsphere.errors import typed
from cloudops.hypervisors.vsphere.link import Link

T = TypeVar("T")

MAX_IDLE_LINKS = 8
MAX_IDLE_SECONDS = 60.0
"""A connection that was idle for longer is not trusted: something between may have forgotten it."""
LOGOUT_SECONDS = 1.0


class Session:
    """Safe to use from several threads. A login that vSphere has forgotten is renewed once for all of them."""

    def __init__(self, spec: EndpointSpec) -> None:
        """Raises :class:`~cloudops.hypervisors.vsphere.address.InvalidAddress`; does not connect."""
        self.spec = spec
        self.address = parse(spec.uri)
        self.trust = Trust(self.address.host, spec.certificate_sha256)
        self.backoff = Backoff()
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._used: set[Link] = set()
        self._closed = False
        self._login_lock = threading.Lock()
        self._cookie = ""
        self._generation = 0
        self._version = ""

    def call(self, function: Callable[[Link], T], *, seconds: float | None = None) -> T:
        """``function(link)``, ended after ``seconds`` (default: the endpoint's timeout). Raises HypervisorErrors only.

        When vSphere has forgotten the login, ``function`` is called once more from its start. Whatever must not be
        begun twice is therefore its last request, or is followed by ``tasks.wait`` only.
        """
        limit = self.spec.timeout_seconds if seconds is None else seconds
        with self.link(time.monotonic() + limit) as link:
            try:
                return function(link)
            except vim.fault.NotAuthenticated:
                self._renew(link)
                return function(link)

    @contextmanager
    def link(self, deadline: float) -> Iterator[Link]:
        """A logged-in connection of one's own. What is raised inside comes out typed. Raises HypervisorErrors only."""
        link = self._open(deadline)
        try:
            yield link
        except BaseException as error:
            if not isinstance(error, (HypervisorError, vmodl.MethodFault)):
                link.is_broken = True
            self.release(link)
            failure = self._typed(error)
            if failure is error:
                raise
            raise failure from error
        else:
            self.release(link)

    def fresh(self, deadline: float) -> Link:
        """A connection that is neither connected nor logged in yet, for a test of the way step by step. The caller
        gives it back with :meth:`release`, or with :meth:`discard` if it is of no use."""
        link = Link(self.address, self.trust, self._renew)
        link.deadline = deadline
        with self._lock:
            if self._closed:
                raise _closed()
            self._used.add(link)
        return link

    def log_in(self, link: Link) -> None:
        """Logs in and remembers the login for all connections. Raises AuthenticationFailed among others."""
        link.stub.SetSessionId(None)
        try:
            manager = link.content.sessionManager
            if manager is None:
                raise Unreachable("vSphere offers no session manager.")
            manager.Login(self.spec.username, self.spec.secret, None)
        except vmodl.MethodFault as error:
            raise typed(error) from error
        self._generation += 1
        self._cookie, self._version = link.stub.cookie, link.version
        link.generation = self._generation

    def discard(self, link: Link) -> None:
        """Closes a connection."""
        link.close()
        with self._lock:
            self._used.discard(link)

    def close(self) -> None:
        """Ends every call under way and logs out, as far as vSphere answers within a second. Idempotent."""
        with self._lock:
            first, self._closed = not self._closed, True
            idle, self._idle = self._idle, []
            used = list(self._used)
        for link in used:
            link.cut()
        if first and self._cookie:
            _log_out(idle)
        for link in idle:
            link.close()

    def _typed(self, error: BaseException) -> HypervisorError:
        if self._closed and not isinstance(error, HypervisorError):
            return _closed()
        failure = typed(error, str(self.address))
        if isinstance(failure, TimedOut):
            failure.numbers.setdefault("timeout_seconds", self.spec.timeout_seconds)
        return failure

    def _open(self, deadline: float) -> Link:
        link = self._reuse(deadline)
        if link is not None:
            return link
        with self._counted():
            link = self.fresh(deadline)
            try:
                self._prepare(link)
            except BaseException:
                self.discard(link)
                raise
        return link

    def _reuse(self, deadline: float) -> Link | None:
        stale: list[Link] = []
        found = None
        with self._lock:
            if self._closed:
                raise _closed()
            while self._idle and found is None:
                link = self._idle.pop()
                fit = link.is_usable and time.monotonic() - link.used_at < MAX_IDLE_SECONDS
                if not fit or link.version != self._version:
                    stale.append(link)
                else:
                    found = link
                    self._used.add(link)
        for link in stale:
            link.close()
        if found is not None:
            found.deadline = deadline
            if found.generation != self._generation:
                self._lend(found)
        return found

    def _prepare(self, link: Link) -> None:
        """Connects, and logs in unless somebody has already."""
        with self._logging_in(link):
            if not self._cookie:
                with self._counted():
                    link.use(link.negotiate())
                    self.log_in(link)
                return
            version = self._version
        self._lend(link)
        link.use(version)

    def _lend(self, link: Link) -> None:
        link.stub.cookie = self._cookie
        link.generation = self._generation

    def _renew(self, link: Link) -> None:
        """Logs in again, or takes the login that another thread has made meanwhile."""
        with self._logging_in(link):
            if link.generation == self._generation:
                self._cookie = ""
                with self._counted():
                    self.log_in(link)
            else:
                self._lend(link)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Around a connection or a login: whoever waited for one that failed does not try at once again, as some wrong
        passwords lock the account. What is raised inside comes out typed."""
        self.backoff.check()
        try:
            yield
        except BaseException as error:
            failure = self._typed(error)
            if not self._closed:
                self.backoff.failed(failure)
            if failure is error:
                raise
            raise failure from error
        self.backoff.succeeded()

    @contextmanager
    def _logging_in(self, link: Link) -> Iterator[None]:
        if not self._login_lock.acquire(timeout=max(0.0, link.deadline - time.monotonic())):
            raise TimedOut(f"{self.address}: logging in took too long.")
        try:
            yield
        finally:
            self._login_lock.release()

    def release(self, link: Link) -> None:
        """Keeps a connection for the next call, or closes it."""
        link.used_at = time.monotonic()
        with self._lock:
            self._used.discard(link)
            if not self._closed and link.is_usable and len(self._idle) < MAX_IDLE_LINKS:
                self._idle.append(link)
                return
        link.close()


def _log_out(idle: list[Link]) -> None:
    link = next((one for one in reversed(idle) if one.is_usable), None)
    if link is None or link.content.sessionManager is None:
        return
    link.deadline = time.monotonic() + LOGOUT_SECONDS
    with contextlib.suppress(Exception):  # it would lapse by itself
        link.content.sessionManager.Logout()


def _closed() -> Unreachable:
    return Unreachable("This connection was closed.")
