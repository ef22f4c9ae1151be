"""Hosts that fall silent or lose power in the middle of a drain; see ``tests.faults.drain`` for what must hold."""

from __future__ import annotations

import time

import pytest

from tests.faults.drain import BRIEF_SECONDS, GUESTS, HOME, Drain

pytestmark = [pytest.mark.fault, pytest.mark.e2e, pytest.mark.moves, pytest.mark.timeout(420)]


def test_the_destination_freezes(drain: Drain) -> None:
    drain.lab.freeze(drain.target)
    drain.hurry()
    time.sleep(BRIEF_SECONDS)
    assert drain.lab.hosts[0].running(), "nobody can have arrived on a frozen host"
    drain.lab.thaw(drain.target)


def test_the_destination_stays_frozen_until_its_guests_are_elsewhere(drain: Drain) -> None:
    drain.lab.freeze(drain.target)
    drain.hurry()
    try:
        drain.wait_emptied()
    finally:
        drain.lab.thaw(drain.target)


def test_the_destination_loses_power(drain: Drain) -> None:
    drain.lab.crash(drain.target)
    drain.hurry()
    drain.wait_emptied()
    assert set(drain.lab.running()[drain.target]) == set()
    drain.lab.start_host(drain.target)


def test_the_destination_is_unplugged(drain: Drain) -> None:
    drain.lab.unplug(drain.target)
    drain.hurry()
    time.sleep(BRIEF_SECONDS)
    drain.lab.plug(drain.target)


def test_the_source_is_unplugged(drain: Drain) -> None:
    drain.lab.unplug(HOME)
    drain.hurry()
    drain.wait_silent(HOME)
    assert set(drain.lab.running()[HOME]) == set(GUESTS)
    drain.lab.plug(HOME)
