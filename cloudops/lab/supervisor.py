"""Runs a set of programs as one group: their lines on one screen, their readiness awaited, all stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TextIO

from cloudops.lab.process import ServiceError, log_tail, tied_command

COLOURS = (36, 32, 33, 35, 34)
POLL_SECONDS = 0.2
FIRST_RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
STEADY_SECONDS = 60.0
LOG_LIMIT_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `ready` is asked until it is true; without it the program must live for `settle_seconds`."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    ready: Callable[[], bool] | None = None
    ready_seconds: float = 60.0
    settle_seconds: float = 0.5
    stop_seconds: float = 10.0
    restart: bool = False


@dataclass(slots=True)
class _Running:
    program: Program
    process: subprocess.Popen[bytes]
    reader: threading.Thread
    started_at: float
    restarts: int = 0
    next_restart_at: float = field(default=0.0)


class Supervisor:
    """Starts programs in the order given and stops them together. Use it from the main thread (see `tied_command`)."""

    def __init__(self, log_dir: Path, *, screen: TextIO | None = None) -> None:
        """Each program's output goes to `log_dir`/NAME.log and, with the name before each line, to `screen`."""
        self.log_dir = log_dir
        self._screen = screen if screen is not None else sys.stdout
        self._colour = self._screen.isatty()
        self._running: list[_Running] = []
        self._lock = threading.Lock()
        log_dir.mkdir(parents=True, exist_ok=True)

    def log_of(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def start(self, *programs: Program) -> None:
        """Starts all and returns when all are ready. Raises ServiceError, naming the log, when one ends or is late."""
        already = len(self._running)
        for program in programs:
            self._running.append(self._launch(program))
        for running in self._running[already:]:
            self._await(running)

    def _await(self, running: _Running) -> None:
        deadline = running.started_at + running.program.ready_seconds
        while not self._is_ready(running):
            code = running.process.poll()
            if code is not None:
                raise ServiceError(self._failure(running, f"ended at once ({_how(code)})"))
            if time.monotonic() > deadline:
                late = f"was not ready after {running.program.ready_seconds:.0f} s"
                raise ServiceError(self._failure(running, late))
            time.sleep(POLL_SECONDS)

    def demand_alive(self) -> None:
        """Raises ServiceError when a program has ended, whether or not it may be started again."""
        for running in self._running:
            code = running.process.poll()
            if code is not None or running.restarts:
                how = f"ended ({_how(code)})" if code is not None else f"ended {running.restarts} times"
                raise ServiceError(self._failure(running, how))

    def check(self) -> None:
        """One look at all programs: starts the ended ones again where that is allowed, or raises ServiceError."""
        now = time.monotonic()
        for index, running in enumerate(self._running):
            code = running.process.poll()
            if code is None:
                if now - running.started_at > STEADY_SECONDS:
                    running.restarts = 0
                continue
            if not running.program.restart:
                raise ServiceError(self._failure(running, f"ended ({_how(code)})"))
            if running.next_restart_at == 0.0:
                wait = min(LONGEST_RESTART_SECONDS, FIRST_RESTART_SECONDS * 2**running.restarts)
                running.next_restart_at = now + wait
                self._print(running.program.name, f"ended ({_how(code)}); starting it again in {wait:.0f} s")
            elif now >= running.next_restart_at:
                again = self._launch(running.program)
                again.restarts = running.restarts + 1
                self._running[index] = again

    def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Watches the programs until `until()` is true or a signal handler raises; see `check`."""
        while not until():
            self.check()
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """SIGTERM to all, last started first, then SIGKILL to each whose time is up. Always returns."""
        asked_at = time.monotonic()
        for running in reversed(self._running):
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGTERM)
        for running in reversed(self._running):
            left = asked_at + running.program.stop_seconds - time.monotonic()
            try:
                running.process.wait(max(0.0, left))
            except subprocess.TimeoutExpired:
                self._print(running.program.name, f"did not stop within {running.program.stop_seconds:.0f} s; killed")
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
            running.reader.join(2)
        self._running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, program: Program) -> _Running:
        log = self.log_of(program.name)
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        process = subprocess.Popen(
            tied_command(program.argv, parent_death=signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(program.env) if program.env is not None else None,
            cwd=program.cwd,
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        reader = threading.Thread(target=self._copy, args=(program.name, process.stdout, log), daemon=True)
        reader.start()
        return _Running(program, process, reader, time.monotonic())

    def _copy(self, name: str, lines: BinaryIO, log: Path) -> None:
        with lines, log.open("ab", buffering=0) as file:
            for line in lines:
                file.write(line)
                self._print(name, line.decode(errors="replace").rstrip())

    def _print(self, name: str, text: str) -> None:
        prefix = f"{name:<8} │ "
        if self._colour:
            prefix = f"\033[{COLOURS[sum(name.encode()) % len(COLOURS)]}m{prefix}\033[0m"
        with self._lock, suppress(OSError, ValueError):  # a closed terminal must not end the programs
            self._screen.write(f"{prefix}{text}\n")
            self._screen.flush()

    def _is_ready(self, running: _Running) -> bool:
        if running.process.poll() is not None:
            return False
        if running.program.ready is not None:
            return running.program.ready()
        return time.monotonic() - running.started_at >= running.program.settle_seconds

    def _failure(self, running: _Running, what: str) -> str:
        if running.process.poll() is not None:
            running.reader.join(1)  # its last words may still be on their way to the log
        log = self.log_of(running.program.name)
        return f"{running.program.name} {what}. Its log is {log} and ends:\n{log_tail(log)}"


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
