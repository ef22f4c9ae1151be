"""The event hub: in order, off the driver's threads, never after cancellation."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from cloudops.hypervisors.hub import EventHub
from cloudops.hypervisors.port import EventKind, HypervisorEvent
from tests.hypervisors.contract import eventually


def _event(number: int) -> HypervisorEvent:
    return HypervisorEvent(EventKind.VM_CHANGED, str(number))


def test_events_arrive_in_order_for_everybody() -> None:
    hub = EventHub("order")
    seen: list[list[str]] = [[], []]
    for sink in seen:
        hub.subscribe(lambda event, sink=sink: sink.append(event.vm_ref))  # type: ignore[misc]
    for number in range(100):
        hub.publish(_event(number))
    eventually(lambda: all(len(sink) == 100 for sink in seen))
    assert seen[0] == seen[1] == [str(number) for number in range(100)]
    hub.close()


def test_nothing_is_delivered_after_cancellation() -> None:
    hub = EventHub("cancel")
    seen: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def slow(event: HypervisorEvent) -> None:
        inside.set()
        leave.wait(5)
        seen.append(event.vm_ref)

    cancel = hub.subscribe(slow)
    hub.publish(_event(1))
    hub.publish(_event(2))
    assert inside.wait(5)
    threading.Timer(0.1, leave.set).start()
    cancel()  # waits for the call under way
    assert seen == ["1"]
    time.sleep(0.1)
    assert seen == ["1"]
    cancel()
    assert not hub.has_subscribers


def test_a_sink_may_cancel_itself() -> None:
    hub = EventHub("self")
    seen: list[str] = []

    def once(event: HypervisorEvent) -> None:
        seen.append(event.vm_ref)
        cancel()

    cancel = hub.subscribe(once)
    hub.publish(_event(1))
    hub.publish(_event(2))
    eventually(lambda: not hub.has_subscribers)
    assert seen == ["1"]


def test_a_failing_sink_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub("fail")
    seen: list[str] = []

    def fail(_event: HypervisorEvent) -> None:
        raise RuntimeError("sink is broken")

    hub.subscribe(fail)
    hub.subscribe(lambda event: seen.append(event.vm_ref))
    with caplog.at_level(logging.ERROR):
        hub.publish(_event(1))
        hub.publish(_event(2))
        eventually(lambda: seen == ["1", "2"])
    assert "sink is broken" in caplog.text
    hub.close()


def test_its_thread_ends_with_the_last_subscriber() -> None:
    hub = EventHub("the thread of this test")
    cancel = hub.subscribe(lambda _event: None)
    assert any(thread.name == "the thread of this test" for thread in threading.enumerate())
    cancel()
    eventually(lambda: all(thread.name != "the thread of this test" for thread in threading.enumerate()))
    hub.publish(_event(1))  # nobody is there: nothing happens
