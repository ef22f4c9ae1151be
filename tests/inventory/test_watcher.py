"""The watcher: shares endpoints by lease, follows events within a second, and never lets one endpoint delay another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import (
    EventKind,
    HypervisorEvent,
    NotSupported,
    PowerAction,
    PowerState,
    Unreachable,
)
from cloudops.inventory import endpoints, hosts, leases, watching
from cloudops.inventory.models import Cluster, Endpoint, Host, Vm
from cloudops.inventory.watcher import Watcher
from tests.conftest import Clock
from tests.inventory.conftest import Fakes, Heard
from tests.inventory.fake import ADMIN, FakeHypervisor, make_endpoint, vm_facts

URI = "qemu+tcp://kvm1/system"


def until(condition: Callable[[], object], *, within_seconds: float = 5.0) -> float:
    """Waits for ``condition``; returns how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - started


class TestLeases:
    pytestmark = pytest.mark.django_db

    def test_watchers_share_and_a_dead_ones_share_is_taken_over(self, clock: Clock) -> None:
        everything = {make_endpoint(f"qemu+tcp://h{number}/system").pk for number in range(6)}

        def hold(name: str, watchers: int) -> set[object]:
            return {endpoint.pk for endpoint in leases.hold(name, watchers=watchers, now=clock.now)}

        assert hold("a", 1) == everything
        clock.advance(1)
        kept = hold("a", 2)
        taken = hold("b", 2)
        assert (len(kept), len(taken)) == (3, 3)
        assert kept | taken == everything
        for _ in range(4):
            clock.advance(1)
            assert hold("a", 2) == kept
        clock.advance(leases.LEASE_SECONDS + leases.GRACE_SECONDS - 4)  # b died four seconds ago, still counted
        assert hold("a", 2) == everything

    def test_a_new_endpoint_goes_to_one_of_them(self, clock: Clock) -> None:
        Endpoint.objects.all().delete()
        endpoint = make_endpoint(URI)
        assert leases.hold("a", watchers=2, now=clock.now) == [endpoint]
        assert leases.hold("b", watchers=2, now=clock.now) == []
        leases.release("a", now=clock.now)
        assert leases.hold("b", watchers=2, now=clock.now) == [endpoint]


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watcher = Watcher("watcher-1", clock=timezone.now)
    yield watcher
    watcher.stop()
    connections.close_all()


