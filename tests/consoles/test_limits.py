"""Slots: what counts, what does not, and what somebody is told who meets a limit."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from cloudops.accounts.models import Project, Role
from cloudops.inventory.models import Vm
from consoles import limits, sessions
from consoles.errors import ConsoleLimit
from consoles.limits import Usage
from consoles.models import ConsoleSession, ForeignConnection
from consoles.reasons import ClosedReason
from tests.conftest import Clock
from tests.consoles.world import World, actor, add_user


def foreign(vm: Vm, clock: Clock, label: str) -> ForeignConnection:
    return ForeignConnection.objects.create(
        vm=vm, host=vm.host, label=label, first_seen_at=clock.now, last_seen_at=clock.now
    )


def refused(world: World, clock: Clock, **more: Any) -> ConsoleLimit:
    with pytest.raises(ConsoleLimit) as caught:
        world.open(clock.now, **more)
    return caught.value


class TestCounting:
    def test_tells_busy_idle_pending_and_foreign_apart(self, world: World, clock: Clock) -> None:
        idle = world.connect(clock.now).session
        clock.advance(700)
        world.process = world.add_process(clock.now)
        ConsoleSession.objects.filter(pk=idle.pk).update(process=world.process)
        world.connect(clock.now)
        world.redeem(world.open(clock.now), clock.now)
        world.open(clock.now)
        foreign(world.other_vm, clock, "somebody")
        usage = limits.usage_of_host(world.host, now=clock.now)
        assert usage == Usage("host", 40, active=3, idle=1, pending=1, foreign=1, count_foreign=True)
        assert (usage.in_use, usage.free, usage.level) == (5, 35, "ok")
        assert limits.usage_of_vm(world.vm, now=clock.now).in_use == 4
        assert limits.usage_of_vm(world.other_vm, now=clock.now).in_use == 1
        assert limits.usage_of_user(world.tenant, now=clock.now).in_use == 4
        assert limits.usage_of_host(world.host, now=clock.now, idle_seconds=10_000).idle == 0

    def test_of_many_hosts_takes_four_queries(self, world: World, clock: Clock, django_assert_num_queries: Any) -> None:
        hosts = [world.add_host(f"host-{number}") for number in range(5)]
        world.connect(clock.now)
        foreign(world.vm, clock, "x")
        with django_assert_num_queries(4):
            found = limits.usage_by_host(None, now=clock.now)
        assert {key: usage.in_use for key, usage in found.items()} == {
            world.host.pk: 2,
            **{host.pk: 0 for host in hosts},
        }
        with django_assert_num_queries(4):
            assert set(limits.usage_by_host([hosts[0].pk], now=clock.now)) == {hosts[0].pk}
        with django_assert_num_queries(4):
            assert limits.usage_by_vm([world.vm.pk], now=clock.now)[world.vm.pk].in_use == 2

    def test_a_foreign_connection_not_seen_any_more_stops_counting_by_itself(self, world: World, clock: Clock) -> None:
        foreign(world.vm, clock, "somebody")
        assert world.in_use(clock.advance(899)) == 1
        assert world.in_use(clock.advance(1)) == 0

    def test_foreign_connections_count_only_if_the_setting_says(self, world: World, clock: Clock) -> None:
        world.settings(console_host_limit=1)
        foreign(world.vm, clock, "somebody")
        assert refused(world, clock).numbers["foreign"] == 1
        world.settings(console_count_foreign=False)
        world.open(clock.now)
        usage = limits.usage_of_host(world.host, now=clock.now)
        assert (usage.foreign, usage.in_use) == (1, 1)

    def test_the_platforms_own_limit_counts_foreign_ones_whatever_the_setting_says(
        self, world: World, clock: Clock
    ) -> None:
        """They really take its connections."""
        world.settings(console_count_foreign=False, console_vm_limit=4)
        world.vm.max_consoles = 3
        world.vm.save()
        foreign(world.vm, clock, "somebody")
        world.open(clock.now)
        world.open(clock.now)
        numbers = refused(world, clock).numbers
        assert (numbers["scope"], numbers["limit"], numbers["in_use"], numbers["foreign"]) == ("vm", 3, 3, 1)
        assert numbers["by_platform"]
        assert [one["kind"] for one in numbers["holders"]].count("foreign") == 1  # type: ignore[attr-defined]
        world.vm.max_consoles = 9
        world.vm.save()
        usage = limits.usage_of_vm(world.vm, now=clock.now)
        assert (usage.limit, usage.in_use, usage.by_platform) == (4, 2, False)

    def test_a_dead_process_gives_its_slots_back_without_any_reaper(self, world: World, clock: Clock) -> None:
        for _ in range(3):
            world.connect(clock.now)
        assert world.in_use(clock.advance(11.9)) == 3
        assert world.in_use(clock.advance(0.1)) == 0


class TestLimits:
    def test_the_forty_first_is_refused_with_the_numbers(self, world: World, clock: Clock) -> None:
        for number in range(40):
            vm = world.vm if number % 2 else world.other_vm
            user = world.tenant if number < 20 else world.second
            world.connect(clock.now, vm=vm, user=user)
        error = refused(world, clock)
        assert (error.status, error.code) == (409, "console-limit")
        numbers = error.numbers
        assert (numbers["scope"], numbers["scope_name"]) == ("host", "alpha-host")
        assert (numbers["limit"], numbers["in_use"]) == (40, 40)
        assert "40 of 40 console slots of host alpha-host are taken." in error.detail
        assert world.in_use(clock.now) == 40

    def test_each_scope_has_its_own(self, world: World, clock: Clock) -> None:
        world.settings(console_user_limit=1)
        world.open(clock.now)
        assert refused(world, clock, vm=world.other_vm).scope == "user"
        world.settings(console_vm_limit=1, console_user_limit=9)
        assert refused(world, clock, user=world.second).scope == "vm"
        world.host.console_limit_override = 1
        world.host.save()
        assert refused(world, clock, vm=world.other_vm, user=world.second).scope == "host"

    def test_a_projects_quota_counts_all_its_vms_on_whatever_host(self, world: World, clock: Clock) -> None:
        Project.objects.filter(pk=world.project.pk).update(quota_consoles=2)
        elsewhere = world.add_vm("gamma", host=world.add_host("second-host"))
        outside = world.add_vm("outside", project=None)
        world.open(clock.now)
        world.connect(clock.now, vm=elsewhere, user=world.second)
        foreign(world.vm, clock, "nobody's")
        error = refused(world, clock, vm=world.other_vm, user=world.admin)
        numbers = {name: error.numbers[name] for name in ("scope", "scope_name", "limit", "in_use", "foreign")}
        assert numbers == {"scope": "project", "scope_name": "blue", "limit": 2, "in_use": 2, "foreign": 0}
        assert error.detail == "2 of 2 console slots of project blue are taken."
        assert error.numbers["may_ask_release"] is True
        assert world.open(clock.now, vm=outside, user=world.admin)
        assert limits.in_use_by_project([world.project.pk], now=clock.now) == {world.project.pk: 2}
        sessions.close_many(sessions=ConsoleSession.objects.filter(vm=elsewhere), by=actor(world.admin), now=clock.now)
        assert world.open(clock.now, vm=world.other_vm)

    def test_a_project_without_quota_costs_no_query_and_one_with_it_two(self, world: World, clock: Clock) -> None:
        def queries() -> int:
            with CaptureQueriesContext(connection) as caught, transaction.atomic():
                limits.take(host_id=world.host.pk, vm_id=world.vm.pk, user_id=world.tenant.pk, now=clock.now)
            return len(caught)

        queries()  # reads the settings, which are kept from then on
        without = queries()
        Project.objects.filter(pk=world.project.pk).update(quota_consoles=5)
        assert queries() == without + 2

    def test_a_dropped_console_comes_back_only_within_the_quota(self, world: World, clock: Clock) -> None:
        Project.objects.filter(pk=world.project.pk).update(quota_consoles=1)
        mine = world.connect(clock.now)
        sessions.detach(session=mine.session, reason=ClosedReason.LINE_LOST, by=actor(world.tenant), now=clock.now)
        taken = world.open(clock.now, vm=world.other_vm, user=world.second)
        with pytest.raises(ConsoleLimit) as caught:
            world.resume(mine.resume_secret, clock.now)
        assert caught.value.scope == "project"
        sessions.close(session=taken.session, by=actor(world.second), now=clock.now)
        assert world.resume(mine.resume_secret, clock.now).session.status == "connecting"

    def test_the_platforms_own_limit_of_a_vm_wins_when_lower(self, world: World, clock: Clock) -> None:
        Vm.objects.filter(pk=world.vm.pk).update(max_consoles=1)
        world.open(clock.now)
        assert refused(world, clock).numbers["limit"] == 1
        Vm.objects.filter(pk=world.other_vm.pk).update(max_consoles=99)
        assert limits.usage_of_vm(Vm.objects.get(pk=world.other_vm.pk), now=clock.now).limit == 40

    def test_a_host_may_have_more_than_the_installation(self, world: World, clock: Clock) -> None:
        world.settings(console_host_limit=1)
        world.host.console_limit_override = 2
        world.host.save()
        world.open(clock.now)
        world.open(clock.now)
        assert refused(world, clock).numbers["limit"] == 2


class TestWayOut:
    def test_names_when_a_link_expires(self, world: World, clock: Clock) -> None:
        world.settings(console_host_limit=1)
        world.open(clock.now)
        assert refused(world, Clock(clock.advance(20))).retry_after_seconds == 40

    def test_names_when_the_longest_idle_one_is_disconnected(self, world: World, clock: Clock) -> None:
        world.settings(console_host_limit=1)
        world.connect(clock.now)
        assert refused(world, Clock(clock.advance(10))).retry_after_seconds == 890

    def test_offers_own_consoles_and_other_peoples_idle_ones(self, world: World, clock: Clock) -> None:
        world.settings(console_host_limit=4)
        hidden = world.add_vm("secret", project=None)
        admins = world.connect(clock.now, user=world.admin, vm=hidden).session
        fellows = world.connect(clock.now, user=world.second).session
        clock.advance(100)
        world.process = world.add_process(clock.now)
        ConsoleSession.objects.update(process=world.process)
        world.connect(clock.now, user=world.second)
        mine = world.connect(clock.now).session
        found = refused(world, clock).numbers["idle_candidates"]
        assert isinstance(found, list)
        shown = {item["id"]: item for item in found}
        assert set(shown) == {str(admins.pk), str(fellows.pk), str(mine.pk)}
        assert shown[str(admins.pk)] == {
            "id": str(admins.pk),
            "vm": None,
            "vm_id": None,
            "user": None,
            "idle_seconds": 100,
            "mine": False,
        }
        assert (shown[str(fellows.pk)]["user"], shown[str(fellows.pk)]["vm"]) == ("sam", "alpha")
        assert shown[str(mine.pk)]["mine"] is True
        assert found[-1]["id"] == str(mine.pk)

    def test_fleet_people_see_whose_they_are(self, world: World, clock: Clock) -> None:
        world.settings(console_host_limit=1)
        world.connect(clock.now)
        world.process.lease_until = clock.advance(90)
        operator = add_user("olga", Role.OPERATOR, can_console=True)
        world.process = world.add_process(clock.now)
        ConsoleSession.objects.update(process=world.process)
        candidates = refused(world, clock, user=operator).numbers["idle_candidates"]
        assert isinstance(candidates, list)
        assert [candidate["user"] for candidate in candidates] == ["tessa"]

    def test_disconnecting_one_makes_room(self, world: World, clock: Clock) -> None:
        world.settings(console_host_limit=1)
        session = world.connect(clock.now).session
        refused(world, clock)
        sessions.close(session=session, reason=ClosedReason.DISCONNECTED, by=actor(world.tenant), now=clock.now)
        assert world.open(clock.now)
