"""The chart of open consoles over the day is counted from the sessions' own rows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client

from consoles import history
from consoles.models import ConsoleSession
from tests.conftest import Clock
from tests.pages.installation import Installation, build

pytestmark = pytest.mark.django_db


def _session(of: Installation, host: int, clock: Clock, start_minutes: int, end_minutes: int | None) -> None:
    vm = next(vm for vm in of.vms if vm.host_id == of.hosts[host].pk)
    ended = clock.now - timedelta(minutes=end_minutes) if end_minutes is not None else None
    started = clock.now - timedelta(minutes=start_minutes)
    ConsoleSession.objects.create(
        vm=vm,
        host_id=vm.host_id,
        user=of.tenant,
        status="closed" if ended else "active",
        closed_reason="idle" if ended else "",
        secret_sha256=f"{host}-{start_minutes}-{end_minutes}",
        redeem_by=started,
        created_at=started,
        connected_at=started,
        last_input_at=started,
        ended_at=ended,
        process=of.process,
    )


def test_counts_rise_and_fall(clock: Clock) -> None:
    of = build(clock.now, hosts=2, vms_per_host=1, sessions=0, password="")
    _session(of, 0, clock, 60, 30)
    _session(of, 0, clock, 45, None)
    _session(of, 1, clock, 20, 10)
    _session(of, 1, clock, 26 * 60, 25 * 60)
    chart = history.open_per_host(now=clock.now)
    lines = {line["label"]: line["values"] for line in chart["series"]}
    assert len(chart["x"]) == 24 * 12 + 1
    assert chart["x"][-1] == int(clock.now.timestamp())

    def at(host: str, minutes_ago: int) -> int:
        return int(lines[host][-1 - minutes_ago // 5])

    assert [at("kvm-000", m) for m in (65, 60, 45, 35, 30, 0)] == [0, 1, 2, 2, 1, 1]
    assert [at("kvm-001", m) for m in (25, 20, 15, 10, 0)] == [0, 1, 1, 0, 0]


def test_one_that_began_before_the_day_and_goes_on_is_counted_from_its_start(clock: Clock) -> None:
    of = build(clock.now, hosts=2, vms_per_host=1, sessions=0, password="")
    _session(of, 0, clock, 30 * 60, None)
    [line] = history.open_per_host(now=clock.now)["series"]
    assert set(line["values"]) == {1}


def test_busiest_hosts_have_lines_and_the_rest_is_summed(clock: Clock) -> None:
    of = build(clock.now, hosts=8, vms_per_host=1, sessions=0, password="")
    for host in range(8):
        for extra in range(8 - host):
            _session(of, host, clock, 20 + extra, None)
    chart = history.open_per_host(now=clock.now)
    assert [line["label"] for line in chart["series"]][-1] == "3 other hosts"
    assert chart["series"][-1]["values"][-1] == 3 + 2 + 1
    assert chart["series"][0]["values"][-1] == 8


def test_nothing_yet_is_a_flat_line(clock: Clock, admin: Client) -> None:
    ConsoleSession.objects.all().delete()
    chart = admin.get("/consoles/chart.json").json()
    assert {value for line in chart["series"] for value in line["values"]} == {0}