@pytest.mark.django_db(transaction=True)
class TestEvents:
    def test_a_power_event_is_in_the_row_within_a_second(self, fakes: Fakes, watcher: Watcher, heard: Heard) -> None:
        make_endpoint(URI)
        fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1), vm_facts(2)])
        watcher.step(watchers=1)
        fakes[URI].tell(HypervisorEvent(EventKind.CONNECTED))
        until(lambda: Vm.objects.count() == 2)
        fakes[URI].calls.clear()
        fakes[URI].set_power("vm-1", PowerState.OFF)
        for _ in range(5):
            fakes[URI].tell(HypervisorEvent(EventKind.VM_CHANGED, vm_ref="vm-1"))
        assert until(lambda: Vm.objects.get(ref="vm-1").power_state == "off") < 1.0
        assert fakes[URI].calls == ["vm"]  # five events, one reading, of that VM alone
        until(lambda: heard.all("vm_stopped", "vm_ids"))

    def test_many_vms_at_once_are_read_in_one_go(self, fakes: Fakes, watcher: Watcher) -> None:
        make_endpoint(URI)
        fakes[URI] = FakeHypervisor(vm_list=[vm_facts(number) for number in range(50)])
        watcher.step(watchers=1)
        for number in range(50):
            fakes[URI].tell(HypervisorEvent(EventKind.VM_CHANGED, vm_ref=f"vm-{number}"))
        until(lambda: Vm.objects.count() == 50)
        assert fakes[URI].calls == ["hosts", "vms"]

    def test_a_lost_host_is_confirmed_before_it_is_told(
        self, fakes: Fakes, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watching, "CONFIRM_SECONDS", 0.3)
        make_endpoint(URI)
        fakes[URI] = FakeHypervisor()
        watcher.step(watchers=1)
        fakes[URI].tell(HypervisorEvent(EventKind.CONNECTED))
        until(lambda: Host.objects.get().connection == "up")
        fakes[URI].tell(HypervisorEvent(EventKind.DISCONNECTED, detail="restarted"))
        time.sleep(0.6)
        assert Host.objects.get().connection == "up"  # it answers: nothing was lost
        fakes[URI].error = Unreachable("refused")
        fakes[URI].tell(HypervisorEvent(EventKind.DISCONNECTED))
        until(lambda: Host.objects.get().connection == "unreachable", within_seconds=2)
        fakes[URI].error = None
        fakes[URI].tell(HypervisorEvent(EventKind.CONNECTED))
        assert until(lambda: Host.objects.get().connection == "up") < 1.0

    def test_a_host_that_failed_is_read_again_without_any_event(
        self, fakes: Fakes, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watching, "RETRY_SECONDS", 0.1)
        make_endpoint(URI)
        fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
        watcher.step(watchers=1)
        fakes[URI].error = Unreachable("frozen for a moment")
        fakes[URI].tell(HypervisorEvent(EventKind.VM_CHANGED, vm_ref="vm-1"))
        until(lambda: Host.objects.get().connection == "unreachable")
        fakes[URI].error = None
        until(lambda: Host.objects.get().connection == "up", within_seconds=3)
        calls = len(fakes[URI].calls)
        time.sleep(0.5)
        assert len(fakes[URI].calls) == calls  # and then it is left in peace

    def test_console_events_are_passed_on(self, fakes: Fakes, watcher: Watcher, heard: Heard) -> None:
        make_endpoint(URI)
        fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
        watcher.step(watchers=1)
        fakes[URI].tell(HypervisorEvent(EventKind.CONNECTED))
        until(lambda: Vm.objects.count() == 1)
        fakes[URI].tell(HypervisorEvent(EventKind.CONSOLE_CHANGED, vm_ref="vm-1"))
        until(lambda: heard.all("vm_console_changed", "vm_ids") == [Vm.objects.get().pk])

    def test_a_hung_endpoint_delays_no_other(self, fakes: Fakes, watcher: Watcher) -> None:
        gate = threading.Event()
        for number in range(8):
            make_endpoint(f"qemu+tcp://hung{number}/system")
            fakes[f"qemu+tcp://hung{number}/system"] = FakeHypervisor(gate=gate)
        make_endpoint(URI)
        fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
        watcher.step(watchers=1)
        for fake in fakes.values():
            fake.tell(HypervisorEvent(EventKind.CONNECTED))
        assert until(lambda: Vm.objects.exists()) < 1.0
        gate.set()

    def test_a_driver_that_is_not_there_is_told_on_the_host(self, fakes: Fakes, watcher: Watcher) -> None:
        make_endpoint(URI)
        fakes[URI] = FakeHypervisor(error=NotSupported("the SDK is not installed"))
        watcher.step(watchers=1)
        until(lambda: Host.objects.get().error_code == "not-supported")

    def test_changed_details_and_removed_endpoints_end_the_old_subscription(
        self, fakes: Fakes, watcher: Watcher
    ) -> None:
        endpoint = make_endpoint(URI)
        watcher.step(watchers=1)
        assert len(fakes[URI].sinks) == 1
        moved = "qemu+tcp://kvm1-new/system"
        Endpoint.objects.filter(pk=endpoint.pk).update(uri=moved)
        watcher.step(watchers=1)
        assert (fakes[URI].sinks, len(fakes[moved].sinks)) == ([], 1)
        hosts.remove_host(Host.objects.get(), by=ADMIN, now=timezone.now())
        watcher.step(watchers=1)
        assert fakes[moved].sinks == []
        assert watcher.watched == frozenset()

    def test_it_gives_its_endpoints_up_when_it_stops(self, fakes: Fakes) -> None:
        endpoint = make_endpoint(URI)
        watcher = Watcher("watcher-2", clock=timezone.now)
        watcher.step(watchers=1)
        endpoint.refresh_from_db()
        assert endpoint.watched_by == "watcher-2"
        assert endpoint.watch_until is not None
        assert endpoint.watch_until > timezone.now() + timedelta(seconds=1)
        watcher.stop()
        endpoint.refresh_from_db()
        assert endpoint.watched_by == ""
        assert fakes[URI].sinks == []


@pytest.mark.django_db(transaction=True)
def test_a_simulated_host_is_followed_through_power_and_outage(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "CONFIRM_SECONDS", 0.2)
    uri = "simulated://watched?hosts=1&vms=3"
    simulated.reset(uri)
    rows = hosts.add_host(
        kind="simulated", uri=uri, cluster=Cluster.objects.create(name="c"), by=ADMIN, now=timezone.now()
    )
    vm = Vm.objects.filter(power_state="running").select_related("host__endpoint").first()
    assert vm is not None
    ref = vm.ref
    watcher.step(watchers=1)
    endpoints.call(rows[0].endpoint, "power", lambda hypervisor: hypervisor.power(ref, PowerAction.STOP))
    assert until(lambda: Vm.objects.get(ref=ref).power_state == "off") < 1.0
    simulated.set_faults(uri, simulated.Faults(unreachable=True))
    until(lambda: Host.objects.get().connection == "unreachable")
    simulated.set_faults(uri, simulated.Faults())
    until(lambda: Host.objects.get().connection == "up")
    assert Vm.objects.get(ref=ref).power_state == "off"
    registry.close_all()
