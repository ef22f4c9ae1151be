"""Interval jobs: one fast beat asks often, one worker in the whole installation runs each job once an interval."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction

from cloudops.core.models import Tick


def claim_tick(name: str, *, interval_seconds: float, now: datetime) -> bool:
    """True for exactly one caller per interval. A changed interval acts at the next call."""
    due = now - timedelta(seconds=interval_seconds)
    if Tick.objects.filter(name=name, last_at__lte=due).update(last_at=now) == 1:
        return True
    if Tick.objects.filter(name=name).exists():
        return False
    try:
        with transaction.atomic():
            Tick.objects.create(name=name, last_at=now)
    except IntegrityError:
        return False
    return True
