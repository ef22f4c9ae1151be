"""What a long command shows while it works: steps with their times, details below them, and a box at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO


class Screen:
    """Writes to a terminal, or plainly to a file or pipe."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._fancy = out.isatty()

    def say(self, text: str) -> None:
        self._write(text)

    def detail(self, text: str) -> None:
        """A line that belongs to the step at work."""
        self._write(f"    {text}")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Names a step while it is at work, and its time when it is done."""
        started = time.monotonic()
        self._write(f"  … {name}")
        yield
        mark = "\033[32m✓\033[0m" if self._fancy else "✓"
        self._write(f"  {mark} {name}  {time.monotonic() - started:.1f} s")

    def box(self, lines: Sequence[str]) -> None:
        width = max(len(line) for line in lines)
        self._write("╭─" + "─" * width + "─╮")
        for line in lines:
            self._write(f"│ {line:<{width}} │")
        self._write("╰─" + "─" * width + "─╯")

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()
