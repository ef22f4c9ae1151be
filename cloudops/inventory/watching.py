"""One endpoint under watch: its events, debounced, become fresh readings and these become rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog

from cloudops.core.errors import NotFound, Unavailable
from cloudops.core.metrics import WATCH_EVENTS
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import EventKind, HypervisorError, HypervisorEvent, VmFacts
from cloudops.inventory import endpoints, signals, sync
from cloudops.inventory.models import Endpoint, Vm
from cloudops.inventory.notices import after_commit

log = structlog.get_logger(__name__)
DEBOUNCE_SECONDS = 0.1
CONFIRM_SECONDS = 2.0
"""A management service that restarts within this time was not lost."""
HOSTS_SECONDS = 0.5
"""A host that joins, leaves or changes its cluster is told of in several events."""
RETRY_SECONDS = 3.0
MOST_RETRY_SECONDS = 30.0
"""A host that could not be read is read again, ever more rarely: one that was frozen for a moment only loses no
subscription, so that no event would tell of its return."""
MOST_SINGLE_VMS = 20
"""More VMs than this are read quicker all at once."""

Write = Callable[[Callable[[], Any]], Any]


class EndpointWatch:
    """Subscribes to one endpoint. A thread of its own reads, so that a hung endpoint delays no other; ``write`` runs
    a function that uses the database, in a pool that all endpoints share, and returns when it is done."""

    def __init__(self, endpoint: Endpoint, *, write: Write, clock: Callable[[], datetime]) -> None:
        self.endpoint = endpoint
        self._write = write
        self._clock = clock
        self._wake = threading.Condition()
        self._sync_at: float | None = None
        self._vms_at: float | None = None
        self._vm_refs: set[str] = set()
        self._console_refs: set[str] = set()
        self._failures = 0
        self._stopped = False
        self._cancel: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name=f"watch {endpoint.uri}", daemon=True)

    @property
    def identity(self) -> tuple[object, ...]:
        """What a subscription depends on; when it differs, the endpoint is to be watched anew."""
        return identity_of(self.endpoint)

    def start(self) -> None:
        """Subscribes; returns at once, whatever state the endpoint is in."""
        try:
            self._cancel = registry.open_hypervisor(endpoints.spec_of(self.endpoint)).subscribe(self.notice)
        except (HypervisorError, Unavailable) as error:
            log.warning("watch_failed", endpoint=str(self.endpoint.pk), error=str(error))
            self._sync_in(0.0)  # which fails likewise, and tells the people why
        self._thread.start()

    def stop(self) -> None:
        """Ends the subscription; a reading that is under way is left to end by itself."""
        self._cancel()
        registry.forget(str(self.endpoint.pk))
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def notice(self, event: HypervisorEvent) -> None:
        """The sink of the endpoint's events; quick, and safe from any thread."""
        WATCH_EVENTS.labels(str(event.kind)).inc()
        if event.kind is EventKind.CONNECTED:
            self._sync_in(0.0)
        elif event.kind is EventKind.DISCONNECTED:
            self._sync_in(CONFIRM_SECONDS)
        elif event.kind is EventKind.HOSTS_CHANGED:
            self._sync_in(HOSTS_SECONDS)
        else:
            with self._wake:
                refs = self._console_refs if event.kind is EventKind.CONSOLE_CHANGED else self._vm_refs
                refs.add(event.vm_ref)
                if self._vms_at is None:
                    self._vms_at = time.monotonic() + DEBOUNCE_SECONDS
                self._wake.notify()

    def _sync_in(self, seconds: float) -> None:
        with self._wake:
            at = time.monotonic() + seconds
            self._sync_at = at if self._sync_at is None else min(at, self._sync_at)
            self._wake.notify()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            wants_sync, vm_refs, console_refs = job
            try:
                if wants_sync or len(vm_refs) > MOST_SINGLE_VMS:
                    self._sync()
                elif vm_refs:
                    self._refresh(vm_refs)
                if console_refs:
                    self._tell_consoles(console_refs)
            except NotFound:
                log.info("endpoint_removed_meanwhile", endpoint=str(self.endpoint.pk))
            except HypervisorError as error:
                log.warning("watch_reading_failed", endpoint=str(self.endpoint.pk), code=error.code, error=str(error))
                self._sync_in(0.0)
            except Exception:
                log.exception("watch_failed", endpoint=str(self.endpoint.pk))
                self._sync_in(RETRY_SECONDS)

    def _next(self) -> tuple[bool, set[str], set[str]] | None:
        """Waits for work that is due; None when the watch has stopped."""
        with self._wake:
            while True:
                if self._stopped:
                    return None
                due = min((at for at in (self._sync_at, self._vms_at) if at is not None), default=None)
                left = None if due is None else due - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._wake.wait(left)
            wants_sync = self._sync_at is not None and self._sync_at <= time.monotonic()
            if wants_sync:
                self._sync_at = None
            vm_refs, console_refs = self._vm_refs, self._console_refs
            self._vm_refs, self._console_refs, self._vms_at = set(), set(), None
            return wants_sync, vm_refs, console_refs

    def _sync(self) -> None:
        now = self._clock()
        reading = sync.read(self.endpoint)
        self._failures = self._failures + 1 if reading.error is not None else 0
        if self._failures:
            self._sync_in(min(MOST_RETRY_SECONDS, RETRY_SECONDS * 2 ** min(self._failures - 1, 10)))
        self._write(lambda: sync.apply(self.endpoint, reading, now=now))

    def _refresh(self, refs: set[str]) -> None:
        now = self._clock()
        facts: dict[str, VmFacts | None] = {ref: sync.read_vm(self.endpoint, ref) for ref in refs}
        self._write(lambda: sync.apply_vms(self.endpoint, facts, now=now))

    def _tell_consoles(self, refs: set[str]) -> None:
        def tell() -> None:
            rows = Vm.objects.filter(host__endpoint=self.endpoint, ref__in=refs)
            if ids := list(rows.values_list("pk", flat=True)):
                after_commit(signals.vm_console_changed, vm_ids=ids, now=self._clock())

        self._write(tell)


def identity_of(endpoint: Endpoint) -> tuple[object, ...]:
    """See :attr:`EndpointWatch.identity`."""
    return (
        endpoint.kind,
        endpoint.uri,
        endpoint.username,
        endpoint.secret_encrypted,
        endpoint.certificate_sha256,
        endpoint.timeout_seconds,
    )
