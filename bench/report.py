"""What every benchmark prints: one table of subjects, ratios and goals, and the same as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Goal:
    """What ours must reach. ``against`` is the subject to compare with, or empty for an absolute bound."""

    bound: float
    against: str = ""
    at_least: bool = True

    def met(self, values: Mapping[str, float | None], ours: str) -> bool | None:
        """None when it cannot be told."""
        mine = values.get(ours)
        other = values.get(self.against) if self.against else 1.0
        if mine is None or other is None:
            return None
        return mine >= self.bound * other if self.at_least else mine <= self.bound * other

    def text(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.bound:g}" + (f" × {self.against}" if self.against else "")


@dataclass
class Row:
    """One measurement of every subject; several values per subject become their median."""

    name: str
    unit: str
    goal: Goal | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, subject: str, value: float | None) -> None:
        if value is not None:
            self.samples.setdefault(subject, []).append(value)

    def values(self) -> dict[str, float | None]:
        return {subject: statistics.median(found) for subject, found in self.samples.items() if found}


@dataclass
class Report:
    """``subjects`` are the columns; the first is ours, ratios are ours divided by each of ``peers``."""

    title: str
    subjects: Sequence[str]
    peers: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ours(self) -> str:
        return self.subjects[0]

    def row(self, name: str, unit: str, goal: Goal | None = None) -> Row:
        """The row of that name; made when it is not there yet."""
        for row in self.rows:
            if row.name == name:
                return row
        self.rows.append(Row(name, unit, goal))
        return self.rows[-1]

    def _ratio(self, values: Mapping[str, float | None], peer: str) -> float | None:
        mine, other = values.get(self.ours), values.get(peer)
        return mine / other if mine is not None and other else None

    def table(self) -> str:
        """A Markdown table that is readable as it is."""
        head = ["", "unit", *self.subjects, *(f"ours / {peer}" for peer in self.peers), "goal", "met"]
        lines = [head]
        for row in self.rows:
            values = row.values()
            met = row.goal.met(values, self.ours) if row.goal else None
            lines.append(
                [
                    row.name,
                    row.unit,
                    *(number(values.get(subject)) for subject in self.subjects),
                    *(number(self._ratio(values, peer), ratio=True) for peer in self.peers),
                    row.goal.text() if row.goal else "",
                    {True: "yes", False: "NO", None: "" if row.goal is None else "?"}[met],
                ]
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [_line(line, widths) for line in lines]
        text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([*text, *(f"- {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """The same numbers, with every sample."""
        rows = []
        for row in self.rows:
            values = row.values()
            rows.append(
                {
                    "name": row.name,
                    "unit": row.unit,
                    "values": values,
                    "samples": row.samples,
                    "ratios": {peer: self._ratio(values, peer) for peer in self.peers},
                    "goal": row.goal.text() if row.goal else None,
                    "met": row.goal.met(values, self.ours) if row.goal else None,
                }
            )
        return {"title": self.title, "machine": machine(), "rows": rows, "notes": self.notes}

    def publish(self, json_file: str | None) -> None:
        """Prints the table; writes the JSON where it was asked for."""
        about = machine()
        print(f"\n## {self.title}: {about['at']}, {about['cpus']} × {about['cpu']}, Linux {about['kernel']}\n")
        print(self.table(), flush=True)
        if json_file:
            Path(json_file).write_text(json.dumps(self.as_json(), indent=2) + "\n")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = f" {cells[0]:<{widths[0]}} "
    rest = (f" {cell:>{width}} " for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "|" + "|".join([first, *rest]) + "|"


def number(value: float | None, *, ratio: bool = False) -> str:
    """Three significant digits; a dash where nothing was measured."""
    if value is None:
        return "–"
    if value >= 100 and not ratio:
        return f"{value:,.0f}"
    return f"{value:.2f}" if ratio or abs(value) < 10 else f"{value:.1f}"


def machine() -> dict[str, Any]:
    """Enough to tell why numbers differ between two runs."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


class OtherLoad:
    """How much of the machine others used meanwhile: numbers of a busy machine are not to be compared."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def note(self) -> str:
        """A sentence for the report."""
        elapsed = time.monotonic() - self._since
        others = max(0.0, _busy_seconds() - self._busy - (_own_seconds() - self._own)) / elapsed
        return f"other programs used {others:.2f} of {len(os.sched_getaffinity(0))} CPUs meanwhile"


def _busy_seconds() -> float:
    """Time the CPUs of the machine worked, or were taken by the hypervisor (proc(5), /proc/stat)."""
    fields = [int(field) for field in _lines("/proc/stat")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Time of this process and its descendants, ended ones included."""
    ticks, parents = 0, [os.getpid()]
    for pid in parents:
        fields = " ".join(_lines(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            parents += [int(child) for child in " ".join(_lines(str(task))).split()]
    return ticks / os.sysconf("SC_CLK_TCK")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` and ``--json FILE``, the same for every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="one short round, within a minute")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE too")
    return parser.parse_args()
