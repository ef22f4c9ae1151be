"""How long emptying takes against what no order of the same moves could beat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudops.core import runtime
from placement import planner
from placement.maintenance import solving
from placement.maintenance.ground import Asked
from tests.placement.maintenance.draining import Drains

RATE = 512
MOST = 1.10


@pytest.mark.sqlite  # arithmetic: no database makes it another
@pytest.mark.parametrize("sources", [1, 2])
def test_a_drain_takes_hardly_longer_than_the_lower_bound(world: Drains, sources: int) -> None:
    """VMs of 16 to 48 GiB at 512 MiB/s, two at a time per host: every free slot is used at once."""
    hosts = [world.build_host(f"kvm{number}", gib=256, rate=RATE) for number in range(1, 7)]
    for source in range(sources):
        for number in range(8):
            world.build_vm(f"vm{source}-{number}", hosts[source], gib=16 + 8 * (number % 5))
    world.ready()
    leaving = hosts[:sources]
    asked = Asked(leaving=frozenset(host.pk for host in leaving))
    found = solving.solve(asked, settings=runtime.current(), now=world.now)
    limits = replace(found.problem.limits, setup_seconds=0.0, rate_mib_per_second=float(RATE))
    bound = planner.plan(replace(found.problem, limits=limits)).lower_bound_seconds
    job = world.start(*leaving)
    took = world.until_status(job, "holding", seconds=3_000)
    assert took >= bound - 1
    assert took <= MOST * bound, (took, bound)
    world.sound()
