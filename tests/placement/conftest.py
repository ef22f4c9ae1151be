"""What tests of one VM's move have in common: two simulated hosts, and who is told of what."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cloudops.hypervisors import registry, simulated
from cloudops.inventory import signals as inventory_signals
from placement import signals as placement_signals
from placement import vm_migrations
from tests.placement.moving import Moving


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moving]:
    """Two hosts, and a queue that nobody serves: the test is the worker."""
    monkeypatch.setattr(vm_migrations, "enqueue", lambda *_, **__: True)
    world = Moving(now=datetime(2030, 1, 15, 12, 0, tzinfo=UTC))
    simulated.set_clock(lambda: world.now.timestamp())
    world.add_host(1)
    world.add_host(2)
    yield world
    simulated.set_clock(None)
    registry.close_all()


@pytest.fixture
def ended() -> Iterator[list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []

    def receive(**what: Any) -> None:
        heard.append(what)

    placement_signals.migration_ended.connect(receive)
    yield heard
    placement_signals.migration_ended.disconnect(receive)


@pytest.fixture
def moved() -> Iterator[list[Any]]:
    heard: list[Any] = []

    def receive(moves: list[Any], **_: Any) -> None:
        heard.extend(moves)

    inventory_signals.vm_moved.connect(receive)
    yield heard
    inventory_signals.vm_moved.disconnect(receive)
