"""Placement beside its peers from PyPI, over the same seeded fleets and requests on one private PostgreSQL.

Ours: decision, committed claim and stored explanation. openstack-placement: GET allocation_candidates and PUT
allocations, in-process. nova: its filter scheduler over hosts that are in memory already, without a claim. Then claims
per second by several processes, beside pgbench with the same statements on random hosts; and a fleet filled up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.placement_peers import Installed, Peer, Prepared, install
from bench.report import Goal, OtherLoad, Report, arguments
from cloudops.lab.services import PrivatePostgres, PrivateRedis

PARTS = ("100", "1000", "10000", "100000", "claims", "full")
GOALS = {"1000": 100.0, "10000": 700.0}
PEER_COUNTS = {"100": 20, "1000": 10, "10000": 3}
NOVA_COUNTS = {"100": 10, "1000": 5, "10000": 1}
RACE_HOSTS, FULL_HOSTS, PEER_RACE_HOSTS = 10_000, 100, 1_000
VMS = 200_000
STRIDE = 20_000
TURNS, TURN = 9, 40


def main() -> None:
    """``BENCH_PLACEMENT_PARTS`` (of 100, 1000, 10000, 100000, claims, full) leaves parts out."""
    options = arguments("A placement decision with its claim and explanation, and claims per second, beside peers.")
    parts = os.environ.get("BENCH_PLACEMENT_PARTS", ",".join(PARTS[:2] if options.quick else PARTS)).split(",")
    report = Report("placement", ["ours", "placement", "nova", "pgbench"], ["placement", "nova", "pgbench"])
    with tempfile.TemporaryDirectory(prefix="cloudops-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        installed = install(folder, report.notes)
        with PrivatePostgres(folder / "pg") as postgres, PrivateRedis(folder / "redis") as redis:
            others = OtherLoad()
            prepared = Prepared(postgres.url(), redis.url(), folder)
            bench = Bench(report, installed, prepared, folder, quick=options.quick)
            try:
                for part in parts:
                    bench.part(part)
            except KeyboardInterrupt:
                report.notes.append("interrupted: what was not measured by then is missing")
            except BaseException as error:
                report.notes.append(f"ended early: {type(error).__name__}: {error}")
                raise
            finally:  # whatever fails, what was measured before is told
                report.notes.append(others.note())
                report.publish(options.json)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Bench:
    """Each part in a database of its own."""

    def __init__(self, report: Report, installed: Installed, prepared: Prepared, folder: Path, *, quick: bool) -> None:
        self.report, self.installed, self.folder, self.quick = report, installed, folder, quick
        self.prepared = prepared
        self.p50: dict[str, float] = {}

    def part(self, name: str) -> None:
        print(f"placement: {name} …", flush=True)
        if name == "claims":
            self.claims()
        elif name == "full":
            self.full()
        else:
            self.decisions(name)

    def decisions(self, size: str) -> None:
        """One process, one decision after another; peers in the same rounds."""
        with contextlib.ExitStack() as stack:
            ours = self._ours(stack, hosts=int(size), vms=20_000)
            peers = self._peers(stack, size)
            samples: dict[str, list[float]] = {"ours": [], "shares": [], **{name: [] for name in peers}}
            for number in range(2 if self.quick else 3):
                self._decide(ours, samples, number)
                for name, peer in peers.items():
                    counts = PEER_COUNTS if name == "placement" else NOVA_COUNTS
                    samples[name] += peer.ask(do="decide", count=counts[size], seed=2 + number)["ms"]
            self._tell_decisions(size, samples, ours.ask(do="check"))

    def _decide(self, ours: Peer, samples: dict[str, list[float]], number: int) -> None:
        """With and without the explanation in turns that are short beside what else slows the machine down; each pair
        of turns gives one share."""
        ours.ask(do="restore")
        ours.ask(do="decide", count=20, seed=1, first=1)
        first = 1_000
        for turn in range(TURNS):
            pair: dict[bool, list[float]] = {}
            for bare in (turn % 2 == 0, turn % 2 == 1):
                asked = {"do": "decide", "count": TURN, "seed": 2 + number * TURNS + turn, "first": first}
                pair[bare] = ours.ask(**asked, bare=bare)["ms"]
                first += TURN
            with_, without = percentile(pair[False], 0.5), percentile(pair[True], 0.5)
            samples["ours"] += pair[False]
            samples["shares"].append(100.0 * (with_ - without) / with_)

    def _tell_decisions(self, size: str, samples: dict[str, list[float]], end: dict[str, Any]) -> None:
        hosts = f"{int(size):,} hosts"
        # A duration: ours must be at most 1/goal of placement's.
        goal = Goal(1 / GOALS[size], against="placement", at_least=False) if size in GOALS else None
        row = self.report.row(f"decision + claim + explanation, {hosts}, p50", "ms", goal)
        for name in ("ours", "placement", "nova"):
            row.add(name, percentile(samples[name], 0.5) if samples.get(name) else None)
        p50, p95 = percentile(samples["ours"], 0.5), percentile(samples["ours"], 0.95)
        self.report.row(f"… absolute, {hosts}, p50", "ms", Goal(2.0, at_least=False)).add("ours", p50)
        self.report.row(f"… {hosts}, p95", "ms", Goal(5.0, at_least=False)).add("ours", p95)
        share = self.report.row(f"… share of storing the explanation, {hosts}", "%", Goal(20.0, at_least=False))
        share.add("ours", percentile(samples["shares"], 0.5))
        self.p50[size] = p50
        if size == "100000" and "1000" in self.p50:
            growth = self.report.row("growth from 1,000 to 100,000 hosts", "times", Goal(2.0, at_least=False))
            growth.add("ours", p50 / self.p50["1000"])
        self._demand_sound(end, hosts)

    def _demand_sound(self, end: dict[str, Any], what: str) -> None:
        if end["over"] or end["drift"]:
            raise SystemExit(f"{what}: {end['over']} hosts over capacity, {end['drift']} sums wrong")
        self.report.notes.append(
            f"{what}: {end['claims']:,} claims, 0 hosts over capacity, 0 wrong sums, "
            f"{end['decisions']:,} decisions on {end['snapshots']:,} snapshots"
        )

    def claims(self) -> None:
        """Several processes at once on one fleet; the floor is pgbench with the same statements."""
        seconds = 2.0 if self.quick else 4.0
        with contextlib.ExitStack() as stack:
            first = self._ours(stack, hosts=RACE_HOSTS, vms=VMS)
            workers = [first, *(self._worker(stack, RACE_HOSTS) for _ in range(7))]
            for processes in (1, 4, 8):
                self._race(workers[:processes], processes, seconds, bare=True)
                end = first.ask(do="check")
                self._demand_sound(end, f"claims, {processes} processes")
                first.ask(do="restore")
                self._race(workers[:processes], processes, seconds, bare=False)
                first.ask(do="restore")
                floor = self._pgbench(first, processes, seconds)
                self._claims_row(processes).add("pgbench", floor)
                first.ask(do="restore")
        self._peer_race(seconds * 2)

    def _claims_row(self, processes: int) -> Any:
        return self.report.row(f"claims, {processes} processes", "per s", Goal(0.35, against="pgbench"))

    def _race(self, workers: Sequence[Peer], processes: int, seconds: float, *, bare: bool) -> None:
        for worker in workers:
            worker.ask(do="warm")
        order = {"do": "race", "at": time.time() + 0.5, "seconds": seconds, "bare": bare}
        for number, worker in enumerate(workers):
            worker.tell(**order, seed=10 + number, first=1 + number * STRIDE)
        answers = [worker.hear() for worker in workers]
        done = sum(len(answer["ms"]) for answer in answers)
        conflicts = 100.0 * sum(answer["conflicts"] for answer in answers) / max(1, done)
        if bare:
            self._claims_row(processes).add("ours", done / seconds)
            row = self.report.row(f"… conflicts, {processes} processes", "%", Goal(3.0, at_least=False))
            row.add("ours", conflicts)
        else:
            row = self.report.row(f"claims with stored explanation, {processes} processes", "per s")
            row.add("ours", done / seconds)

    def _pgbench(self, first: Peer, processes: int, seconds: float) -> float:
        program = shutil.which("pgbench") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/pgbench")))
        script = self.folder / "claim.sql"
        script.write_text(first.ask(do="floor")["script"])
        command = [program, "-n", "-M", "prepared", "-c", str(processes), "-j", "2", "-T", str(int(seconds))]
        done = subprocess.run(
            [*command, "-f", str(script), self.prepared.url_of(f"ours_{RACE_HOSTS}")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"pgbench: {done.stderr[-1000:]}")
        line = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
        return float(line.split()[2])

    def _peer_race(self, seconds: float) -> None:
        python = self.installed.placement
        if python is None:
            return
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(self.prepared.openstack(python, PEER_RACE_HOSTS, number=0))]
            workers += [
                stack.enter_context(self.prepared.openstack(python, PEER_RACE_HOSTS, number=n)) for n in range(1, 8)
            ]
            for processes in (1, 4, 8):
                order = {"do": "race", "at": time.time() + 0.5, "seconds": seconds}
                for number, worker in enumerate(workers[:processes]):
                    worker.tell(**order, seed=100 * processes + number)
                answers = [worker.hear() for worker in workers[:processes]]
                done = sum(len(answer["ms"]) for answer in answers)
                ours = self._claims_row(processes)
                ours.add("placement", done / seconds)
                mine = ours.values().get("ours")
                if mine is not None and done:
                    times = self.report.row(f"… times placement's, {processes} processes", "times", Goal(150.0))
                    times.add("ours", mine * seconds / done)

    def full(self) -> None:
        """Eight processes fill a small fleet until nothing fits."""
        hosts = FULL_HOSTS // 4 if self.quick else FULL_HOSTS
        with contextlib.ExitStack() as stack:
            first = self._ours(stack, hosts=hosts, vms=8 * STRIDE, small=True)
            workers = [first, *(self._worker(stack, hosts) for _ in range(7))]
            for worker in workers:
                worker.ask(do="warm")
            for number, worker in enumerate(workers):
                worker.tell(do="race", at=time.time() + 0.5, small=True, seed=1, first=1 + number * STRIDE)
            answers = [worker.hear() for worker in workers]
            end = first.ask(do="check")
        self._demand_sound(end, "filled by 8 processes")
        row = self.report.row("full when nothing fits any more", "%", Goal(100.0))
        row.add("ours", end["full_percent"])
        conflicts = 100.0 * sum(answer["conflicts"] for answer in answers) / max(1, end["claims"])
        self.report.row("… conflicts on the way", "%").add("ours", conflicts)

    def _ours(self, stack: contextlib.ExitStack, *, hosts: int, vms: int, small: bool = False) -> Peer:
        self.prepared.create(f"ours_{hosts}")
        worker = self._worker(stack, hosts)
        worker.ask(do="fill", hosts=hosts, vms=vms, small=small)
        worker.ask(do="keep")
        return worker

    def _worker(self, stack: contextlib.ExitStack, hosts: int) -> Peer:
        return stack.enter_context(self.prepared.ours(f"ours_{hosts}"))

    def _peers(self, stack: contextlib.ExitStack, size: str) -> dict[str, Peer]:
        found = {}
        if size in PEER_COUNTS and self.installed.placement is not None:
            found["placement"] = stack.enter_context(self.prepared.openstack(self.installed.placement, int(size)))
        if size in NOVA_COUNTS and self.installed.nova is not None:
            found["nova"] = stack.enter_context(self.prepared.nova(self.installed.nova, int(size)))
        return found


if __name__ == "__main__":
    main()
