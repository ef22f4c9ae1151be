"""Ways the platform fails, set by tests while it runs. All arguments are plain values, so that a process is told alike.

``place`` is "vcenter" or a host's name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

VCENTER = "vcenter"


class Faults:
    """Thread-safe. ``on_change`` wakes whatever waits in the fake."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wake: Callable[[], None] = lambda: None
        self._expire: Callable[[], None] = lambda: None
        self._listen: Callable[[str, bool], None] = lambda place, on: None
        self._swap: Callable[[str], str] = lambda place: ""
        self.latency_seconds = 0.0
        self.latency_by_method: dict[str, float] = {}
        self.frozen: set[str] = set()
        self.denied: set[tuple[str, str]] = set()
        self.held: set[str] = set()
        self.truncate_at = 0
        self.task_faults: dict[str, tuple[str, str]] = {}
        self.call_faults: dict[str, list[tuple[str, str]]] = {}
        self.ticket_host: str | None = "own"
        self.stale_versions = 0
        self.lost_in_update = 0

    def bind(
        self,
        *,
        wake: Callable[[], None],
        expire: Callable[[], None],
        listen: Callable[[str, bool], None],
        swap: Callable[[str], str],
    ) -> None:
        self._wake, self._expire, self._listen, self._swap = wake, expire, listen, swap

    def clear(self) -> None:
        """Everything works again: nothing frozen, denied, held, slow or failing."""
        with self._lock:
            self.latency_seconds = 0.0
            self.latency_by_method.clear()
            self.frozen.clear()
            self.denied.clear()
            self.held.clear()
            self.truncate_at = self.stale_versions = self.lost_in_update = 0
            self.task_faults.clear()
            self.call_faults.clear()
            self.ticket_host = "own"
        self._wake()

    def latency(self, seconds: float, method: str = "") -> None:
        """Each call (or only that WSDL method) takes so much longer."""
        if method:
            self.latency_by_method[method] = seconds
        else:
            self.latency_seconds = seconds

    def expire_sessions(self) -> None:
        """All logins are forgotten, with their views and filters: NotAuthenticated from now on."""
        self._expire()

    def lose_session_in_update(self, times: int = 1) -> None:
        """The next so many WaitForUpdatesEx lose their session while they wait."""
        self.lost_in_update = times
        self._wake()

    def stale_version(self, times: int = 1) -> None:
        """The next so many WaitForUpdatesEx with a version get InvalidCollectorVersion."""
        self.stale_versions = times

    def truncate_updates(self, objects: int) -> None:
        """Updates come at most so many objects at a time, marked truncated (0: as the client asks)."""
        self.truncate_at = objects

    def freeze(self, place: str) -> None:
        """Half-open: connections are accepted and never answered, open ones are neither read nor written."""
        self.frozen.add(place)

    def thaw(self, place: str) -> None:
        self.frozen.discard(place)
        self._wake()

    def down(self, place: str) -> None:
        """Nothing listens there any more and open connections are reset."""
        self._listen(place, False)

    def up(self, place: str) -> None:
        self._listen(place, True)

    def swap_certificate(self, place: str) -> str:
        """New connections are shown another certificate, whose SHA-256 is returned."""
        return self._swap(place)

    def deny(self, privilege: str, entity: str = "") -> None:
        """The user lacks the privilege, on one entity (its name) or everywhere."""
        self.denied.add((privilege, entity))

    def allow(self, privilege: str, entity: str = "") -> None:
        self.denied.discard((privilege, entity))

    def is_denied(self, privilege: str, *entities: str) -> bool:
        return (privilege, "") in self.denied or any((privilege, one) in self.denied for one in entities)

    def hold(self, method: str) -> None:
        """Tasks of that WSDL method ("MigrateVM_Task") stay at 50 % until released or cancelled."""
        self.held.add(method)

    def release(self, method: str) -> None:
        self.held.discard(method)
        self._wake()

    @contextmanager
    def holding(self, method: str) -> Iterator[None]:
        self.hold(method)
        try:
            yield
        finally:
            self.release(method)

    def fail_task(self, method: str, fault: str, message: str = "") -> None:
        """Tasks of that WSDL method fail half way with the fault ("vim.fault.NoCompatibleHost"); "" undoes it."""
        if fault:
            self.task_faults[method] = (fault, message)
        else:
            self.task_faults.pop(method, None)

    def fail_call(self, method: str, fault: str, message: str = "", times: int = 1) -> None:
        """The next so many calls of that WSDL method are answered with the fault."""
        self.call_faults.setdefault(method, []).extend([(fault, message)] * times)

    def next_call_fault(self, method: str) -> tuple[str, str] | None:
        with self._lock:
            waiting = self.call_faults.get(method)
            return waiting.pop(0) if waiting else None

    def ticket_names(self, host: str | None) -> None:
        """What tickets call their host: None (a standalone ESXi), "own" (its address), or any other name."""
        self.ticket_host = host

    def take_lost_update(self) -> bool:
        with self._lock:
            if self.lost_in_update:
                self.lost_in_update -= 1
                return True
            return False

    def take_stale(self) -> bool:
        with self._lock:
            if self.stale_versions:
                self.stale_versions -= 1
                return True
            return False

    def state(self) -> dict[str, Any]:
        """What is set, for a look."""
        return {
            "latency_seconds": self.latency_seconds,
            "frozen": sorted(self.frozen),
            "denied": sorted(self.denied),
            "held": sorted(self.held),
        }
