"""The bulkhead: bounded threads, bounded queue, bounded waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from cloudops.hypervisors.bulkhead import Bulkhead
from cloudops.hypervisors.port import Overloaded, TimedOut, Unreachable


@pytest.fixture
def bulkhead() -> Iterator[Bulkhead]:
    bulkhead = Bulkhead("testhost", workers=2, waiting=2)
    yield bulkhead
    bulkhead.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opens by itself at the end, so that no thread stays behind."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_results_and_errors_pass_through(bulkhead: Bulkhead) -> None:
    assert bulkhead.run(lambda: 42, timeout_seconds=5) == 42
    with pytest.raises(ZeroDivisionError):
        bulkhead.run(lambda: 1 // 0, timeout_seconds=5)

    def times_out() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        bulkhead.run(times_out, timeout_seconds=5)


def test_nobody_waits_longer_than_the_deadline(bulkhead: Bulkhead, gate: threading.Event) -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"testhost did not answer within 0\.2 s"):
        bulkhead.run(gate.wait, timeout_seconds=0.2)
    assert 0.19 < time.monotonic() - began < 1


def test_too_many_calls_are_refused_with_numbers(bulkhead: Bulkhead, gate: threading.Event) -> None:
    callers = [threading.Thread(target=_swallow, args=(bulkhead, gate)) for _ in range(4)]
    for caller in callers:
        caller.start()
    deadline = time.monotonic() + 5
    refusal: Overloaded | None = None
    while refusal is None:
        assert time.monotonic() < deadline
        try:
            bulkhead.run(lambda: None, timeout_seconds=0.01)
        except Overloaded as error:
            refusal = error
        except TimedOut:
            continue  # the callers are still coming in
    assert refusal.numbers == {"running": 2, "waiting": 2}
    gate.set()
    for caller in callers:
        caller.join(5)
    assert bulkhead.run(lambda: "free again", timeout_seconds=5) == "free again"


def _swallow(bulkhead: Bulkhead, gate: threading.Event) -> None:
    bulkhead.run(lambda: gate.wait(10), timeout_seconds=10)


def test_a_late_result_is_discarded(bulkhead: Bulkhead, gate: threading.Event) -> None:
    discarded: list[str] = []
    done = threading.Event()

    def late() -> str:
        gate.wait(5)
        return "late"

    def discard(result: str) -> None:
        discarded.append(result)
        done.set()

    with pytest.raises(TimedOut):
        bulkhead.run(late, timeout_seconds=0.05, discard=discard)
    gate.set()
    assert done.wait(5)
    assert discarded == ["late"]


def test_a_call_that_never_began_does_not_begin_after_its_deadline(bulkhead: Bulkhead, gate: threading.Event) -> None:
    began: list[int] = []
    blockers = [threading.Thread(target=_swallow, args=(bulkhead, gate)) for _ in range(2)]
    for blocker in blockers:
        blocker.start()
    time.sleep(0.1)
    with pytest.raises(TimedOut):
        bulkhead.run(lambda: began.append(1), timeout_seconds=0.05)
    gate.set()
    for blocker in blockers:
        blocker.join(5)
    bulkhead.run(lambda: None, timeout_seconds=5)
    assert began == []


def test_closing_fails_the_waiting(gate: threading.Event) -> None:
    bulkhead = Bulkhead("closing", workers=1, waiting=5)
    errors: list[BaseException] = []

    def wait_in_queue() -> None:
        try:
            bulkhead.run(lambda: None, timeout_seconds=5)
        except Unreachable as error:
            errors.append(error)

    running = threading.Thread(target=_swallow, args=(bulkhead, gate))
    running.start()
    time.sleep(0.1)
    queued = threading.Thread(target=wait_in_queue)
    queued.start()
    time.sleep(0.1)
    bulkhead.close()
    queued.join(5)
    assert len(errors) == 1
    gate.set()
    running.join(5)
    with pytest.raises(Unreachable):
        bulkhead.run(lambda: None, timeout_seconds=1)


async def test_the_event_loop_goes_on(bulkhead: Bulkhead, gate: threading.Event) -> None:
    waiting = asyncio.create_task(bulkhead.arun(lambda: gate.wait(5), timeout_seconds=5))
    ticks = 0
    while ticks < 20:
        await asyncio.sleep(0.005)
        ticks += 1
    gate.set()
    assert await waiting


async def test_async_deadline_and_cancellation(bulkhead: Bulkhead, gate: threading.Event) -> None:
    discarded = asyncio.Event()
    loop = asyncio.get_running_loop()

    def discard(_result: bool) -> None:
        loop.call_soon_threadsafe(discarded.set)

    with pytest.raises(TimedOut):
        await bulkhead.arun(lambda: gate.wait(5), timeout_seconds=0.05, discard=discard)
    cancelled = asyncio.create_task(bulkhead.arun(lambda: gate.wait(5), timeout_seconds=5))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    gate.set()
    await asyncio.wait_for(discarded.wait(), 5)


async def test_async_errors_pass_through(bulkhead: Bulkhead) -> None:
    assert await bulkhead.arun(lambda: "yes", timeout_seconds=5) == "yes"
    with pytest.raises(ZeroDivisionError):
        await bulkhead.arun(lambda: 1 // 0, timeout_seconds=5)
