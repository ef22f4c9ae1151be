"""An installation whose time stands still until a worker waits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from cloudops.hypervisors import registry, simulated
from placement import mirror, vm_migrations
from scaling import resizes
from tests.scaling.world import Scaling


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scaling]:
    """Nobody serves the queues."""
    monkeypatch.setattr(vm_migrations, "enqueue", lambda *_, **__: True)
    monkeypatch.setattr(resizes, "enqueue", lambda *_, **__: True)
    world = Scaling(now=datetime(2030, 1, 15, 12, 0, tzinfo=UTC))
    simulated.set_clock(lambda: world.now.timestamp())
    yield world
    simulated.set_clock(None)
    registry.close_all()
    mirror.forget()
