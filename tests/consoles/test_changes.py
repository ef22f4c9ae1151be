"""What consoles answer when inventory asks before it removes something."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from cloudops.inventory import signals
from cloudops.inventory.notices import ask
from consoles.models import Status
from consoles.reasons import ClosedReason
from tests.consoles.world import build, fresh

NOW = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)


@pytest.mark.django_db
def test_a_vanished_vm_is_needed_as_long_as_its_console_history_is_kept() -> None:
    world = build(NOW)
    world.open(NOW)
    answers: list[Any] = signals.vm_use.send(None, vm_ids=[world.vm.pk, world.other_vm.pk], now=NOW)
    needed = {pk for _, answer in answers for pk in answer}
    assert needed == {world.vm.pk}


@pytest.mark.django_db
def test_how_full_hosts_are_is_told_to_whoever_asks() -> None:
    world = build(NOW)
    world.settings(console_host_limit=7)
    world.open(NOW)
    empty = world.add_host("empty")
    (answer,) = ask(signals.host_console_load, host_ids=[world.host.pk, empty.pk], now=NOW)
    assert answer == {world.host.pk: (1, 7), empty.pk: (0, 7)}
    (everything,) = ask(signals.host_console_load, host_ids=None, now=NOW)
    assert everything.items() >= answer.items()


@pytest.mark.django_db
def test_how_many_consoles_vms_have_open_is_told_to_whoever_asks() -> None:
    world = build(NOW)
    world.open(NOW)
    world.open(NOW)
    (answer,) = ask(signals.vm_console_load, vm_ids=[world.vm.pk, uuid4()], now=NOW)
    assert answer == {world.vm.pk: 2}


@pytest.mark.django_db
def test_the_consoles_of_a_fenced_host_end_at_once() -> None:
    world = build(NOW)
    session = world.connect(NOW).session
    signals.host_fenced.send(None, host_ids=[world.host.pk], now=NOW)
    assert (fresh(session).status, fresh(session).closed_reason) == (Status.CLOSED, ClosedReason.HOST_LOST)
    assert world.in_use(NOW) == 0
