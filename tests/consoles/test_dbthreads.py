"""Database work in threads: bounded in number and in time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from consoles.dbthreads import DbThreads


async def test_returns_and_raises_what_the_function_does() -> None:
    threads = DbThreads("t", size=1)
    assert await threads.run(lambda: 7, timeout_seconds=5) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0, timeout_seconds=5)
    assert await threads.run(threading.get_ident, timeout_seconds=5) != threading.get_ident()


async def test_uses_at_most_so_many_threads() -> None:
    threads = DbThreads("t", size=3)
    at_work, most = [], [0]

    def work() -> None:
        at_work.append(1)
        most[0] = max(most[0], len(at_work))
        time.sleep(0.02)
        at_work.pop()

    await asyncio.gather(*(threads.run(work, timeout_seconds=10) for _ in range(20)))
    assert most[0] <= 3


async def test_a_thread_that_hangs_is_replaced() -> None:
    threads = DbThreads("t", size=1)
    release = threading.Event()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await threads.run(lambda: release.wait(20), timeout_seconds=0.05)
    assert await threads.run(lambda: 7, timeout_seconds=5) == 7
    release.set()
    assert await threads.run(lambda: 8, timeout_seconds=5) == 8


async def test_what_was_given_up_while_it_waited_never_runs() -> None:
    threads = DbThreads("t", size=1)
    release, ran = threading.Event(), []
    first = asyncio.create_task(threads.run(lambda: release.wait(20), timeout_seconds=20))
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(threads.run(lambda: ran.append(1), timeout_seconds=20))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.sleep(0.05)
    release.set()
    await first
    assert await threads.run(lambda: 9, timeout_seconds=5) == 9
    assert ran == []
