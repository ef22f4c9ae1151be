"""What grows is cut back, once a minute in the whole installation."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.contrib.sessions.models import Session
from django.db import DatabaseError

from cloudops.accounts.models import Project
from cloudops.core import events, operations, runtime
from cloudops.core.actors import system
from cloudops.core.models import Event, IdempotencyKey, Operation, Tick
from cloudops.managers import housekeeping, processes, tasks
from cloudops.managers.models import ServerProcess
from tests.conftest import Clock

pytestmark = pytest.mark.django_db
BY = system("test")


def fill(now: datetime) -> None:
    """One old and one young thing of every kind, seen from ``now``."""
    for age in (timedelta(days=400), timedelta(seconds=1)):
        then = now - age
        events.record("test.done", by=BY, now=then)
        IdempotencyKey.objects.create(actor="a", key=str(age), fingerprint="f", created_at=then)
        Session.objects.create(session_key=str(age.days), session_data="", expire_date=then + timedelta(hours=12))
        processes.register(role="web", server_name="s", pid=1, version="1", now=then)
        Tick.objects.create(name=f"t{age.days}", last_at=then)
        project = Project.objects.create(name=f"p{age.days}")
        done = operations.start(kind="test", title="Done", subject=project, steps=[], by=BY, now=then)
        operations.begin(done, by=BY, now=then)
        operations.succeed(done, by=BY, now=then)
        Event.objects.exclude(kind="test.done").delete()


def test_what_is_old_goes_and_what_is_young_stays(clock: Clock) -> None:
    fill(clock.now)
    assert housekeeping.tidy(now=clock.now) == {
        "stale_operations": 0,
        "audit_events": 1,
        "ended_operations": 1,
        "stored_answers": 1,
        "web_sessions": 1,
        "processes": 1,
        "ticks": 1,
    }
    for model in (Event, IdempotencyKey, Operation, Session, ServerProcess, Tick):
        assert model._default_manager.count() == 1
    assert set(housekeeping.tidy(now=clock.now).values()) == {0}


def test_the_audits_retention_is_the_settings(clock: Clock) -> None:
    events.record("test.done", by=BY, now=clock.now - timedelta(days=3))
    assert housekeeping.purge_audit(now=clock.now) == 0
    runtime.change(by=BY, now=clock.now, audit_retention_days=2)
    assert housekeeping.purge_audit(now=clock.now) == 1


def test_one_run_takes_a_batch(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 3)
    for _ in range(5):
        events.record("test.done", by=BY, now=clock.now - timedelta(days=400))
    assert [housekeeping.purge_audit(now=clock.now) for _ in range(3)] == [3, 2, 0]


def test_operations_whose_worker_went_silent_are_failed_and_say_so(clock: Clock) -> None:
    project = Project.objects.create(name="p")
    operation = operations.start(kind="x", title="X", subject=project, steps=["a"], by=BY, now=clock.now)
    operations.begin(operation, by=BY, now=clock.now)
    assert housekeeping.tidy(now=clock.advance(operations.STALE_SECONDS - 1))["stale_operations"] == 0
    assert housekeeping.tidy(now=clock.advance(2))["stale_operations"] == 1
    failed = Operation.objects.get()
    assert (failed.status, failed.error_code) == ("failed", "worker-lost")
    assert failed.error_remedy


def test_a_part_that_fails_stops_no_other(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> int:
        raise DatabaseError("no")

    monkeypatch.setattr(housekeeping, "purge_audit", fail)
    fill(clock.now)
    done = housekeeping.tidy(now=clock.now)
    assert "audit_events" not in done
    assert done["ticks"] == 1


def test_one_worker_does_it_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[datetime] = []
    monkeypatch.setattr(tasks, "tidy", lambda *, now: runs.append(now))
    tasks.housekeeping()
    tasks.housekeeping()
    assert len(runs) == 1
