"""Other ways to empty a host: VM after VM to the emptiest host, best fit decreasing, and proxlb-solver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from placement.planner.board import Board, Layout, Unit
from placement.planner.model import Problem

HERE = Path(__file__).parent
PROXLB = "proxlb-solver==0.1.1"
INSTALL_SECONDS = 300
SOLVE_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """What a peer made of a case. ``makespan`` in seconds of migration, where it plans an order; None otherwise."""

    emptied: bool
    legal: bool
    seconds: float
    makespan: float | None = None
    words: str = ""


def emptiest(problem: Problem) -> tuple[Outcome, dict[str, str]]:
    """VM by VM in the order of the list, each to the legal host with the most room: what per-VM schedulers do. The
    outcome, and where every VM is then."""
    return _one_by_one(problem, lambda unit: 0, largest=True)


def best_fit(problem: Problem) -> tuple[Outcome, dict[str, str]]:
    """Biggest VM first, each to the legal host with the least room left. As :func:`emptiest`."""
    return _one_by_one(problem, lambda unit: -unit.memory, largest=False)


def _one_by_one(problem: Problem, key: Callable[[Unit], int], *, largest: bool) -> tuple[Outcome, dict[str, str]]:
    began = time.perf_counter()
    board = Board(problem)
    layout = Layout(board)
    left = 0
    for unit in sorted((board.unit([v]) for v in board.movers), key=key):
        hosts = np.flatnonzero(layout.fits(unit))
        if hosts.size:
            free = layout.free_memory[hosts]
            layout.put(unit, int(hosts[np.argmax(free) if largest else np.argmin(free)]))
        else:
            left += 1
    seconds = time.perf_counter() - began
    places = {vm.id: board.hosts[host].id for vm, host in zip(board.vms, layout.at, strict=True)}
    return Outcome(left == 0, legal=True, seconds=seconds), places


def not_emptied(problem: Problem, method: Callable[[Problem], tuple[Outcome, dict[str, str]]]) -> int:
    """Host after host, each emptied by the method: how many could not be."""
    failed = 0
    for host in problem.hosts:
        outcome, places = method(replace(problem, sources=frozenset({host.id})))
        failed += not outcome.emptied
        if outcome.emptied:
            problem = replace(problem, vms=tuple(replace(vm, host=places[vm.id]) for vm in problem.vms))
    return failed


def install_proxlb(directory: Path) -> Path:
    """proxlb-solver in a virtual environment of its own; its Python. BENCH_PROXLB_PYTHON names one that is there.

    Raises :class:`RuntimeError` when it does not install.
    """
    ready = os.environ.get("BENCH_PROXLB_PYTHON")
    if ready:
        return Path(ready)
    python = directory / "proxlb" / "bin" / "python"
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", directory / "proxlb"], check=True, capture_output=True, timeout=60
        )
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PROXLB]
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        raise RuntimeError(f"{PROXLB} did not install: {type(error).__name__}") from None
    return python


def proxlb(problem: Problem, python: Path, *, seconds: float = SOLVE_SECONDS) -> Outcome:
    """One case solved by proxlb-solver in a process of its own; the time is its solver's, start-up not counted."""
    try:
        done = subprocess.run(
            [python, HERE / "evacuation_proxlb.py"],
            input=json.dumps(_in_its_terms(problem, seconds)),
            capture_output=True,
            text=True,
            check=True,
            timeout=3 * seconds + 60,
        )
    except subprocess.SubprocessError as error:
        return Outcome(False, legal=True, seconds=seconds, words=type(error).__name__)
    answer: dict[str, Any] = json.loads(done.stdout)
    places = answer["placements"]
    emptied = bool(places) and all(host not in problem.sources for host in places.values())
    makespan = _stepwise(problem, answer["steps"]) if emptied and answer["path_feasible"] else None
    return Outcome(emptied, _legal(problem, places), answer["seconds"], makespan, answer["status"])


def _in_its_terms(problem: Problem, seconds: float) -> dict[str, Any]:
    names = [host.id for host in problem.hosts]
    groups: dict[str, list[str]] = defaultdict(list)
    pins = []
    for vm in problem.vms:
        for group in vm.apart:
            groups[group].append(vm.id)
        if vm.rules:
            mask = (1 << len(names)) - 1
            for rule in vm.rules:
                mask &= rule.hosts
            allowed = [name for i, name in enumerate(names) if mask >> i & 1]
            pins.append({"name": f"pin-{vm.id}", "vms": [vm.id], "nodes": allowed, "hard": True, "vm": vm.id})
    return {
        "seconds": seconds,
        "nodes": [
            {
                "name": host.id,
                "cpu_total": host.vcpus,
                "memory_total": host.memory_mib << 20,
                "maintenance": host.id in problem.sources,
            }
            for host in problem.hosts
        ],
        "vms": [
            {"name": vm.id, "node": vm.host, "cpu": vm.vcpus, "memory": vm.memory_mib << 20, "cpu_usage": vm.vcpus}
            for vm in problem.vms
        ],
        "pin": pins,
        "apart": [{"name": name, "vms": vms, "hard": True} for name, vms in groups.items() if len(vms) > 1],
    }


def _legal(problem: Problem, places: dict[str, str]) -> bool:
    """Capacity, demands and groups at the end of its plan."""
    hosts = {host.id: (i, host) for i, host in enumerate(problem.hosts)}
    memory: dict[str, int] = defaultdict(int)
    vcpus: dict[str, int] = defaultdict(int)
    seen: set[tuple[str, str]] = set()
    for vm in problem.vms:
        place = places.get(vm.id, vm.host)
        memory[place] += vm.memory_mib
        vcpus[place] += vm.vcpus
        if any(not rule.hosts >> hosts[place][0] & 1 for rule in vm.rules) or seen & {(g, place) for g in vm.apart}:
            return False
        seen |= {(group, place) for group in vm.apart}
    receiving = [name for name in hosts if name not in problem.sources]
    return all(memory[n] <= hosts[n][1].memory_mib and vcpus[n] <= hosts[n][1].vcpus for n in receiving)


def _stepwise(problem: Problem, steps: list[list[list[str]]]) -> float:
    """How long its steps take when each ends with its slowest move."""
    vms = {vm.id: vm for vm in problem.vms}
    return sum(max(problem.limits.seconds(vms[vm]) for vm, _, _ in step) for step in steps if step)
