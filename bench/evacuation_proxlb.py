"""Runs in proxlb-solver's own virtual environment: reads a problem as JSON, answers with its plan as JSON.

The fleet is told in its own terms: capacity as it is (no overcommit on top), demands as pin rules, groups as hard
anti-affinity, hosts to be emptied in maintenance, and its profile with the fewest moves (balanciness 1).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Reads standard input, writes standard output."""
    asked: dict[str, Any] = json.load(sys.stdin)
    from proxlb_solver import models  # type: ignore[import-not-found, unused-ignore]
    from proxlb_solver.solver import solve_reachable  # type: ignore[import-not-found, unused-ignore]

    cluster = models.Cluster(
        name="bench",
        description="",
        balancing=models.Balancing(balanciness=1, mode="assigned", cpu_overcommit=1.0),
        nodes=[models.Node(**node) for node in asked["nodes"]],
        vms=[models.VM(**vm) for vm in asked["vms"]],
        constraints=models.Constraints(pin=asked["pin"], anti_affinity=asked["apart"]),
        expect=models.Expect(),
    )
    began = time.perf_counter()
    solution, plan = solve_reachable(cluster, total_time_limit_s=asked["seconds"])
    seconds = time.perf_counter() - began
    answer = {
        "seconds": seconds,
        "status": solution.stats.status,
        "placements": solution.placements if solution.feasible else {},
        "path_feasible": plan.path_feasible,
        "steps": [[(move.vm, move.source, move.target) for move in step.migrations] for step in plan.steps],
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
