"""Several real processes, one database: the limit holds exactly, whoever races whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.racing import Env, own_database, run

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(300)]


def race(
    env: Env,
    *,
    processes: int,
    threads: int,
    each: int,
    mix: bool,
    hosts: int = 1,
    host_limit: int | None = None,
    quota: int | None = None,
) -> tuple[list[Any], Any]:
    opening = {"threads": threads, "each": each, "mix": mix}
    seeding = {"hosts": hosts, "host_limit": host_limit, "quota": quota}
    told = run(env, "tests.consoles.race", processes=processes, opening=opening, seeding=seeding)
    return told["outcomes"], told["end"]


@pytest.fixture(params=["postgres", "sqlite"])
def env(request: pytest.FixtureRequest, tmp_path: Path, product_env: Callable[..., Env], redis_url: str) -> Env:
    url = own_database(request, tmp_path)
    return product_env(database_url=url, redis_url=redis_url, CLOUDOPS_LOG_LEVEL="ERROR")


def test_two_hundred_opens_at_once_give_exactly_forty(env: Env) -> None:
    outcomes, end = race(env, processes=4, threads=10, each=5, mix=False)
    assert [error for outcome in outcomes for error in outcome["errors"]] == []
    assert sum(outcome["opened"] for outcome in outcomes) == 40
    assert sum(outcome["refused"] for outcome in outcomes) == 160
    assert max(outcome["most"] for outcome in outcomes) <= 40
    assert end == {"before": 40, "closed": 40, "after": 0}


def test_dropping_and_resuming_in_between_never_exceeds_a_hosts_limit_nor_a_projects_quota(env: Env) -> None:
    outcomes, end = race(env, processes=3, threads=8, each=5, mix=True, hosts=2, host_limit=30, quota=40)
    assert [error for outcome in outcomes for error in outcome["errors"]] == []
    assert sum(outcome["opened"] for outcome in outcomes) >= 40
    assert max(outcome["most"] for outcome in outcomes) <= 30
    assert max(outcome["most_in_project"] for outcome in outcomes) <= 40
    assert end["before"] <= 40
    assert end["after"] == 0
