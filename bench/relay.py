"""This relay against websockify and nova-novncproxy, over the same VNC-like source. See ``script/bench relay``.

Rounds are interleaved over the subjects and medians are reported. Everything is on loopback, bounded in time, and ends
by itself. The "direct" column is the load straight on the source: what the generator itself can do. A full run installs
nova into a throw-away virtual environment; BENCH_NOVA_PYTHON names the Python of one that is there already.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import relay_peers as peers
from bench.relay_peers import Subject
from bench.report import Goal, OtherLoad, Report, arguments

BULK_COUNTS = (1, 8, 40)


@dataclass(frozen=True)
class Plan:
    """How long and how much; seconds are per measurement."""

    rounds: int
    seconds: float
    warm_seconds: float
    idle: int
    idle_per_process: int
    stall_seconds: float


FULL = Plan(rounds=3, seconds=2.0, warm_seconds=0.5, idle=1000, idle_per_process=100, stall_seconds=8.0)
QUICK = Plan(rounds=1, seconds=0.8, warm_seconds=0.3, idle=1000, idle_per_process=40, stall_seconds=3.0)


class Load:
    """One run of the load generator; ``with`` ends it."""

    def __init__(self, program: Path, subject: Subject, kind: str, mode: str, count: int, seconds: float, warm: float):
        command = [str(program), *subject.load_arguments(kind), "-m", mode, "-c", str(count), "-d", f"{seconds}"]
        command += ["-w", f"{warm}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for(self, mark: str) -> None:
        """Reads up to a mark the generator prints."""
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()) and line.strip() != mark:
            pass

    def result(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        lines = self.process.stdout.read().strip().splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        return found


class Bench:
    """All measurements of one subject, each into its row."""

    def __init__(self, program: Path, plan: Plan, report: Report):
        self.program = program
        self.plan = plan
        self.report = report

    def load(self, subject: Subject, kind: str, mode: str, count: int = 1, seconds: float | None = None) -> Load:
        return Load(self.program, subject, kind, mode, count, seconds or self.plan.seconds, self.plan.warm_seconds)

    def throughput(self, subject: Subject, count: int) -> None:
        goal = Goal(2.5 if count == 40 else 3.0, "websockify")
        speed = self.report.row(f"throughput, {count} console{'s' * (count > 1)}", "MB/s", goal)
        cost = self.report.row(f"CPU, {count} console{'s' * (count > 1)}", "s per GB", Goal(0.25, "websockify", False))
        with self.load(subject, "bulk", "bulk", count) as load:
            load.wait_for("START")
            before = peers.cpu_seconds(subject.process.pid) if subject.process else 0.0
            load.wait_for("END")
            used = peers.cpu_seconds(subject.process.pid) - before if subject.process else None
            result = load.result()
        if not self._complete(subject, result, count):
            return
        speed.add(subject.name, result["mb_per_s"])
        if used is not None:
            cost.add(subject.name, used / (result["mb_per_s"] * result["seconds"] / 1000))

    def latency(self, subject: Subject, count: int, *, beside_bulk: bool = False) -> None:
        where = "beside a flat-out stream" if beside_bulk else "alone" if count == 1 else f"{count} consoles"
        goal = Goal(1.0 if beside_bulk else 0.6, "websockify", at_least=False)
        middle = self.report.row(f"echo p50, {where}", "µs")
        slow = self.report.row(f"echo p99, {where}", "µs", goal)
        with contextlib.ExitStack() as stack:
            if beside_bulk:
                seconds = self.plan.seconds + self.plan.warm_seconds + 3
                stack.enter_context(self.load(subject, "bulk", "bulk", 1, seconds)).wait_for("START")
            load = stack.enter_context(self.load(subject, "echo", "lat", count))
            load.wait_for("END")
            result = load.result()
        if self._complete(subject, result, count):
            middle.add(subject.name, result.get("p50_us"))
            slow.add(subject.name, result.get("p99_us"))

    def connects(self, subject: Subject) -> None:
        row = self.report.row("connects, authorisation included", "per s", Goal(5.0, "websockify"))
        with self.load(subject, "idle", "rate", 16) as load:
            load.wait_for("END")
            row.add(subject.name, load.result().get("per_s"))

    def idle_memory(self, subject: Subject) -> None:
        if subject.process is None:
            return
        count = self.plan.idle_per_process if subject.process_per_console else self.plan.idle
        row = self.report.row("memory per 1,000 idle consoles", "MB", Goal(40.0, at_least=False))
        before = peers.memory_mb(subject.process.pid)
        with self.load(subject, "idle", "idle", count, 1.0) as load:
            load.wait_for("START")
            after = peers.memory_mb(subject.process.pid)
            load.wait_for("END")
            result = load.result()
        if self._complete(subject, result, count):
            row.add(subject.name, (after - before) / count * 1000)

    def stall_memory(self, subject: Subject) -> None:
        if subject.process is None:
            return
        row = self.report.row("memory more while 40 browsers stall", "MB")
        before = peers.memory_mb(subject.process.pid)
        with self.load(subject, "bulk", "stall", 40, self.plan.stall_seconds) as load:
            load.wait_for("START")
            load.wait_for("END")
            row.add(subject.name, peers.memory_mb(subject.process.pid) - before)

    def _complete(self, subject: Subject, result: dict[str, Any], count: int) -> bool:
        if result.get("opened") == count and not result.get("failed"):
            return True
        note = (
            f"{subject.name}: {result.get('opened', 0)} of {count} consoles opened, {result.get('failed', '?')} failed"
        )
        if note not in self.report.notes:
            self.report.notes.append(note)
        return False

    def steps(self) -> Iterator[tuple[str, Callable[[Subject], None]]]:
        """Everything that is measured each round, in order."""
        for count in BULK_COUNTS:
            yield f"throughput {count}", lambda subject, count=count: self.throughput(subject, count)  # type: ignore[misc]
        yield "echo", lambda subject: self.latency(subject, 1)
        yield "echo 40", lambda subject: self.latency(subject, 40)
        yield "echo beside bulk", lambda subject: self.latency(subject, 1, beside_bulk=True)
        yield "connects", self.connects

    def run(self, subjects: list[Subject]) -> None:
        # Memory first and once: later the processes hold what earlier loads made them take.
        for subject in subjects:
            self.connects_warm_up(subject)
            self.idle_memory(subject)
            self.stall_memory(subject)
        for number in range(self.plan.rounds):
            for name, step in self.steps():
                for subject in subjects:
                    print(f"round {number + 1}/{self.plan.rounds}: {name}: {subject.name}", file=sys.stderr, flush=True)
                    step(subject)

    def connects_warm_up(self, subject: Subject) -> None:
        """Lets the process import and allocate what its first consoles need."""
        with self.load(subject, "echo", "lat", 4, 0.3) as load:
            load.wait_for("END")


@contextlib.contextmanager
def all_subjects(directory: Path, *, quick: bool, notes: list[str]) -> Iterator[list[Subject]]:
    with contextlib.ExitStack() as stack:
        program = peers.compile_c("relay_source", directory)
        direct = stack.enter_context(peers.source(program, directory / "source.log"))
        subjects = [
            stack.enter_context(peers.ours(directory, direct.port)),
            stack.enter_context(peers.websockify(directory, direct.port)),
        ]
        if quick:
            notes.append("nova: left out of the quick run")
        else:
            try:
                python = peers.install_nova(directory)
                subjects.append(stack.enter_context(peers.nova(directory, direct.port, python)))
            except RuntimeError as error:
                notes.append(f"nova: not installed ({error})")
        yield [*subjects, direct]


def main() -> None:
    options = arguments("The console relay against websockify and nova-novncproxy.")
    plan = QUICK if options.quick else FULL
    report = Report("relay", ["ours", "websockify", "nova", "direct"], ["websockify", "nova"])
    with tempfile.TemporaryDirectory(prefix="bench-relay-") as name:
        directory = Path(name)
        program = peers.compile_c("relay_load", directory)
        with all_subjects(directory, quick=options.quick, notes=report.notes) as subjects:
            others = OtherLoad()
            Bench(program, plan, report).run(subjects)
            report.notes.append(others.note())
    report.publish(options.json)


if __name__ == "__main__":
    main()
