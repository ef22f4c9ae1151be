"""A deadlock's victim is made again, and nothing else is."""

from __future__ import annotations

import pytest
from django.db import OperationalError, transaction

from cloudops.core.deadlocks import TRIES, without_deadlock
from cloudops.core.models import Tick
from tests.placement.world import NOW

pytestmark = [pytest.mark.django_db(transaction=True)]


class Detected(Exception):
    """What psycopg raises."""

    sqlstate = "40P01"


class Step:
    """Writes a row, and is a victim so many times."""

    def __init__(self, victim: int, cause: Exception | None = None) -> None:
        self.victim, self.cause, self.calls = victim, cause or Detected(), 0

    def __call__(self) -> str:
        self.calls += 1
        Tick.objects.create(name="step", last_at=NOW)
        if self.calls <= self.victim:
            raise OperationalError("deadlock detected") from self.cause
        return "done"


def test_made_again_from_its_beginning() -> None:
    step = Step(victim=TRIES - 1)
    assert without_deadlock(step) == "done"
    assert step.calls == TRIES
    assert Tick.objects.filter(name="step").count() == 1


def test_not_for_ever() -> None:
    step = Step(victim=99)
    with pytest.raises(OperationalError):
        without_deadlock(step)
    assert step.calls == TRIES
    assert not Tick.objects.filter(name="step").exists()


def test_other_errors_are_raised_at_once() -> None:
    step = Step(victim=99, cause=ValueError("no connection"))
    with pytest.raises(OperationalError):
        without_deadlock(step)
    assert step.calls == 1


def test_within_another_transaction_there_is_nothing_to_make_again() -> None:
    step = Step(victim=1)
    with pytest.raises(OperationalError), transaction.atomic():
        without_deadlock(step)
    assert step.calls == 1
