"""Hands one endpoint's events to its subscribers, in order and off the driver's own threads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudops.hypervisors.port import EventSink, HypervisorEvent

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Subscription:
    sink: EventSink
    active: bool = True
    # Re-entrant: a sink may cancel its own subscription.
    lock: threading.RLock = field(default_factory=threading.RLock)


class EventHub:
    """A queue and one thread, alive while there are subscribers. A slow sink delays only this endpoint's events."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._subscriptions: list[_Subscription] = []
        self._queue: queue.SimpleQueue[tuple[HypervisorEvent, tuple[_Subscription, ...]] | None] | None = None

    @property
    def has_subscribers(self) -> bool:
        with self._lock:
            return bool(self._subscriptions)

    def subscribe(self, sink: EventSink) -> Callable[[], None]:
        """See :meth:`cloudops.hypervisors.port.Hypervisor.subscribe`; the cancellation is idempotent and waits for a
        call of the sink that is under way."""
        subscription = _Subscription(sink)
        with self._lock:
            self._subscriptions.append(subscription)
            if self._queue is None:
                self._queue = queue.SimpleQueue()
                threading.Thread(target=self._deliver, args=(self._queue,), name=self._name, daemon=True).start()

        def cancel() -> None:
            self._end(subscription)

        return cancel

    def publish(self, event: HypervisorEvent) -> None:
        """Queues the event for everybody subscribed now; never blocks."""
        with self._lock:
            if self._queue is not None:
                self._queue.put((event, tuple(self._subscriptions)))

    def close(self) -> None:
        """Ends every subscription."""
        with self._lock:
            subscriptions = tuple(self._subscriptions)
        for subscription in subscriptions:
            self._end(subscription)

    def _end(self, subscription: _Subscription) -> None:
        subscription.active = False  # before the lock: no further event gets ahead of us
        with subscription.lock:
            pass  # a call under way has ended
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
            if not self._subscriptions and self._queue is not None:
                self._queue.put(None)
                self._queue = None

    def _deliver(self, events: queue.SimpleQueue[tuple[HypervisorEvent, tuple[_Subscription, ...]] | None]) -> None:
        while (entry := events.get()) is not None:
            event, subscriptions = entry
            for subscription in subscriptions:
                with subscription.lock:
                    if subscription.active:
                        try:
                            subscription.sink(event)
                        except Exception:
                            logger.exception("An event sink of %s failed on %s", self._name, event.kind)
