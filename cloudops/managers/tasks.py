"""Celery's edge of the management servers."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from cloudops.core.ticks import claim_tick
from cloudops.managers.housekeeping import tidy

INTERVAL_SECONDS = 60.0


@shared_task(name="cloudops.managers.tasks.housekeeping")
def housekeeping() -> None:
    """Once a minute in the whole installation."""
    now = timezone.now()
    if claim_tick("housekeeping", interval_seconds=INTERVAL_SECONDS - 5, now=now):
        tidy(now=now)
