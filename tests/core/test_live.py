"""Live updates leave after commit, once, from a thread that holds nobody up and lets the process end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from cloudops.core import live

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.django_db(transaction=True)


class Layer:
    """Stands for the channel layer."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.seconds = 0.0
        self.fails = False

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(self.seconds)
        if self.fails:
            raise ConnectionError("redis is away")
        self.sent.append((group, message))


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    layer = Layer()
    monkeypatch.setattr(live, "get_channel_layer", lambda: layer)
    return layer


def test_it_leaves_after_commit_and_not_at_all_without_one(layer: Layer) -> None:
    with transaction.atomic():
        live.publish("hosts", "host:1", "hosts")
        assert live.flush()
        assert layer.sent == []
    assert live.flush()
    assert layer.sent == [
        ("live.hosts", {"type": "live.changed", "topic": "hosts"}),
        ("live.host.1", {"type": "live.changed", "topic": "host:1"}),
    ]
    with pytest.raises(ZeroDivisionError):
        _publish_and_fail()
    assert live.flush()
    assert len(layer.sent) == 2


@transaction.atomic
def _publish_and_fail() -> None:
    live.publish("vms")
    raise ZeroDivisionError


def test_what_waits_together_is_sent_once_and_nobody_is_held_up(layer: Layer) -> None:
    layer.seconds = 0.2
    started = time.monotonic()
    for _ in range(200):
        live.publish("hosts")
        live.send("process.1", {"type": "close", "session": "1"})
    assert time.monotonic() - started < 0.2
    assert live.flush()
    assert 2 <= len(layer.sent) <= 4
    assert ("process.1", {"type": "close", "session": "1"}) in layer.sent


def test_a_layer_that_fails_is_survived(layer: Layer) -> None:
    layer.fails = True
    live.publish("hosts")
    assert live.flush()
    layer.fails = False
    live.publish("vms")
    assert live.flush()
    assert [group for group, _ in layer.sent] == ["live.vms"]


def test_a_layer_that_hangs_costs_its_deadline(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SEND_SECONDS", 0.1)
    layer.seconds = 30
    live.publish("hosts")
    assert live.flush(2)
    assert layer.sent == []


def test_a_full_outbox_drops_instead_of_growing(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_WAITING", 3)
    layer.seconds = 0.3
    for number in range(20):
        live.publish(f"host:{number}")
    assert live.flush(10)
    assert 3 <= len(layer.sent) <= 6


@pytest.mark.real
def test_a_process_that_sent_something_ends(
    redis_url: str, tmp_path: Path, product_env: Callable[..., dict[str, str]]
) -> None:
    environment = product_env(database_url=f"sqlite:///{tmp_path}/x.sqlite3", redis_url=redis_url)
    script = "import django; django.setup(); from cloudops.core import live; live.publish('hosts'); print(live.flush())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "True"
