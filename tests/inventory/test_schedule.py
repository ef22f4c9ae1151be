"""Every endpoint is synchronised once an interval, by itself: a hung one delays nobody."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cloudops.core import runtime
from cloudops.inventory import hosts, schedule, sync, tasks
from cloudops.inventory.models import Endpoint, Host
from tests.conftest import Clock
from tests.inventory.conftest import Fakes
from tests.inventory.fake import ADMIN, FakeHypervisor, make_endpoint

pytestmark = pytest.mark.django_db


def test_each_is_due_once_an_interval_and_an_edited_interval_acts_at_once(clock: Clock) -> None:
    one, two = make_endpoint("qemu+tcp://a/system"), make_endpoint("qemu+tcp://b/system")
    assert set(schedule.claim_due(now=clock.now)) == {one, two}
    assert schedule.claim_due(now=clock.advance(30)) == []
    three = make_endpoint("qemu+tcp://c/system")
    assert schedule.claim_due(now=clock.now) == [three]
    assert set(schedule.claim_due(now=clock.advance(30))) == {one, two}
    runtime.change(by=ADMIN, now=clock.now, inventory_sync_interval_seconds=5)
    assert set(schedule.claim_due(now=clock.advance(5))) == {one, two, three}


def test_asking_costs_the_same_for_any_number_that_is_not_due(clock: Clock) -> None:
    counts = []
    for size in (2, 20):
        for number in range(size):
            make_endpoint(f"qemu+tcp://n{size}-{number}/system")
        schedule.claim_due(now=clock.advance(3600))
        with CaptureQueriesContext(connection) as queries:
            schedule.claim_due(now=clock.advance(1))
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 3


def test_the_beat_synchronises_what_is_due(fakes: Fakes) -> None:
    make_endpoint("qemu+tcp://a/system")
    make_endpoint("qemu+tcp://b/system")
    tasks.sync_due()
    assert set(Host.objects.values_list("connection", flat=True)) == {"up"}


def test_an_endpoint_that_was_removed_meanwhile_is_left_alone(fakes: Fakes) -> None:
    endpoint = make_endpoint("qemu+tcp://a/system")
    hosts.remove_host(endpoint.hosts.get(), by=ADMIN, now=timezone.now())
    tasks.sync_endpoint(str(endpoint.pk))
    assert not Endpoint.objects.exists()


def test_a_hung_endpoint_costs_its_own_timeout_and_delays_no_other(fakes: Fakes) -> None:
    gate = threading.Event()
    hung, well = make_endpoint("qemu+tcp://hung/system"), make_endpoint("qemu+tcp://well/system")
    fakes[hung.uri] = FakeHypervisor(gate=gate)
    started = time.monotonic()
    readings: list[sync.Reading] = []
    threads = [threading.Thread(target=lambda: readings.append(sync.read(hung))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while not fakes[hung.uri].calls:
        time.sleep(0.01)
    asked = time.monotonic()
    assert sync.sync_endpoint(well, now=timezone.now()).reachable
    assert time.monotonic() - asked < 0.5
    for thread in threads:
        thread.join()
    assert [reading.error.code for reading in readings if reading.error] == ["hypervisor-timeout"] * 4
    assert time.monotonic() - started < 2 * hung.timeout_seconds + 3
    gate.set()
