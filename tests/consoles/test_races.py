"""Several real processes, one database: the limit holds exactly, whoever races whom."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(300)]
Env = dict[str, str]


def run(env: Env, role: str, **parameters: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.consoles.race", role, json.dumps(parameters)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def together(*processes: subprocess.Popen[str]) -> list[subprocess.Popen[str]]:
    """Lets racers go once all of them are ready."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=60)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return list(processes)


def answer(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


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
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, timeout=120, check=False
    )
    assert done.returncode == 0
    answer(run(env, "seed", hosts=hosts, host_limit=host_limit, quota=quota))
    started = together(*(run(env, "open", threads=threads, each=each, mix=mix) for _ in range(processes)))
    outcomes = [answer(process) for process in started]
    return outcomes, answer(run(env, "close"))


@pytest.fixture(params=["postgres", "sqlite"])
def env(request: pytest.FixtureRequest, tmp_path: Path, product_env: Callable[..., Env], redis_url: str) -> Env:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/race.sqlite3"
    else:
        base = str(request.getfixturevalue("postgres_url"))
        name = f"race_{time.monotonic_ns()}"
        with psycopg.connect(base, autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{name}"')
        url = base.rsplit("/", 1)[0] + f"/{name}"
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
