"""Several real processes, one database: no host ever promises more than it may, up to the last MiB."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.racing import Env, answer, let_go, own_database, racer

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(300)]
HOSTS, FITS = 6, 6 * 16


def run(env: Env, role: str, **parameters: Any) -> subprocess.Popen[str]:
    return racer("tests.placement.race", env, role, **parameters)


@pytest.fixture(params=["postgres", "sqlite"])
def env(request: pytest.FixtureRequest, tmp_path: Path, product_env: Callable[..., Env], redis_url: str) -> Env:
    url = own_database(request, tmp_path)
    return product_env(database_url=url, redis_url=redis_url, CLOUDOPS_LOG_LEVEL="ERROR")


def test_a_fleet_is_filled_to_the_last_mib_and_no_further(env: Env) -> None:
    answer(run(env, "seed", hosts=HOSTS, vms=FITS + 32))
    share = {"threads": 3, "of": 4, "give_back": 0.25}
    racers = let_go(*(run(env, "place", number=number, **share) for number in range(4)))
    outcomes = [answer(racer) for racer in racers]
    end = answer(run(env, "check"))
    assert [error for outcome in outcomes for error in outcome["errors"]] == []
    assert end["over"] == 0
    assert end["wrong_sums"] == 0
    assert end["on_home"] == 0
    assert end["claims"] * 1_024 + end["free_mib"] == FITS * 1_024
    assert end["exact"] == [True] * 20
    # Whoever gave room back may have lost it to another; a last round fills what that left.
    again = answer(*let_go(run(env, "place", threads=1, number=0, of=1, give_back=0.0)))
    assert again["errors"] == []
    full = answer(run(env, "check"))
    assert (full["free_mib"], full["over"], full["wrong_sums"], full["claims"]) == (0, 0, 0, FITS)
