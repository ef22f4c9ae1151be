"""Not to try a host that just failed again and again: whoever comes meanwhile is told at once."""

from __future__ import annotations

import threading
import time

from cloudops.hypervisors.port import HypervisorError

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 15.0


class Backoff:
    """Remembers the last failure to connect; the pause doubles with each, and ends with the first success."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: HypervisorError | None = None
        self._delay_seconds = 0.0
        self._retry_at = 0.0

    @property
    def wait_seconds(self) -> float:
        """How long until it makes sense to try; 0 for now."""
        with self._lock:
            return max(0.0, self._retry_at - time.monotonic())

    def check(self) -> None:
        """Raises the last failure again, saying when the next attempt is, unless it is time for one."""
        wait_seconds = self.wait_seconds
        with self._lock:
            failure = self._failure
        if failure is not None and wait_seconds > 0:
            raise type(failure)(
                f"{failure} Next attempt in {wait_seconds:.1f} s.",
                platform_code=failure.platform_code,
                numbers={**failure.numbers, "retry_seconds": round(wait_seconds, 1)},
                remedy=failure.remedy,
            )

    def failed(self, failure: HypervisorError) -> None:
        with self._lock:
            self._failure = failure
            if self._retry_at <= time.monotonic():  # of several attempts at once, one counts
                self._delay_seconds = min(MAX_DELAY_SECONDS, self._delay_seconds * 2 or FIRST_DELAY_SECONDS)
                self._retry_at = time.monotonic() + self._delay_seconds

    def succeeded(self) -> None:
        with self._lock:
            self._failure = None
            self._delay_seconds = self._retry_at = 0.0
