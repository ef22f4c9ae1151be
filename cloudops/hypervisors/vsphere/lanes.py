"""Keeps one ESXi host that does not answer from taking all threads of its vCenter, which others need too."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from cloudops.hypervisors.port import Overloaded
from cloudops.hypervisors.vsphere.lookup import Found

MOST_PER_HOST = 4
"""Half of the threads that a vCenter has (``registry``)."""
PATIENCE_SECONDS = 2.0


class HostLanes:
    """vCenter notices only after a minute that a host is gone; until then every call about its VMs waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[str, threading.BoundedSemaphore] = defaultdict(
            lambda: threading.BoundedSemaphore(MOST_PER_HOST)
        )

    @contextmanager
    def enter(self, found: Found) -> Iterator[None]:
        """Around what the VM's host must do. Raises HostNotConnected, and Overloaded when others wait already."""
        found.demand_host()
        with self._lock:
            lane = self._lanes[found.host_ref]
        if not lane.acquire(timeout=PATIENCE_SECONDS):
            raise Overloaded(
                f"{MOST_PER_HOST} calls wait for {found.host_name} already.",
                numbers={"running": MOST_PER_HOST},
                remedy=f"{found.host_name} answers slowly or not at all: look at it in vCenter, then try again.",
            )
        try:
            yield
        finally:
            lane.release()
