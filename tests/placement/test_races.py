"""Several real processes, one database: no host ever promises more than it may, up to the last MiB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.racing import Env, own_database, run

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(300)]
HOSTS, FITS = 6, 6 * 16


@pytest.fixture(params=["postgres", "sqlite"])
def env(request: pytest.FixtureRequest, tmp_path: Path, product_env: Callable[..., Env], redis_url: str) -> Env:
    url = own_database(request, tmp_path)
    return product_env(database_url=url, redis_url=redis_url, CLOUDOPS_LOG_LEVEL="ERROR")


def test_a_fleet_is_filled_to_the_last_mib_and_no_further(env: Env) -> None:
    told = run(env, "tests.placement.race", processes=4, threads=3, hosts=HOSTS, vms=FITS + 32)
    outcomes, end = told["outcomes"], told["end"]
    assert [error for outcome in outcomes for error in outcome["errors"]] == []
    assert end["over"] == 0
    assert end["wrong_sums"] == 0
    assert end["on_home"] == 0
    assert end["claims"] * 1_024 + end["free_mib"] == FITS * 1_024
    assert end["exact"] == [True] * 20
    full = told["full"]
    assert told["again"]["errors"] == []
    assert (full["free_mib"], full["over"], full["wrong_sums"], full["claims"]) == (0, 0, 0, FITS)
