"""Emptying hosts of tight fleets that have a hidden legal answer, beside the ways others do it. See
``script/bench evacuation``.

A full run installs proxlb-solver into a throw-away virtual environment; BENCH_PROXLB_PYTHON names the Python of one
that is there already. BENCH_ONLY names cases by a part of their name. Every plan of ours is replayed by the verifier,
at its own times and once more with random durations.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from bench import evacuation_peers as peers
from bench import evacuation_rows
from bench.evacuation_fleet import Shape, planted
from bench.report import Goal, OtherLoad, Report, arguments
from placement.planner import exact, execute, plan, rolling, verify
from placement.planner.board import Board, Layout
from placement.planner.model import Plan, Problem, Proof, Vm
from placement.planner.units import wanted

OURS, BEST_FIT, EMPTIEST, PROXLB = "ours", "best fit", "emptiest", "proxlb-solver"


@dataclass(frozen=True)
class Case:
    """``seeds``: how many fleets; ``proxlb``: how many of them proxlb-solver gets; ``limit_ms``: the planning time
    allowed."""

    shape: Shape
    seeds: int
    proxlb: int
    limit_ms: float | None = None


SMALL = Shape("20 hosts, 95 %", 20, 3, 0.95)
SMALL_FULL = Shape("20 hosts, 98 %", 20, 3, 0.98, shuffled=30)
ONE_OF_20 = Shape("1 of 20 hosts, 98 %", 20, 1, 0.98, shuffled=30).hard()
MIDDLE = Shape("100 hosts, 95 %", 100, 10, 0.95)
MIDDLE_FULL = Shape("100 hosts, 98 %", 100, 10, 0.98, shuffled=60)
BIG = Shape("500 hosts, 95 %", 500, 50, 0.95)
BIG_FULL = Shape("500 hosts, 98 %", 500, 50, 0.98, shuffled=200)

QUICK = [
    Case(SMALL, 5, 0),
    Case(SMALL_FULL.hard(), 5, 0),
    Case(ONE_OF_20, 5, 0),
    Case(MIDDLE_FULL, 3, 0, 100),
    Case(BIG_FULL, 1, 0, 1000),
]
FULL = [
    Case(SMALL, 20, 3),
    Case(SMALL_FULL, 20, 3),
    Case(SMALL_FULL.hard(), 20, 3),
    Case(ONE_OF_20, 20, 3),
    Case(MIDDLE, 10, 1, 100),
    Case(MIDDLE_FULL, 10, 0, 100),
    Case(MIDDLE_FULL.hard(), 10, 0, 100),
    Case(BIG, 3, 0, 1000),
    Case(BIG_FULL, 3, 0, 1000),
    Case(BIG_FULL.hard(), 3, 0, 1000),
]


def main() -> None:
    """Runs every case and the rolling maintenance; prints and writes the report."""
    options = arguments("Planning the evacuation of hosts in fleets of up to 500 hosts at 98 %.")
    report = Report("evacuation", [OURS, BEST_FIT, EMPTIEST, PROXLB], [BEST_FIT, EMPTIEST, PROXLB])
    others = OtherLoad()
    with tempfile.TemporaryDirectory(prefix="cloudops-bench-") as name:
        python = None if options.quick else _proxlb(Path(name), report)
        only = os.environ.get("BENCH_ONLY", "")
        for case in QUICK if options.quick else FULL:
            if only in case.shape.name:
                _measure(case, report, python)
        if only in "infeasible":
            _infeasible(report, seeds=2 if options.quick else 5)
        if only in "database":
            evacuation_rows.measure(report, {MIDDLE: 100} if options.quick else {MIDDLE: 100, BIG: 1000})
        if only in "rolling":
            _rolling(report, seeds=1 if options.quick else 3)
    report.notes.append(others.note())
    report.publish(options.json)


def _proxlb(directory: Path, report: Report) -> Path | None:
    try:
        return peers.install_proxlb(directory)
    except RuntimeError as error:
        report.notes.append(str(error))
        return None


def _measure(case: Case, report: Report, python: Path | None) -> None:
    name = case.shape.name
    emptied = report.row(f"{name}: emptied", "% of cases", Goal(100))
    illegal = report.row(f"{name}: illegal plans", "", Goal(0, at_least=False))
    took = report.row(f"{name}: planning", "ms", Goal(case.limit_ms, at_least=False) if case.limit_ms else None)
    worked = report.row(f"{name}: planning, CPU time", "ms")
    makespan = report.row(f"{name}: time to empty / bound", "×", Goal(1.1, at_least=False))
    sums: dict[str, list[bool]] = {OURS: [], BEST_FIT: [], EMPTIEST: [], PROXLB: []}
    wrong = {OURS: 0, PROXLB: 0}
    chains = moves = 0
    for seed in range(case.seeds):
        problem = planted(case.shape, seed)
        began, busy = time.perf_counter(), time.process_time()
        found = plan(problem, budget_seconds=5.0, exact_seconds=0.0)
        took.add(OURS, (time.perf_counter() - began) * 1000)
        worked.add(OURS, (time.process_time() - busy) * 1000)
        sums[OURS].append(not found.stranded)
        wrong[OURS] += _wrong(problem, found, seed)
        makespan.add(OURS, found.seconds / found.lower_bound_seconds)
        moves, chains = len(found.moves), chains + any(move.resident for move in found.moves)
        for subject, method in ((BEST_FIT, peers.best_fit), (EMPTIEST, peers.emptiest)):
            outcome, _ = method(problem)
            sums[subject].append(outcome.emptied)
            took.add(subject, outcome.seconds * 1000)
        if python is not None and seed < case.proxlb:
            outcome = peers.proxlb(problem, python)
            sums[PROXLB].append(outcome.emptied)
            wrong[PROXLB] += not outcome.legal
            took.add(PROXLB, outcome.seconds * 1000)
            makespan.add(PROXLB, outcome.makespan / found.lower_bound_seconds if outcome.makespan else None)
    for subject, results in sums.items():
        emptied.add(subject, 100 * sum(results) / len(results) if results else None)
        if results and subject in wrong:
            illegal.add(subject, wrong[subject])
    direct = f", {_indirect(case)} are proven to need it" if case.shape.hosts <= 20 else ""
    report.notes.append(
        f"{name}: {case.seeds} fleets, about {moves} moves, slowest plan {max(took.samples[OURS]):.0f} ms; "
        f"a third VM moves in {chains}{direct}" + (f"; proxlb-solver had {len(sums[PROXLB])}" if sums[PROXLB] else "")
    )


def _wrong(problem: Problem, found: Plan, seed: int) -> bool:
    """Whether a replay finds anything, at the plan's times or with others."""
    rng = random.Random(seed)
    run = execute(problem, found, lambda index, move: move.seconds * rng.choice([0.1, 0.5, 1, 2, 10]))
    return bool(verify(problem, found) or run.wrong)


