"""Real processes that race each other, forked from one that has loaded the product, which takes two seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

READY_SECONDS = 120.0
ENDS_SECONDS = 240.0
Wait = Callable[[], None]


def race(processes: int, work: Callable[[int, Wait], Any], *, prepare: Callable[[], Any]) -> list[Any]:
    """What ``work(number, wait)`` returned in each process; ``wait()`` returns in all of them at once. They are forked
    first, from a process without connections and threads, and begin when ``prepare()`` has been carried out here."""
    context = multiprocessing.get_context("fork")
    prepared, start = (
        context.Barrier(processes + 1, timeout=READY_SECONDS),
        context.Barrier(processes, timeout=READY_SECONDS),
    )
    lines, running = [], []
    for number in range(processes):
        here, there = context.Pipe(duplex=False)
        running.append(context.Process(target=_run, args=(work, number, prepared, start, there), daemon=True))
        running[-1].start()
        there.close()
        lines.append(here)
    prepare()
    prepared.wait()
    answers = [_answer(line) for line in lines]
    for process in running:
        process.join(ENDS_SECONDS)
        assert process.exitcode == 0
    return answers


def _run(work: Callable[[int, Wait], Any], number: int, prepared: Barrier, start: Barrier, answer: Connection) -> None:
    def wait() -> None:
        start.wait()

    prepared.wait()
    answer.send(work(number, wait))


def _answer(line: Connection) -> Any:
    assert line.poll(ENDS_SECONDS), "a process does not end"
    return line.recv()
