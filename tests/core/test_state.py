"""State changes: every pair of states, legal or not, and what happens when two want one at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import IntegrityError, models, transaction

from cloudops.accounts.models import Project
from cloudops.core import operations
from cloudops.core.actors import Actor, ActorKind, system
from cloudops.core.errors import IllegalTransition, TransitionConflict
from cloudops.core.models import Event, Operation
from cloudops.core.state import transition
from cloudops.inventory.models import Cluster, Endpoint, Host, Vm
from consoles.models import ConsoleSession
from tests.conftest import Clock

pytestmark = pytest.mark.django_db
BY = Actor(ActorKind.USER, "alice", user_id=7, address="192.0.2.1", request_id="r-1")


def an_operation(status: str, clock: Clock) -> models.Model:
    return Operation.objects.create(
        kind="x", status=status, title="X", subject_type="t", subject_id="1", created_at=clock.now
    )


def a_session(status: str, clock: Clock) -> models.Model:
    user = get_user_model().objects.create_user("u")
    endpoint = Endpoint.objects.create(kind="simulated", uri="simulated://x")
    host = Host.objects.create(endpoint=endpoint, cluster=Cluster.objects.create(name="c"), ref="h", name="h")
    ended: dict[str, Any] = {"ended_at": clock.now, "closed_reason": "idle"} if status == "closed" else {}
    return ConsoleSession.objects.create(
        vm=Vm.objects.create(host=host, ref="v", name="v"),
        host=host,
        user=user,
        status=status,
        secret_sha256="s",
        redeem_by=clock.now + timedelta(minutes=1),
        created_at=clock.now,
        **ended,
    )


MACHINES: dict[type[Operation] | type[ConsoleSession], Callable[[str, Clock], models.Model]] = {
    Operation: an_operation,
    ConsoleSession: a_session,
}
PAIRS = [
    pytest.param(model, old, new, id=f"{model.__name__}-{old}-{new}")
    for model in MACHINES
    for old, new in itertools.product(model.TRANSITIONS, repeat=2)
]


@pytest.mark.parametrize(("model", "old", "new"), PAIRS)
def test_the_table_is_the_law(model: type[Operation] | type[ConsoleSession], old: str, new: str, clock: Clock) -> None:
    row = MACHINES[model](old, clock)
    fields: dict[str, Any] = {"ended_at": clock.now, "closed_reason": "idle"} if new == "closed" else {}
    if new in model.TRANSITIONS[old]:
        transition(row, to=new, by=BY, now=clock.now, reason="because", **fields)
        event = Event.objects.get()
        assert (event.from_state, event.to_state, event.reason) == (old, new, "because")
        assert (event.actor_name, event.actor_user_id, event.address, event.request_id) == (
            "alice",
            7,
            "192.0.2.1",
            "r-1",
        )
    else:
        with pytest.raises(IllegalTransition) as refusal:
            transition(row, to=new, by=BY, now=clock.now, **fields)
        assert refusal.value.numbers == {"current": old, "to": new}
        assert not Event.objects.exists()
    row.refresh_from_db()
    assert getattr(row, "status") == (new if new in model.TRANSITIONS[old] else old)  # noqa: B009 - of either model


@pytest.mark.parametrize("model", MACHINES)
def test_every_state_is_known_to_the_table_and_to_the_database(
    model: type[Operation] | type[ConsoleSession], clock: Clock
) -> None:
    choices = {value for value, _ in model._meta.get_field("status").choices or ()}
    table: dict[str, set[str]] = model.TRANSITIONS
    assert set(table) == choices
    assert set().union(*table.values()) <= choices
    row = MACHINES[model]("pending", clock)
    with pytest.raises(IntegrityError), transaction.atomic():
        model._default_manager.filter(pk=row.pk).update(status="nonsense")


def test_who_comes_second_changes_nothing(clock: Clock) -> None:
    first = an_operation("pending", clock)
    second = Operation.objects.get(pk=first.pk)
    transition(first, to="running", by=BY, now=clock.now, started_at=clock.now)
    with pytest.raises(TransitionConflict):
        transition(second, to="running", by=BY, now=clock.now, started_at=clock.advance(9))
    assert second.status == "pending"  # the object keeps what it was read with
    second.refresh_from_db()
    assert second.started_at != clock.now
    assert Event.objects.count() == 1


def test_a_condition_narrows_the_compare(clock: Clock) -> None:
    row = an_operation("running", clock)
    with pytest.raises(TransitionConflict):
        transition(row, to="succeeded", by=BY, now=clock.now, where=models.Q(kind="y"))
    transition(row, to="succeeded", by=BY, now=clock.now, where=models.Q(kind="x"), progress_percent=100)
    assert Operation.objects.get().progress_percent == 100


def test_an_event_exists_exactly_if_the_change_does(clock: Clock) -> None:
    row = an_operation("pending", clock)

    @transaction.atomic
    def change_and_fail() -> None:
        transition(row, to="running", by=BY, now=clock.now)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert not Event.objects.exists()
    assert Operation.objects.get().status == "pending"


class TestOperations:
    def start(self, clock: Clock, name: str = "p") -> Operation:
        project, _ = Project.objects.get_or_create(name=name)
        return operations.start(kind="x", title="X", subject=project, steps=["a", "b"], by=BY, now=clock.now)

    def test_its_whole_life(self, clock: Clock) -> None:
        operation = self.start(clock)
        assert operation.project_id == Project.objects.get().pk
        operations.begin(operation, by=BY, now=clock.now)
        operations.step(operation, 0, "done", now=clock.advance(1), detail="went well")
        operation.refresh_from_db()
        assert (operation.progress_percent, operation.heartbeat_at) == (50, clock.now)
        assert operation.steps[0] == {"name": "a", "status": "done", "detail": "went well", "at": clock.now.isoformat()}
        operations.succeed(operation, by=BY, now=clock.now, result={"n": 1})
        operation.refresh_from_db()
        assert (operation.status, operation.progress_percent, operation.result) == ("succeeded", 100, {"n": 1})

    def test_one_at_a_time_for_each_subject(self, clock: Clock) -> None:
        first = self.start(clock)
        with pytest.raises(operations.OperationRunning) as refusal:
            self.start(clock)
        assert refusal.value.numbers == {"operation": str(first.pk)}
        self.start(clock, name="another")
        operations.fail(first, by=BY, now=clock.now, code="c", detail="d", remedy="r")
        self.start(clock)
        assert Operation.objects.filter(status="pending").count() == 2

    def test_silent_ones_are_failed_and_lively_ones_are_not(self, clock: Clock) -> None:
        running, waiting, lively = (self.start(clock, name) for name in "abc")
        operations.begin(running, by=BY, now=clock.now)
        operations.begin(lively, by=BY, now=clock.now)
        clock.advance(operations.STALE_SECONDS)
        operations.step(lively, 0, "running", now=clock.now)
        assert operations.fail_stale(now=clock.advance(1)) == 2
        assert {o.status for o in Operation.objects.filter(pk__in=[running.pk, waiting.pk])} == {"failed"}
        assert Operation.objects.get(pk=lively.pk).status == "running"
        assert Event.objects.filter(kind="operation.failed", actor_name=system("reaper").name).count() == 2