def _indirect(case: Case) -> int:
    """Fleets that the exact solver proves unsolvable as long as only VMs of the emptied hosts move."""
    count = 0
    for seed in range(case.seeds):
        board = Board(replace(planted(case.shape, seed), residents_may_move=False))
        answer = exact.solve(board, wanted(board).units, hint=Layout(board), seconds=10, seed=seed)
        count += answer.proven and answer.left > 0
    return count


def _infeasible(report: Report, seeds: int) -> None:
    """More is put on the hosts to be emptied than the others can hold of one tag."""
    row = report.row("20 hosts, too much of one tag: proven, and a change offered", "% of cases", Goal(100))
    took = report.row("20 hosts, too much of one tag: planning and proof", "ms")
    told = 0
    for seed in range(seeds):
        problem = planted(SMALL_FULL, seed)
        source = min(problem.sources)
        rules = next(vm.rules for vm in problem.vms if vm.rules and vm.rules[0].kind == "tag")
        extra = tuple(Vm(f"extra{i}", f"extra-{i}", source, 96 * 1024, 8, rules) for i in range(8))
        found = plan(replace(problem, vms=problem.vms + extra))
        took.add(OURS, found.planning_seconds * 1000)
        told += bool(found.stranded) and all(one.proof is Proof.PROVEN and one.relaxations for one in found.stranded)
    row.add(OURS, 100 * told / seeds)


def _rolling(report: Report, seeds: int) -> None:
    """One host after the other, each back in use before the next."""
    stuck = report.row("rolling, 100 hosts at 90 %: not emptied", "hosts", Goal(7, at_least=False))
    took = report.row("rolling, 100 hosts at 90 %: planning", "ms")
    each = report.row("rolling, 100 hosts at 90 %: moves per VM", "", Goal(1.3, at_least=False))
    for seed in range(seeds):
        problem = planted(Shape("rolling", 100, 0, 0.90), seed)
        found = rolling(problem, [host.id for host in problem.hosts], exact_seconds=0.0)
        stuck.add(OURS, len(found.stuck))
        took.add(OURS, found.planning_seconds * 1000)
        each.add(OURS, found.moves / len(problem.vms))
        for subject, method in ((BEST_FIT, peers.best_fit), (EMPTIEST, peers.emptiest)):
            began = time.perf_counter()
            stuck.add(subject, peers.not_emptied(problem, method))
            took.add(subject, (time.perf_counter() - began) * 1000)


if __name__ == "__main__":
    main()
