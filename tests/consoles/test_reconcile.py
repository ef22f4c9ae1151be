"""Telling our connections from ghosts and from other people's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import ConsoleConnection, HostNotConnected, NotSupported, PowerState, TimedOut, VmFacts
from cloudops.inventory import endpoints
from cloudops.inventory.models import Host, Vm
from consoles import connections, reconcile, sessions
from consoles.models import ConsoleSession, ForeignConnection
from tests.conftest import Clock
from tests.consoles.world import World, actor, fresh


class Platform:
    """What a hypervisor has, and what it was asked to drop."""

    def __init__(self) -> None:
        self.found: dict[str, list[ConsoleConnection]] = {}
        self.dropped: list[str] = []
        self.can_drop = True
        self.silent: set[str] = set()
        self.counts: dict[str, int] = {}
        self.error: Exception | None = None

    def connections(self, vm_ref: str) -> list[ConsoleConnection]:
        if self.error is not None:
            raise self.error
        if vm_ref in self.silent:
            raise HostNotConnected("its host does not respond")
        return self.found.get(vm_ref, [])

    def vm(self, vm_ref: str) -> VmFacts:
        return VmFacts(vm_ref, vm_ref, "h", PowerState.RUNNING, 1, 1, console_connections=self.counts.get(vm_ref))

    def vms(self) -> list[VmFacts]:
        return [self.vm(vm_ref) for vm_ref in self.counts]

    def drop_connections(self, vm_ref: str, labels: Sequence[str]) -> list[str]:
        if not self.can_drop:
            raise NotSupported
        self.dropped += labels
        return list(labels)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    made = Platform()
    monkeypatch.setattr(endpoints, "call", lambda endpoint, name, function, timeout=None: function(made))
    return made


def tcp(host: str, port: int) -> ConsoleConnection:
    return ConsoleConnection(f"{host}:{port}", "ipv4", host, port)


def ours(session: ConsoleSession) -> ConsoleConnection:
    row = fresh(session)
    return tcp(row.relay_host, row.relay_port or 0)


def run(world: World, clock: Clock) -> reconcile.Reconciled:
    return reconcile.reconcile_endpoint(endpoint=world.host.endpoint, now=clock.now)


def foreign() -> set[str]:
    return set(ForeignConnection.objects.values_list("label", flat=True))


def test_ours_are_ours_and_others_are_counted(world: World, clock: Clock, platform: Platform) -> None:
    mine = ours(world.connect(clock.now).session)
    platform.found = {"ref-alpha": [mine, tcp("198.51.100.1", 4000)], "ref-beta": [tcp("198.51.100.2", 4001)]}
    result = run(world, clock)
    assert (result.vms, result.foreign, result.ghosts_dropped, result.unreachable) == (2, 2, 0, "")
    assert foreign() == {"198.51.100.1:4000", "198.51.100.2:4001"}
    assert world.in_use(clock.now) == 3


def test_what_is_gone_is_removed(world: World, clock: Clock, platform: Platform) -> None:
    platform.found = {"ref-alpha": [tcp("198.51.100.1", 4000), tcp("198.51.100.1", 4001)]}
    run(world, clock)
    first = ForeignConnection.objects.get(label="198.51.100.1:4000").first_seen_at
    platform.found = {"ref-alpha": [tcp("198.51.100.1", 4000)]}
    clock.advance(300)
    run(world, clock)
    row = ForeignConnection.objects.get()
    assert (row.label, row.first_seen_at, row.last_seen_at) == ("198.51.100.1:4000", first, clock.now)


def test_a_connection_whose_session_is_over_is_dropped(world: World, clock: Clock, platform: Platform) -> None:
    session = world.connect(clock.now).session
    ghost = ours(session)
    platform.found = {"ref-alpha": [ghost]}
    sessions.close(session=session, by=actor(world.tenant), now=clock.now)
    assert run(world, clock).ghosts_dropped == 0, "it may still be closing"
    clock.advance(connections.GHOST_SECONDS + 1)
    assert run(world, clock).ghosts_dropped == 1
    assert platform.dropped == [ghost.label]
    assert foreign() == set()


def test_a_dead_servers_half_open_connection_is_a_ghost(world: World, clock: Clock, platform: Platform) -> None:
    ghost = ours(world.connect(clock.now).session)
    platform.found = {"ref-alpha": [ghost]}
    clock.advance(12 + connections.GHOST_SECONDS + 1)
    assert run(world, clock).ghosts_dropped == 1


def test_a_ghost_that_cannot_be_dropped_is_counted(world: World, clock: Clock, platform: Platform) -> None:
    session = world.connect(clock.now).session
    platform.found = {"ref-alpha": [ours(session)]}
    platform.can_drop = False
    sessions.close(session=session, by=actor(world.tenant), now=clock.now)
    clock.advance(connections.GHOST_SECONDS + 1)
    run(world, clock)
    assert world.in_use(clock.now) == 1


def test_passed_descriptors_are_told_apart_by_number(world: World, clock: Clock, platform: Platform) -> None:
    session = world.connect(clock.now).session
    ConsoleSession.objects.filter(pk=session.pk).update(relay_host="", relay_port=None)
    platform.found = {"ref-alpha": [ConsoleConnection("unix-1", "unix"), ConsoleConnection("unix-2", "unix")]}
    run(world, clock)
    assert foreign() == {"unix-2"}


def test_a_vm_with_a_console_just_coming_is_left_for_later(world: World, clock: Clock, platform: Platform) -> None:
    world.redeem(world.open(clock.now), clock.now)
    platform.found = {"ref-alpha": [tcp("192.0.2.1", 999)]}
    assert run(world, clock).skipped == 1
    assert foreign() == set()


def test_a_host_that_does_not_answer_is_left_as_it_is(world: World, clock: Clock, platform: Platform) -> None:
    platform.found = {"ref-alpha": [tcp("198.51.100.1", 4000)]}
    run(world, clock)
    platform.error = TimedOut("no answer within 5 s")
    result = run(world, clock)
    assert (result.vms, result.skipped, result.unreachable) == (0, 2, "no answer within 5 s")
    assert foreign() == {"198.51.100.1:4000"}


def test_one_host_of_many_that_does_not_answer_costs_only_its_own_vms(
    world: World, clock: Clock, platform: Platform
) -> None:
    other = world.add_host("other")
    Host.objects.filter(pk=other.pk).update(endpoint=world.host.endpoint)
    world.add_vm("gamma", host=other)
    platform.found = {"ref-gamma": [tcp("198.51.100.3", 4000)]}
    platform.silent = {"ref-alpha", "ref-beta"}
    result = run(world, clock)
    assert (result.vms, result.skipped, result.unreachable) == (1, 2, "its host does not respond")
    assert foreign() == {"198.51.100.3:4000"}


def test_stops_within_its_budget(
    world: World, clock: Clock, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "BUDGET_SECONDS", 0.0)
    assert run(world, clock).skipped == 2


def test_a_platform_that_cannot_tell_is_no_failure(world: World, clock: Clock, platform: Platform) -> None:
    platform.error = NotSupported()
    assert run(world, clock).unreachable == ""


def test_a_platform_that_only_counts(world: World, clock: Clock, platform: Platform) -> None:
    """What it counts beyond our open consoles is foreign, one row each."""
    platform.error = NotSupported()
    platform.counts = {"ref-alpha": 3, "ref-beta": 0}
    world.connect(clock.now)
    assert run(world, clock).foreign == 2
    assert foreign() == {"unnamed 1", "unnamed 2"}
    assert world.counts(clock.now)[:2] == (3, 3)
    platform.counts["ref-alpha"] = 2
    assert run(world, clock).foreign == 1
    assert foreign() == {"unnamed 1"}
    world.redeem(world.open(clock.now), clock.now)
    platform.counts["ref-alpha"] = 9
    assert run(world, clock).skipped == 1, "one of ours is just coming, and may be among them already"
    assert foreign() == {"unnamed 1"}


def test_where_the_platform_counts_only_vms_with_connections_are_asked(
    world: World, clock: Clock, platform: Platform
) -> None:
    Vm.objects.update(max_consoles=40, console_connections=7)
    platform.counts = {"ref-alpha": 1, "ref-beta": 0}
    assert run(world, clock).vms == 1
    assert Vm.objects.get(pk=world.vm.pk).console_connections == 0, "as it was told just now"
    platform.found = {"ref-beta": [tcp("198.51.100.1", 4000)]}
    platform.counts = {"ref-alpha": 0, "ref-beta": 1}
    assert run(world, clock).vms == 1
    platform.counts["ref-beta"] = 0
    platform.found = {}
    assert run(world, clock).vms == 1, "it had one, which may be gone"
    assert foreign() == set()


def test_only_what_runs_is_asked(world: World, clock: Clock, platform: Platform) -> None:
    Vm.objects.filter(pk=world.vm.pk).update(power_state="off")
    assert run(world, clock).vms == 1


def test_against_a_simulated_host(world: World, clock: Clock) -> None:
    endpoint = world.host.endpoint
    facts = endpoints.call(endpoint, "vms", lambda driver: driver.vms())
    running = next(vm for vm in facts if vm.power_state == "running")
    Vm.objects.filter(pk=world.vm.pk).update(ref=running.ref)
    display = endpoints.call(endpoint, "console", lambda driver: driver.console(running.ref))
    try:
        result = reconcile.reconcile_vms(
            endpoint=endpoint, vms=[Vm.objects.get(pk=world.vm.pk)], now=clock.now + timedelta(seconds=1)
        )
        assert result.unreachable == ""
        assert world.in_use(clock.now) == result.foreign
    finally:
        import os

        os.close(display.fd)
        registry.forget(str(endpoint.pk))
        simulated.reset(endpoint.uri)
