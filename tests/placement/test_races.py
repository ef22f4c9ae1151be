"""Several real processes, one database: no host ever promises more than it may, up to the last MiB."""

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
HOSTS, FITS = 6, 6 * 16


def run(env: Env, role: str, **parameters: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.placement.race", role, json.dumps(parameters)]
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


def test_a_fleet_is_filled_to_the_last_mib_and_no_further(env: Env) -> None:
    migrate = [sys.executable, "-W", "ignore", "manage.py", "migrate", "-v0"]
    assert subprocess.run(migrate, cwd=ROOT, env=env, timeout=120, check=False).returncode == 0
    answer(run(env, "seed", hosts=HOSTS, vms=FITS + 32))
    share = {"threads": 3, "of": 4, "give_back": 0.25}
    racers = together(*(run(env, "place", number=number, **share) for number in range(4)))
    outcomes = [answer(racer) for racer in racers]
    end = answer(run(env, "check"))
    assert [error for outcome in outcomes for error in outcome["errors"]] == []
    assert end["over"] == 0
    assert end["wrong_sums"] == 0
    assert end["on_home"] == 0
    assert end["claims"] * 1_024 + end["free_mib"] == FITS * 1_024
    assert end["exact"] == [True] * 20
    # Whoever gave room back may have lost it to another; a last round fills what that left.
    again = answer(*together(run(env, "place", threads=1, number=0, of=1, give_back=0.0)))
    assert again["errors"] == []
    full = answer(run(env, "check"))
    assert (full["free_mib"], full["over"], full["wrong_sums"], full["claims"]) == (0, 0, 0, FITS)
