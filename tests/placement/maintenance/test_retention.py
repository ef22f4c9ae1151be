"""Ended jobs go when audit events of their time do; jobs that are not over never do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from placement.maintenance import jobs
from placement.models import Maintenance
from tests.conftest import Clock

pytestmark = pytest.mark.django_db


def test_only_what_ended_long_ago_goes(clock: Clock) -> None:
    for title, days in (("old", 400), ("young", 3), ("on", 0)):
        then = clock.now - timedelta(days=days or 400)
        Maintenance.objects.create(
            title=title,
            status="completed" if days else "holding",
            requested_by_name="ada",
            created_at=then,
            ended_at=then if days else None,
        )
    assert jobs.purge(now=clock.now) == 1
    assert set(Maintenance.objects.values_list("title", flat=True)) == {"young", "on"}
