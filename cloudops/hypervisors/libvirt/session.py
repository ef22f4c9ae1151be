"""One connection to a libvirt daemon: opened within a deadline, kept alive, and cut when it hangs."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import libvirt

from cloudops.hypervisors.libvirt.dial import Dialer, Stage
from cloudops.hypervisors.libvirt.errors import translate
from cloudops.hypervisors.libvirt.eventloop import ensure_event_loop
from cloudops.hypervisors.libvirt.events import register_events
from cloudops.hypervisors.libvirt.link import Link
from cloudops.hypervisors.libvirt.uri import LibvirtUri
from cloudops.hypervisors.port import (
    AuthenticationFailed,
    EndpointSpec,
    HypervisorError,
    HypervisorEvent,
    TimedOut,
    Unreachable,
)

T = TypeVar("T")

_CREDENTIALS = [
    libvirt.VIR_CRED_USERNAME,
    libvirt.VIR_CRED_AUTHNAME,
    libvirt.VIR_CRED_PASSPHRASE,
    libvirt.VIR_CRED_ECHOPROMPT,
    libvirt.VIR_CRED_NOECHOPROMPT,
]
_NAMES = {libvirt.VIR_CRED_USERNAME, libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_ECHOPROMPT}


class Session:
    """A connection for one thread at a time, usable once :meth:`open` has returned (or every stage was run)."""

    def __init__(
        self,
        spec: EndpointSpec,
        uri: LibvirtUri,
        *,
        on_event: Callable[[HypervisorEvent], None] | None = None,
        on_end: Callable[[Session, str], None] | None = None,
    ) -> None:
        """``on_event`` and ``on_end`` are called from threads that must not be kept waiting; ``on_end`` with the
        reason in words, when an open session ends by itself."""
        self._spec = spec
        self._uri = uri
        self._on_event = on_event
        self._on_end = on_end
        self._dialer = Dialer(uri, certificate_sha256=spec.certificate_sha256)
        self._link: Link | None = None
        self._handle: Any = None
        self._callbacks: list[int] = []
        self._timed_out = False
        self._is_open = False
        self._lock = threading.Lock()

    @property
    def stages(self) -> Sequence[Stage]:
        """What opening consists of, to be run in order and once."""
        return [
            *self._dialer.stages,
            Stage("libvirt answers and lets us in", self._open_libvirt),
            Stage("It manages QEMU", self._check_driver),
            Stage("Keep-alive and events", self._start_keepalive),
        ]

    @property
    def is_alive(self) -> bool:
        return self._is_open and self._link is not None and not self._link.reason

    def open(self, deadline: float) -> None:
        """Runs every stage by ``deadline`` (monotonic clock). Raises a HypervisorError and leaves nothing open then."""
        try:
            for stage in self.stages:
                self.run(stage, deadline)
        except BaseException:
            self.close("it could not be opened")
            raise
        self._is_open = True

    def run(self, stage: Stage, deadline: float) -> str:
        """Runs one stage; the line is cut when the deadline passes meanwhile."""
        self._dialer.deadline = deadline
        with self._bounded(deadline, stage.name):
            try:
                return stage.action()
            except libvirt.libvirtError as error:
                raise self._opening_error(error) from error

    def call(self, function: Callable[[Any], T], deadline: float) -> T:
        """``function`` with libvirt's connection object. Raises :class:`TimedOut` at the deadline, after which the
        session is of no use any more, and libvirt's errors as typed ones."""
        handle = self._handle
        if handle is None:
            raise Unreachable(f"The connection has ended: {self._link.reason if self._link else 'it was closed'}.")
        with self._bounded(deadline, "The call"):
            try:
                return function(handle)
            except libvirt.libvirtError as error:
                typed = translate(error)
                if self._link is not None and self._link.reason and not isinstance(typed, TimedOut):
                    typed = Unreachable(f"{self._link.reason} ({error.get_error_message()}).")
                raise typed from error

    def close(self, reason: str) -> None:
        """Cuts the line and lets go of everything. Idempotent; never waits for the host; safe from any thread."""
        self._is_open = False
        if self._link is not None:
            self._link.cut(reason)
        self._dialer.close()
        self._release()

    @contextmanager
    def _bounded(self, deadline: float, what: str) -> Iterator[None]:
        left = deadline - time.monotonic()
        seconds = self._spec.timeout_seconds
        timed_out = TimedOut(f"{what}: no answer within {seconds:g} s.", numbers={"timeout_seconds": seconds})
        if left <= 0:
            raise timed_out
        timer = threading.Timer(left, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        except HypervisorError as error:
            if self._timed_out:
                raise timed_out from error
            raise
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._timed_out = True
        if self._link is not None:
            self._link.cut("it did not answer in time")

    def _opening_error(self, error: libvirt.libvirtError) -> HypervisorError:
        typed = translate(error)
        if isinstance(typed, AuthenticationFailed) or error.get_error_code() == libvirt.VIR_ERR_NO_CONNECT:
            return typed
        if isinstance(typed, Unreachable):  # the line broke: SSH, if there is one, knows why
            return self._dialer.transport_failure() or typed
        return typed

    def _open_libvirt(self) -> str:
        ensure_event_loop()
        upstream, self._dialer.upstream = self._dialer.upstream, None
        if upstream is None:
            raise Unreachable("There is no connection to the host.")
        self._link = Link(
            upstream,
            passes_descriptors=self._uri.is_local,
            accept_seconds=self._spec.timeout_seconds,
            on_end=self._link_ended,
        )
        local_uri = f"qemu+unix://{self._uri.path}?socket={self._link.path}"
        self._handle = libvirt.openAuth(local_uri, [_CREDENTIALS, self._answer_credentials, None], 0)
        return f"{self._handle.getHostname()}, libvirt {version_text(self._handle.getLibVersion())}"

    def _answer_credentials(self, credentials: list[list[Any]], _context: object) -> int:
        for credential in credentials:
            answer = self._spec.username if credential[0] in _NAMES else self._spec.secret
            if not answer:
                return -1
            credential[4] = answer
        return 0

    def _check_driver(self) -> str:
        return f"QEMU {version_text(self._handle.getVersion())}"

    def _start_keepalive(self) -> str:
        interval = max(1, self._spec.keepalive_seconds)
        # libvirt gives up after interval x (count + 1) seconds: that is to happen before the endpoint's timeout.
        count = max(1, math.ceil(self._spec.timeout_seconds / interval) - 2)
        self._handle.setKeepAlive(interval, count)
        if self._on_event is not None:
            self._callbacks = register_events(self._handle, self._on_event)
        return f"a frozen host is noticed within {interval * (count + 1)} s"

    def _link_ended(self, reason: str) -> None:
        was_open, self._is_open = self._is_open, False
        if was_open:
            self._dialer.close()
            self._release()
            if self._on_end is not None:
                self._on_end(self, reason)

    def _release(self) -> None:
        """Lets libvirt free the connection, whose line is down, once no call uses it any more. Registered callbacks
        would keep it for ever; closing it outright would pull it from under a call that is about to fail."""
        with self._lock:
            handle, self._handle = self._handle, None
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            with contextlib.suppress(libvirt.libvirtError):  # forgotten on our side; the host cannot be told
                handle.domainEventDeregisterAny(callback)


def version_text(number: int) -> str:
    """libvirt's way to number versions: 7002022 is 7.2.22."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
