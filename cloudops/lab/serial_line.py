"""Asks a guest's own shell something, over its serial line."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from cloudops.lab.process import ServiceError

ANSWER_SECONDS = 30.0
PATIENCE_SECONDS = 3.0
"""Then it is asked again, and then twice as patiently each time: a busy machine's guest may be slow."""
NEW_SHELL_SECONDS = 1.5
CTRL_C = b"\x03"
_questions = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a guest's kernel. The same ``boot_id`` with more ``uptime_seconds``: it was not rebooted."""

    boot_id: str
    uptime_seconds: float


def ask(terminal: Path, log: Path, command: str, *, timeout_seconds: float = ANSWER_SECONDS) -> str:
    """What a shell command prints in the guest; one line. ``terminal``: the serial port's pseudo-terminal as libvirt
    names it now; ``log``: where the guest's output is kept. Raises ServiceError when no answer comes.

    The question is typed again when no answer comes: a byte typed into the line while the guest moves may be lost. Only
    part of an earlier one may have come, too, when the guest moved meanwhile or its answer made us hang up. A shell
    that then waits for a quote to be closed would be deaf for good, as every whole question closes one and opens
    another: so before it is asked again it gets a Ctrl-C. That ends the shell, and the guest starts a new one.
    """
    mark = f"answer-{os.getpid()}-{next(_questions)}-"
    # The shell echoes the question: only in its answer is the sum a number.
    typed = f'\recho "{mark}$((40+2)) $({command})"\r'.encode()
    answer = re.compile(rf"{mark}42 (.*?)\r?\n")
    start = log.stat().st_size
    line = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        deadline = time.monotonic() + timeout_seconds
        os.write(line, typed)
        patience = PATIENCE_SECONDS
        again = time.monotonic() + patience
        while time.monotonic() < deadline:
            if time.monotonic() >= again:
                os.write(line, CTRL_C)
                time.sleep(NEW_SHELL_SECONDS)
                os.write(line, typed)
                patience *= 2
                again = time.monotonic() + patience
            with contextlib.suppress(BlockingIOError):
                os.read(line, 65536)  # nobody else does, and a full line would hold the guest up
            with log.open("rb") as written:
                written.seek(start)
                if found := answer.search(written.read().decode(errors="replace")):
                    return found[1]
            time.sleep(0.05)
    finally:
        os.close(line)
    raise ServiceError(f"the guest on {terminal} did not answer {command!r} within {timeout_seconds:.0f} s")


def life(terminal: Path, log: Path, *, timeout_seconds: float = ANSWER_SECONDS) -> Life:
    """Asks the guest's kernel since when it lives."""
    command = "cat /proc/sys/kernel/random/boot_id /proc/uptime | tr '\\n' ' '"
    boot_id, uptime, _ = ask(terminal, log, command, timeout_seconds=timeout_seconds).split(maxsplit=2)
    return Life(boot_id, float(uptime))
