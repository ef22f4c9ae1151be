"""Ask to release: who may ask whom, how often, what the holder sees and what the answer does."""

from __future__ import annotations

from typing import Any

import pytest

from cloudops.accounts.models import Membership, Role
from cloudops.core import live
from cloudops.core.errors import Conflict, Invalid, NotFound
from cloudops.inventory.models import Vm
from consoles import release, sessions
from consoles.errors import ReleaseAlreadyAsked, ReleaseNotAllowed, ReleaseOwn, ReleaseTooOften, SessionEnded
from consoles.models import ConsoleSession, ReleaseRequest, Status
from tests.conftest import Clock
from tests.consoles.world import World, actor, add_user, fresh, kinds_of


def ask(world: World, clock: Clock, session: ConsoleSession, user: Any = None, message: str = "") -> ReleaseRequest:
    asker = user or world.second
    return release.ask(session=session, user=asker, message=message, by=actor(asker), now=clock.now)


class TestAsking:
    def test_reaches_the_holders_console_and_pages(
        self, world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = world.connect(clock.now).session
        sent: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(live, "send", lambda group, message: sent.append((group, message)))
        request = ask(world, clock, session, message=" please ")
        (control,) = [message for group, message in sent if group == f"relay.{world.process.pk}"]
        assert control["message"] == {
            "type": "release-request",
            "id": str(request.pk),
            "from": "sam",
            "message": "please",
        }
        assert f"user:{world.tenant.pk}" in {message.get("topic") for _, message in sent}
        assert list(release.open_requests_for(world.tenant, now=clock.now)) == [request]
        assert list(release.asked_by(world.second, now=clock.now)) == [request]
        assert kinds_of(session)[-1] == "console.release_asked"

    def test_is_for_those_who_could_use_the_slot(self, world: World, clock: Clock) -> None:
        session = world.connect(clock.now).session
        with pytest.raises(ReleaseNotAllowed):
            ask(world, clock, session, world.stranger)
        Membership.objects.filter(user=world.second).update(can_console=False)
        with pytest.raises(ReleaseNotAllowed):
            ask(world, clock, session)
        with pytest.raises(ReleaseNotAllowed):
            ask(world, clock, session, add_user("nobody"))
        with pytest.raises(ReleaseOwn):
            ask(world, clock, session, world.tenant)
        assert ask(world, clock, session, add_user("olga", Role.OPERATOR))
        Vm.objects.filter(pk=world.other_vm.pk).update(project=world.stranger.memberships.get().project)
        assert ask(world, clock, session, world.stranger)

    def test_shows_strangers_no_names(self, world: World, clock: Clock) -> None:
        session = world.connect(clock.now).session
        Vm.objects.filter(pk=world.other_vm.pk).update(project=world.stranger.memberships.get().project)
        request = ask(world, clock, session, world.stranger)
        assert release.shown_asker(request, world.tenant) == "Another user"
        assert release.shown_asker(request, world.admin) == "strange"
        assert release.shown_asker(ask(world, clock, session, world.admin), world.tenant) == "ada"

    def test_needs_a_session_that_holds_a_slot(self, world: World, clock: Clock) -> None:
        session = world.connect(clock.now).session
        sessions.close(session=session, by=actor(world.admin), now=clock.now)
        with pytest.raises(SessionEnded):
            ask(world, clock, session)

    def test_has_limits(self, world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        session = world.connect(clock.now).session
        with pytest.raises(Invalid):
            ask(world, clock, session, message="x" * 201)
        ask(world, clock, session)
        with pytest.raises(ReleaseAlreadyAsked):
            ask(world, clock, session)
        monkeypatch.setattr(release, "ASKS_PER_USER", 2)
        other = world.connect(clock.advance(5)).session
        ask(world, clock, other)
        with pytest.raises(ReleaseTooOften) as refused:
            ask(world, clock, world.connect(clock.now).session)
        assert (refused.value.status, refused.value.numbers["limit"]) == (429, 2)
        assert refused.value.retry_after_seconds == release.WINDOW_SECONDS - 5 + 1

    def test_one_holder_is_not_flooded_by_many(
        self, world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(release, "ASKS_PER_SESSION", 1)
        session = world.connect(clock.now).session
        ask(world, clock, session)
        with pytest.raises(ReleaseTooOften):
            ask(world, clock, session, world.admin)


class TestAnswering:
    def test_released_closes_the_console(self, world: World, clock: Clock) -> None:
        session = world.connect(clock.now).session
        request = ask(world, clock, session)
        answered = release.answer(
            request=request, user=world.tenant, release=True, by=actor(world.tenant), now=clock.now
        )
        assert answered.answer == ReleaseRequest.Answer.RELEASED
        assert fresh(session).status == Status.CLOSED
        assert world.in_use(clock.now) == 0

    def test_kept_leaves_it(self, world: World, clock: Clock) -> None:
        session = world.connect(clock.now).session
        request = ask(world, clock, session)
        release.answer(request=request, user=world.tenant, release=False, by=actor(world.tenant), now=clock.now)
        assert fresh(session).status == Status.ACTIVE
        assert not release.open_requests_for(world.tenant, now=clock.now).exists()
        with pytest.raises(Conflict):
            release.answer(request=request, user=world.tenant, release=True, by=actor(world.tenant), now=clock.now)

    def test_is_the_holders_alone(self, world: World, clock: Clock) -> None:
        request = ask(world, clock, world.connect(clock.now).session)
        for user in (world.second, world.admin, world.stranger):
            with pytest.raises(NotFound):
                release.answer(request=request, user=user, release=True, by=actor(user), now=clock.now)

    def test_comes_by_itself_when_the_console_ends(self, world: World, clock: Clock) -> None:
        session = world.connect(clock.now).session
        request = ask(world, clock, session)
        sessions.close(session=session, by=actor(world.tenant), now=clock.advance(3))
        request.refresh_from_db()
        assert (request.answer, request.answered_at) == (ReleaseRequest.Answer.RELEASED, clock.now)
