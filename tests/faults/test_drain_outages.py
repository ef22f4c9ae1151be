"""Programs that are killed, and CloudOps cut off, in the middle of a drain; see ``tests.faults.drain`` for what must
hold."""

from __future__ import annotations

import time

import pytest

from cloudops.lab.lab import wait_moved
from tests.faults.drain import HOME, Drain, under_way

pytestmark = [pytest.mark.fault, pytest.mark.e2e, pytest.mark.moves, pytest.mark.timeout(420)]


def test_libvirtd_is_killed_at_the_source(drain: Drain) -> None:
    drain.lab.kill_libvirtd(HOME)
    drain.hurry()


def test_libvirtd_is_killed_at_the_destination(drain: Drain) -> None:
    drain.lab.kill_libvirtd(drain.target)
    drain.hurry()


def test_the_workers_are_killed(drain: Drain) -> None:
    """The hosts go on by themselves meanwhile; who comes next looks where everybody is."""
    for name in ("migrations", "worker"):
        drain.fleet.product.kill(name)
    drain.hurry()
    time.sleep(3)
    drain.fleet.product.start_worker()
    drain.fleet.product.start_migrations()


def test_the_web_server_is_killed(drain: Drain) -> None:
    product = drain.fleet.product
    product.kill("web")
    drain.hurry()
    try:
        drain.wait_emptied()
    finally:
        product.start_web("web", product.port)


def test_cloudops_is_cut_off_from_all_hosts(drain: Drain) -> None:
    """What moves arrives without us; afterwards CloudOps sees where everybody is, and goes on."""
    moving = under_way(drain.fleet)
    drain.lab.unplug("uplink")
    drain.wait_silent(*drain.fleet.hosts)
    drain.hurry()
    assert moving
    for name, target in moving.items():
        wait_moved(drain.lab, name, to=target, timeout_seconds=60)
    drain.lab.plug("uplink")
