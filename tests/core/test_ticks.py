"""Interval jobs run once an interval in the whole installation, whoever asks and how often."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudops.core.ticks import claim_tick
from tests import databases
from tests.conftest import Clock
from tests.racing import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.django_db
def test_one_claim_an_interval_and_a_changed_interval_acts_at_once(clock: Clock) -> None:
    assert claim_tick("job", interval_seconds=300, now=clock.now)
    assert not claim_tick("job", interval_seconds=300, now=clock.advance(299))
    assert claim_tick("other", interval_seconds=300, now=clock.now)
    assert claim_tick("job", interval_seconds=300, now=clock.advance(1))
    assert not claim_tick("job", interval_seconds=300, now=clock.advance(10))
    assert claim_tick("job", interval_seconds=10, now=clock.now)


@pytest.mark.real
@pytest.mark.alone
def test_of_racing_processes_on_postgresql_one_wins(
    postgres_url: str, redis_url: str, product_env: Callable[..., dict[str, str]]
) -> None:
    """Six processes ask 240 times for a tick that does not exist yet: the insert races as well as the update."""
    name = f"ticks_{os.getpid()}_{time.monotonic_ns()}"
    database = databases.in_postgres(postgres_url, name, make_env=product_env)
    environment = product_env(database_url=database, redis_url=redis_url)
    assert sum(run(environment, "tests.core.racer", processes=6, name="job")) == 1
