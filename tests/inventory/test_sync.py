"""One endpoint brought in step: what appears, changes, moves, vanishes and fails, at a constant number of queries."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoCaptureOnCommitCallbacks

from cloudops.core.models import Event
from cloudops.hypervisors.port import AuthenticationFailed, Overloaded, PowerState, ScalingFacts, Unreachable
from cloudops.inventory import reconcile_vms, signals, sync
from cloudops.inventory.models import Connection, Endpoint, Host, Vm
from tests.conftest import Clock
from tests.inventory.conftest import Fakes, Heard
from tests.inventory.fake import FakeHypervisor, host_facts, make_endpoint, vm_facts

pytestmark = pytest.mark.django_db
Capture = DjangoCaptureOnCommitCallbacks
URI = "qemu+tcp://kvm1/system"


def kinds(*names: str) -> list[str]:
    return list(Event.objects.filter(kind__in=names).order_by("id").values_list("kind", flat=True))


@pytest.fixture
def endpoint() -> Endpoint:
    return make_endpoint(URI)


def test_the_first_reading_fills_the_inventory_and_is_one_line_in_the_audit(
    endpoint: Endpoint, fakes: Fakes, clock: Clock
) -> None:
    fakes[URI] = FakeHypervisor(
        vm_list=[vm_facts(1, scaling=ScalingFacts(8, 16_384), max_consoles=9), vm_facts(2, power_state=PowerState.OFF)]
    )
    report = sync.sync_endpoint(endpoint, now=clock.now)
    assert (report.reachable, report.hosts, report.vms, report.appeared) == (True, 1, 2, 2)
    host = Host.objects.get()
    assert (host.connection, host.memory_mib, host.cpu_threads, host.synced_at) == ("up", 65_536, 16, clock.now)
    vm = Vm.objects.get(ref="vm-1")
    assert (vm.power_state, vm.max_vcpus, vm.max_memory_mib, vm.max_consoles) == ("running", 8, 16_384, 9)
    assert kinds("vm.discovered", "vm.appeared", "host.up") == ["host.up", "vm.discovered"]


def test_a_second_reading_without_news_writes_no_vm_and_no_event(
    endpoint: Endpoint, fakes: Fakes, clock: Clock, heard: Heard
) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
    sync.sync_endpoint(endpoint, now=clock.now)
    before = Event.objects.count()
    with CaptureQueriesContext(connection) as queries:
        report = sync.sync_endpoint(endpoint, now=clock.advance(60))
    assert (report.changed, report.appeared, Event.objects.count()) == (0, 0, before)
    assert not [q for q in queries.captured_queries if q["sql"].startswith("UPDATE") and "inventory_vm" in q["sql"]]
    assert heard == {}


@pytest.mark.parametrize("what", ["nothing", "power", "vanish"])
def test_queries_do_not_grow_with_vms(fakes: Fakes, clock: Clock, what: str) -> None:
    counts = []
    for index, size in enumerate((10, 200)):
        uri = f"qemu+tcp://size{size}/system"
        endpoint = make_endpoint(uri)
        everything = [vm_facts(number + 1000 * index) for number in range(size)]
        fakes[uri] = FakeHypervisor(vm_list=everything)
        sync.sync_endpoint(endpoint, now=clock.advance(1))
        if what == "power":
            fakes[uri].vm_list = [vm_facts(n + 1000 * index, power_state=PowerState.OFF) for n in range(5)]
            fakes[uri].vm_list += everything[5:]
        elif what == "vanish":
            fakes[uri].vm_list = everything[5:]
        with CaptureQueriesContext(connection) as queries:
            sync.sync_endpoint(endpoint, now=clock.advance(60))
        counts.append(len(queries))
    assert counts[0] == counts[1]
    assert counts[0] <= 12


def test_a_power_change_is_audited_and_a_stop_is_told(
    endpoint: Endpoint, fakes: Fakes, clock: Clock, heard: Heard, django_capture_on_commit_callbacks: Capture
) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1), vm_facts(2)])
    sync.sync_endpoint(endpoint, now=clock.now)
    fakes[URI].set_power("vm-1", PowerState.OFF)
    fakes[URI].set_power("vm-2", PowerState.PAUSED)
    with django_capture_on_commit_callbacks(execute=True):
        sync.sync_endpoint(endpoint, now=clock.advance(1))
    changes = Event.objects.filter(kind="vm.power_changed").order_by("subject_name")
    assert [(e.subject_name, e.from_state, e.to_state) for e in changes] == [
        ("guest1", "running", "off"),
        ("guest2", "running", "paused"),
    ]
    assert heard.all("vm_stopped", "vm_ids") == [Vm.objects.get(ref="vm-1").pk]


def test_an_unreachable_endpoint_says_why_and_knows_nothing_of_power(
    endpoint: Endpoint, fakes: Fakes, clock: Clock, heard: Heard, django_capture_on_commit_callbacks: Capture
) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1), vm_facts(2, power_state=PowerState.OFF)])
    sync.sync_endpoint(endpoint, now=clock.now)
    fakes[URI].error = Unreachable("connection refused")
    with django_capture_on_commit_callbacks(execute=True):
        report = sync.sync_endpoint(endpoint, now=clock.advance(5))
        sync.sync_endpoint(endpoint, now=clock.advance(5))
    host = Host.objects.get()
    assert (report.reachable, report.error) == (False, "hypervisor-unreachable")
    assert (host.connection, host.error_code, host.error_detail) == (
        "unreachable",
        "hypervisor-unreachable",
        "connection refused",
    )
    assert host.error_remedy
    assert host.connection_changed_at == clock.now - timedelta(seconds=5)
    assert set(Vm.objects.values_list("power_state", flat=True)) == {"unknown"}
    assert heard.all("host_lost", "host_ids") == [host.pk]
    assert kinds("host.unreachable", "vm.power_changed") == ["host.unreachable"]

    fakes[URI].error = None
    with django_capture_on_commit_callbacks(execute=True):
        sync.sync_endpoint(endpoint, now=clock.advance(5))
    host.refresh_from_db()
    assert (host.connection, host.error_code, host.error_detail, host.error_remedy) == ("up", "", "", "")
    assert heard.all("host_back", "host_ids") == [host.pk]
    assert sorted(Vm.objects.values_list("power_state", flat=True)) == ["off", "running"]
    assert kinds("vm.power_changed") == []  # to and from "unknown" is no change of the VM's


def test_another_reason_is_kept_without_losing_the_host_again(
    endpoint: Endpoint, fakes: Fakes, clock: Clock, heard: Heard, django_capture_on_commit_callbacks: Capture
) -> None:
    fakes[URI] = FakeHypervisor(error=Unreachable("refused"))
    with django_capture_on_commit_callbacks(execute=True):
        sync.sync_endpoint(endpoint, now=clock.now)
        fakes[URI].error = AuthenticationFailed("wrong password")
        sync.sync_endpoint(endpoint, now=clock.advance(5))
    host = Host.objects.get()
    assert (host.error_code, host.error_detail) == ("hypervisor-authentication", "wrong password")
    assert len(heard.all("host_lost", "host_ids")) == 1


def test_our_own_full_queue_says_nothing_about_the_host(endpoint: Endpoint, fakes: Fakes, clock: Clock) -> None:
    fakes[URI] = FakeHypervisor()
    sync.sync_endpoint(endpoint, now=clock.now)
    fakes[URI].error = Overloaded("20 calls wait")
    assert sync.sync_endpoint(endpoint, now=clock.advance(5)).error == "hypervisor-overloaded"
    assert Host.objects.get().connection == Connection.UP


def test_a_credential_that_cannot_be_decrypted_is_told_on_the_host(
    endpoint: Endpoint, fakes: Fakes, clock: Clock
) -> None:
    fakes[URI] = FakeHypervisor()
    Endpoint.objects.update(secret_encrypted="written with a key that is gone")
    endpoint.refresh_from_db()
    assert sync.sync_endpoint(endpoint, now=clock.now).error == "credential-unreadable"
    assert "CLOUDOPS_ENCRYPTION_KEYS" in Host.objects.get().error_remedy


def test_a_failure_that_is_older_than_a_success_changes_nothing(endpoint: Endpoint, fakes: Fakes, clock: Clock) -> None:
    fakes[URI] = FakeHypervisor()
    earlier = clock.now
    sync.sync_endpoint(endpoint, now=clock.advance(5))
    sync.apply(endpoint, sync.Reading(error=Unreachable("timed out long ago")), now=earlier)
    assert Host.objects.get().connection == Connection.UP


def test_a_reading_that_is_older_than_what_is_written_changes_nothing(
    endpoint: Endpoint, fakes: Fakes, clock: Clock
) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
    sync.sync_endpoint(endpoint, now=clock.now)
    began = clock.advance(10)
    slow = sync.read(endpoint)
    fakes[URI].set_power("vm-1", PowerState.OFF)
    sync.refresh_vm(endpoint, "vm-1", now=clock.advance(1))
    sync.apply(endpoint, slow, now=began)
    assert Vm.objects.get().power_state == PowerState.OFF


def test_a_row_from_a_server_whose_clock_was_wrong_is_not_believed_for_ever(
    endpoint: Endpoint, fakes: Fakes, clock: Clock
) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
    sync.sync_endpoint(endpoint, now=clock.now + timedelta(days=400))
    fakes[URI].set_power("vm-1", PowerState.OFF)
    sync.sync_endpoint(endpoint, now=clock.now)
    assert Vm.objects.get().power_state == PowerState.OFF


def test_a_vm_that_runs_on_another_endpoint_keeps_its_row(
    endpoint: Endpoint, fakes: Fakes, clock: Clock, heard: Heard, django_capture_on_commit_callbacks: Capture
) -> None:
    other_uri = "qemu+tcp://kvm2/system"
    other = make_endpoint(other_uri)
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
    fakes[other_uri] = FakeHypervisor()
    sync.sync_endpoint(endpoint, now=clock.now)
    sync.sync_endpoint(other, now=clock.now)
    vm = Vm.objects.get()
    source = vm.host

    fakes[other_uri].vm_list = [vm_facts(1, power_state=PowerState.PAUSED)]  # it is still coming in
    sync.sync_endpoint(other, now=clock.advance(1))
    vm.refresh_from_db()
    assert (vm.host_id, vm.power_state) == (source.pk, "running")

    fakes[other_uri].vm_list = [vm_facts(1)]
    fakes[URI].set_power("vm-1", PowerState.OFF)  # the source keeps the definition
    with django_capture_on_commit_callbacks(execute=True):
        sync.sync_endpoint(other, now=clock.advance(1))
        sync.sync_endpoint(endpoint, now=clock.advance(1))
    moved = Vm.objects.get()
    assert (moved.pk, moved.host.endpoint_id, moved.power_state, moved.missing_since) == (
        vm.pk,
        other.pk,
        "running",
        None,
    )
    assert heard.all("vm_moved", "moves") == [signals.VmMove(vm.pk, source.pk, moved.host_id)]
    assert heard.all("vm_stopped", "vm_ids") == []
    assert kinds("vm.moved") == ["vm.moved"]


def test_a_vm_moves_between_hosts_of_one_endpoint(fakes: Fakes, clock: Clock) -> None:
    endpoint = make_endpoint(URI, hosts=2)
    fakes[URI] = FakeHypervisor(host_list=[host_facts(1), host_facts(2)], vm_list=[vm_facts(1, host=1)])
    sync.sync_endpoint(endpoint, now=clock.now)
    fakes[URI].vm_list = [vm_facts(1, host=2)]
    assert sync.sync_endpoint(endpoint, now=clock.advance(1)).moved == 1
    assert Vm.objects.get().host.ref == "host-2"


def test_a_vm_that_vanishes_is_missing_then_stopped_then_removed(
    endpoint: Endpoint, fakes: Fakes, clock: Clock, heard: Heard, django_capture_on_commit_callbacks: Capture
) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
    sync.sync_endpoint(endpoint, now=clock.now)
    fakes[URI].vm_list = []
    with django_capture_on_commit_callbacks(execute=True):
        sync.sync_endpoint(endpoint, now=clock.advance(60))
    vm = Vm.objects.get()
    assert (vm.missing_since, vm.power_state) == (clock.now, "unknown")
    assert heard.all("vm_stopped", "vm_ids") == []  # it may be on its way to another host

    with django_capture_on_commit_callbacks(execute=True):
        sync.sync_endpoint(endpoint, now=clock.advance(60))
    assert heard.all("vm_stopped", "vm_ids") == [vm.pk]

    assert sync.sync_endpoint(endpoint, now=clock.advance(reconcile_vms.MISSING_RETENTION_SECONDS)).removed == 1
    assert not Vm.objects.exists()
    assert kinds("vm.vanished", "vm.removed") == ["vm.vanished", "vm.removed"]


def test_a_vanished_vm_that_somebody_needs_stays(endpoint: Endpoint, fakes: Fakes, clock: Clock) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
    sync.sync_endpoint(endpoint, now=clock.now)
    fakes[URI].vm_list = []
    sync.sync_endpoint(endpoint, now=clock.advance(60))

    def needs_all(vm_ids: list[object], **_: object) -> set[object]:
        return set(vm_ids)

    signals.vm_use.connect(needs_all)
    try:
        sync.sync_endpoint(endpoint, now=clock.advance(2 * reconcile_vms.MISSING_RETENTION_SECONDS))
    finally:
        signals.vm_use.disconnect(needs_all)
    assert Vm.objects.exists()


def test_a_vm_that_comes_back_is_the_same_vm(endpoint: Endpoint, fakes: Fakes, clock: Clock) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
    sync.sync_endpoint(endpoint, now=clock.now)
    pk = Vm.objects.get().pk
    fakes[URI].vm_list = []
    sync.sync_endpoint(endpoint, now=clock.advance(60))
    fakes[URI].vm_list = [vm_facts(1)]
    sync.sync_endpoint(endpoint, now=clock.advance(60))
    vm = Vm.objects.get()
    assert (vm.pk, vm.missing_since, vm.power_state) == (pk, None, "running")
    assert kinds("vm.returned") == ["vm.returned"]


def test_hosts_join_their_endpoint_and_those_that_left_are_said_to_be_missing(fakes: Fakes, clock: Clock) -> None:
    endpoint = make_endpoint(URI)
    fakes[URI] = FakeHypervisor(host_list=[host_facts(1), host_facts(2)])
    sync.sync_endpoint(endpoint, now=clock.now)
    fresh = Host.objects.get(ref="host-2")
    assert (fresh.cluster.name, fresh.connection) == ("Rack 1", "up")
    fakes[URI].host_list = [host_facts(2)]
    sync.sync_endpoint(endpoint, now=clock.advance(60))
    gone = Host.objects.get(ref="host-1")
    assert (gone.connection, gone.error_code) == ("unreachable", "host-not-reported")
    assert Host.objects.get(ref="host-2").connection == "up"


def test_one_vm_is_refreshed_alone_and_a_vanished_one_is_missing(
    endpoint: Endpoint, fakes: Fakes, clock: Clock
) -> None:
    fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1), vm_facts(2)])
    sync.sync_endpoint(endpoint, now=clock.now)
    fakes[URI].set_power("vm-1", PowerState.OFF)
    fakes[URI].set_power("vm-2", PowerState.OFF)
    sync.refresh_vm(endpoint, "vm-1", now=clock.advance(1))
    assert list(Vm.objects.order_by("ref").values_list("power_state", flat=True)) == ["off", "running"]
    fakes[URI].vm_list = []
    sync.refresh_vm(endpoint, "vm-1", now=clock.advance(1))
    assert list(Vm.objects.filter(missing_since=None).values_list("ref", flat=True)) == ["vm-2"]
