"""What consoles answer when inventory asks before it removes something."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cloudops.inventory import signals
from tests.consoles.world import build

NOW = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)


@pytest.mark.django_db
def test_a_vanished_vm_is_needed_as_long_as_its_console_history_is_kept() -> None:
    world = build(NOW)
    world.open(NOW)
    answers = signals.vm_use.send(None, vm_ids=[world.vm.pk, world.other_vm.pk], now=NOW)
    needed: list[Any] = [answer for _, answer in answers]
    assert needed == [{world.vm.pk}]
