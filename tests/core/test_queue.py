"""Queueing work while nobody takes it."""

from __future__ import annotations

import time

import pytest
from django.conf import settings
from kombu import Connection
from kombu.exceptions import OperationalError

from cloudops.lab.process import free_port

PATIENCE_SECONDS = 3.0


def test_who_queues_a_task_while_redis_is_away_is_told_so_soon() -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    started = time.monotonic()
    with (
        Connection(away, transport_options=settings.CELERY_BROKER_TRANSPORT_OPTIONS) as broker,
        pytest.raises(OperationalError),
    ):
        broker.default_channel  # noqa: B018 - this connects
    assert time.monotonic() - started < PATIENCE_SECONDS
