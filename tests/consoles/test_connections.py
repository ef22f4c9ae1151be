"""Whose is a connection: the pure part, and the turns in which names are learned."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from cloudops.hypervisors.port import ConsoleConnection
from consoles import turns
from consoles.connections import NAMED, Newcomer, sort
from consoles.models import ConnectTurn, ConsoleSession, OwnConnection, Status
from tests.conftest import Clock
from tests.consoles.world import World, fresh

US = ("192.0.2.1", 40_000)


ACCOUNT = "cloudops@vsphere.local"


def mks(label: str, client: str = "192.0.2.1", port: int = 0, user: str = "LAB\\carla") -> ConsoleConnection:
    return ConsoleConnection(label, NAMED, client, port, user_name=user)


class TestNewcomer:
    def test_what_shows_our_address_is_ours_at_once(self) -> None:
        seen = [mks("old"), mks("other", "198.51.100.9"), mks("mine")]
        assert Newcomer(frozenset({"old"}), US).look(seen) == "mine"

    def test_our_very_port_tells_among_several(self) -> None:
        seen = [mks("a", *US), mks("b", "192.0.2.1", 40_001)]
        assert Newcomer(frozenset(), US).look(seen) == "a"

    def test_two_that_could_be_ours_are_nobodys(self) -> None:
        looks = Newcomer(frozenset(), US)
        assert [looks.look([mks("a"), mks("b")]) for _ in range(3)] == [None] * 3

    def test_behind_a_proxy_the_only_new_one_is_ours_when_it_stays_the_only_one(self) -> None:
        looks = Newcomer(frozenset({"old"}), US)
        assert looks.look([mks("old")]) is None
        assert looks.look([mks("old"), mks("new", "203.0.113.5")]) is None
        assert looks.look([mks("old"), mks("new", "203.0.113.5")]) == "new"

    def test_a_stranger_who_comes_first_is_not_taken_for_us(self) -> None:
        looks = Newcomer(frozenset(), None)
        assert looks.look([mks("stranger")]) is None
        assert looks.look([mks("stranger"), mks("mine")]) is None
        assert looks.look([mks("stranger"), mks("mine")]) is None


class TestSort:
    def named(self, world: World, clock: Clock, label: str) -> ConsoleSession:
        session = world.connect(clock.now).session
        OwnConnection.objects.create(
            vm=world.vm, label=label, session=session, attachment=session.attachment, learned_at=clock.now
        )
        return fresh(session)

    def sorted(self, world: World, clock: Clock, *found: str | ConsoleConnection) -> tuple[list[str], ...]:
        """Labels of ghosts, foreign ones, and those that are gone."""
        parts = sort(
            [mks(one) if isinstance(one, str) else one for one in found],
            ConsoleSession.objects.filter(vm=world.vm).select_related("process"),
            clock.now,
            own=OwnConnection.objects.select_related("session__process"),
            account=ACCOUNT,
            grace_seconds=2,
        )
        both = [[one.label for one in part] for part in (parts.ghosts, parts.foreign)]
        return (*both, [one.label for one in parts.gone])

    def test_a_name_tells_ours_from_others(self, world: World, clock: Clock) -> None:
        self.named(world, clock, "mine")
        assert self.sorted(world, clock, "mine", "theirs") == ([], ["theirs"], [])
        assert self.sorted(world, clock, "theirs") == ([], ["theirs"], ["mine"])

    def test_one_whose_name_was_not_learned_is_counted_as_ours(self, world: World, clock: Clock) -> None:
        self.named(world, clock, "mine")
        world.connect(clock.now)
        assert self.sorted(world, clock, "mine", "a", "b") == ([], ["b"], [])

    def test_what_is_left_of_consoles_whose_names_nobody_learned_is_known_by_our_server_and_account(
        self, world: World, clock: Clock
    ) -> None:
        session = world.connect(clock.now).session
        left = mks("left", user="VSPHERE.LOCAL\\CloudOps")
        theirs = [mks("desk", "198.51.100.9", user=ACCOUNT), mks("admin"), mks("nobody", user="")]
        assert self.sorted(world, clock, left, *theirs) == ([], ["desk", "admin", "nobody"], [])
        another = mks("another", user=ACCOUNT)
        assert self.sorted(world, clock, left, another)[0] == [], "one of them is the open console's"
        ConsoleSession.objects.filter(pk=session.pk).update(
            status=Status.CLOSED, ended_at=clock.now, closed_reason="user_closed"
        )
        assert self.sorted(world, clock, left, *theirs) == (["left"], ["desk", "admin", "nobody"], [])

    @pytest.mark.parametrize("how", ["closed", "lapsed", "detached", "taken over", "purged"])
    def test_what_is_left_of_a_console_that_is_over_is_a_ghost(self, world: World, clock: Clock, how: str) -> None:
        session = self.named(world, clock, "mine")
        rows = ConsoleSession.objects.filter(pk=session.pk)
        if how == "closed":
            rows.update(status=Status.CLOSED, ended_at=clock.now, closed_reason="user_closed")
            assert self.sorted(world, clock, "mine") == ([], [], []), "its line may still be closing"
            clock.advance(2)
        elif how == "lapsed":
            clock.advance(12)
        elif how == "detached":
            rows.update(status=Status.DETACHED, resume_until=clock.now + timedelta(seconds=60))
        elif how == "taken over":
            rows.update(attachment=session.attachment + 1)
        else:
            rows.delete()
        ghosts, foreign, gone = self.sorted(world, clock, "mine")
        assert (ghosts, foreign, gone) == (["mine"], [], [])

    def test_a_console_that_came_back_has_another_name(self, world: World, clock: Clock) -> None:
        session = self.named(world, clock, "before")
        ConsoleSession.objects.filter(pk=session.pk).update(attachment=session.attachment + 1)
        OwnConnection.objects.create(
            vm=world.vm, label="after", session=session, attachment=session.attachment + 1, learned_at=clock.now
        )
        assert self.sorted(world, clock, "before", "after") == (["before"], [], [])

    def test_a_name_learned_after_the_look_is_not_gone(self, world: World, clock: Clock) -> None:
        self.named(world, clock, "mine")
        OwnConnection.objects.update(learned_at=clock.now + timedelta(seconds=1))
        assert self.sorted(world, clock) == ([], [], [])


class TestTurns:
    def test_one_holder_at_a_time(self, world: World, clock: Clock) -> None:
        first, second = uuid4(), uuid4()
        assert turns.take(vm_id=world.vm.pk, holder=first, now=clock.now)
        assert not turns.take(vm_id=world.vm.pk, holder=second, now=clock.now)
        assert turns.take(vm_id=world.other_vm.pk, holder=second, now=clock.now), "each VM has its own"
        turns.give_back(vm_id=world.vm.pk, holder=second)
        assert not turns.take(vm_id=world.vm.pk, holder=second, now=clock.now), "only who has it gives it back"
        turns.give_back(vm_id=world.vm.pk, holder=first)
        assert turns.take(vm_id=world.vm.pk, holder=second, now=clock.now)

    def test_a_dead_holder_holds_it_up_for_a_while_only(self, world: World, clock: Clock) -> None:
        first, second = uuid4(), uuid4()
        attached = world.connect(clock.now)
        assert turns.take(vm_id=world.vm.pk, holder=first, now=clock.now)
        clock.advance(turns.HELD_SECONDS)
        assert turns.take(vm_id=world.vm.pk, holder=second, now=clock.now)
        assert not turns.note(attached=attached, label="late", holder=first, now=clock.now)
        assert turns.note(attached=attached, label="mine", holder=second, now=clock.now)
        assert list(OwnConnection.objects.values_list("label", "attachment")) == [("mine", attached.session.attachment)]

    def test_a_name_that_is_used_again_is_its_new_owners(self, world: World) -> None:
        now = timezone.now()
        holder = uuid4()
        turns.take(vm_id=world.vm.pk, holder=holder, now=now)
        for _ in range(2):
            attached = world.connect(now)
            assert turns.note(attached=attached, label="mks-1", holder=holder, now=now)
        assert OwnConnection.objects.get().session_id == attached.session.pk
        assert ConnectTurn.objects.count() == 1
