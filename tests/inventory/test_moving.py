"""Rows stay calm while VMs move: both hosts are read at every stage, and say what is true for a moment only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.db import connections
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from cloudops.core.errors import Invalid
from cloudops.core.models import Event
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import (
    DiskFacts,
    DiskKind,
    MigrationOptions,
    MigrationState,
    MigrationTarget,
    PowerState,
    Unreachable,
)
from cloudops.inventory import clusters, endpoints, hosts, signals, sync, vms
from cloudops.inventory.models import Cluster, Host, Template, Vm
from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab
from tests.conftest import Clock
from tests.inventory.conftest import Fakes, Heard
from tests.inventory.fake import ADMIN, NOW, FakeHypervisor, host_facts, make_endpoint, vm_facts
from tests.lab.fixtures import guest_image, lab_of_two

__all__ = ["lab_of_two"]

Capture = DjangoCaptureOnCommitCallbacks
FIRST, SECOND = "qemu+tcp://kvm1/system", "qemu+tcp://kvm2/system"


@pytest.fixture
def moving() -> Iterator[set[UUID]]:
    """The VMs of which placement says that they are on their way."""
    on_their_way: set[UUID] = set()

    def tell(*, vm_ids: list[UUID], **_: Any) -> dict[UUID, str]:
        return {vm_id: "kvm2" for vm_id in vm_ids if vm_id in on_their_way}

    signals.vms_moving.connect(tell)
    yield on_their_way
    signals.vms_moving.disconnect(tell)


def where(vm: Vm) -> tuple[str, str, bool]:
    row = Vm.objects.select_related("host").get(pk=vm.pk)
    return row.host.name, row.power_state, row.missing_since is not None


@pytest.mark.django_db
class TestStages:
    @pytest.fixture
    def vm(self, fakes: Fakes) -> Vm:
        fakes[FIRST] = FakeHypervisor(vm_list=[vm_facts(1), vm_facts(2, power_state=PowerState.OFF)])
        fakes[SECOND] = FakeHypervisor(host_list=[host_facts(2, name="kvm2")])
        for uri in (FIRST, SECOND):
            self.read(make_endpoint(uri), NOW)
        return Vm.objects.get(ref="vm-1")

    @staticmethod
    def read(endpoint: Any, now: datetime) -> None:
        Host.objects.filter(endpoint=endpoint, name="kvm1").exclude(endpoint__uri=FIRST).update(ref="host-2")
        sync.sync_endpoint(endpoint, now=now)

    def test_a_source_that_says_paused_off_or_gone_is_not_believed(
        self, vm: Vm, fakes: Fakes, clock: Clock, moving: set[UUID], heard: Heard
    ) -> None:
        moving.add(vm.pk)
        source, _ = list(Host.objects.select_related("endpoint").order_by("endpoint__uri"))
        before = Event.objects.count()
        for state in (PowerState.PAUSED, PowerState.OFF, PowerState.UNKNOWN, None):
            told = [] if state is None else [vm_facts(1, power_state=state)]
            fakes[FIRST].vm_list = [*told, vm_facts(2, power_state=PowerState.OFF)]
            sync.sync_endpoint(source.endpoint, now=clock.advance(1))
            assert where(vm) == ("kvm1", "running", False)
        assert (Event.objects.count(), heard) == (before, {})

    def test_what_its_source_says_while_its_row_moves_is_of_the_source(
        self, vm: Vm, fakes: Fakes, clock: Clock, heard: Heard
    ) -> None:
        """The move ends between two steps of the same reading."""
        source, target = vm.host, Host.objects.get(endpoint__uri=SECOND)

        def arrives(**_: Any) -> None:
            Vm.objects.filter(pk=vm.pk).update(host=target)

        signals.vms_moving.connect(arrives)
        try:
            fakes[FIRST].vm_list = [vm_facts(1, power_state=PowerState.OFF), vm_facts(2, power_state=PowerState.OFF)]
            sync.sync_endpoint(source.endpoint, now=clock.advance(1))
        finally:
            signals.vms_moving.disconnect(arrives)
        assert where(vm) == (target.name, "running", False)
        assert "vm_stopped" not in heard

    def test_what_it_says_counts_once_the_move_has_ended(
        self, vm: Vm, fakes: Fakes, clock: Clock, moving: set[UUID]
    ) -> None:
        moving.add(vm.pk)
        fakes[FIRST].vm_list = []
        sync.sync_endpoint(vm.host.endpoint, now=clock.advance(1))
        assert where(vm) == ("kvm1", "running", False)
        assert where(Vm.objects.get(ref="vm-2"))[2]  # nobody moves that one
        moving.clear()
        sync.sync_endpoint(vm.host.endpoint, now=clock.advance(1))
        assert where(vm) == ("kvm1", "unknown", True)

    def test_a_destination_that_has_it_paused_does_not_get_it_yet(
        self,
        vm: Vm,
        fakes: Fakes,
        clock: Clock,
        moving: set[UUID],
        heard: Heard,
        django_capture_on_commit_callbacks: Capture,
    ) -> None:
        moving.add(vm.pk)
        target = Host.objects.select_related("endpoint").get(endpoint__uri=SECOND)
        fakes[SECOND].vm_list = [vm_facts(1, host=2, power_state=PowerState.PAUSED)]
        sync.sync_endpoint(target.endpoint, now=clock.advance(1))
        assert where(vm)[:2] == ("kvm1", "running")
        fakes[SECOND].vm_list = [vm_facts(1, host=2)]
        fakes[FIRST].vm_list = [vm_facts(1, power_state=PowerState.PAUSED)]  # what a move may leave behind
        with django_capture_on_commit_callbacks(execute=True):
            sync.sync_endpoint(target.endpoint, now=clock.advance(1))
            sync.sync_endpoint(vm.host.endpoint, now=clock.advance(1))
        assert where(vm) == (target.name, "running", False)
        assert [move.vm_id for move in heard.all("vm_moved", "moves")] == [vm.pk]
        assert "vm_stopped" not in heard
        assert Vm.objects.filter(ref="vm-1").count() == 1


@pytest.mark.django_db
class TestFacts:
    def test_what_hosts_and_vms_reach_is_kept(self, fakes: Fakes, clock: Clock) -> None:
        disk = DiskFacts("vda", "/mnt/a.qcow2", DiskKind.SHARED, "netfs:nas:/vms", 0, False)
        fakes[FIRST] = FakeHypervisor(
            host_list=[host_facts(networks=("br0", "lan"), datastores=("netfs:nas:/vms",))],
            vm_list=[vm_facts(1, networks=("lan",), disks=(disk,), cpu_model="EPYC")],
        )
        endpoint = make_endpoint(FIRST)
        sync.sync_endpoint(endpoint, now=clock.now)
        host, vm = Host.objects.get(), Vm.objects.get()
        assert (host.networks, host.datastores) == (["br0", "lan"], ["netfs:nas:/vms"])
        assert (vm.networks, vm.cpu_model) == (["lan"], "EPYC")
        assert vm.disks == [
            {"target": "vda", "source": "/mnt/a.qcow2", "kind": "shared", "datastore": "netfs:nas:/vms",
             "size_mib": 0, "removable": False}
        ]  # fmt: skip
        assert sync.sync_endpoint(endpoint, now=clock.advance(60)).changed == 0
        fakes[FIRST].vm_list = [vm_facts(1, networks=("br0",))]
        assert sync.sync_endpoint(endpoint, now=clock.advance(60)).changed == 1
        assert (Vm.objects.get().networks, Vm.objects.get().disks) == (["br0"], [])

    def test_every_change_of_a_host_is_told_to_placement(
        self, fakes: Fakes, clock: Clock, heard: Heard, django_capture_on_commit_callbacks: Capture
    ) -> None:
        fakes[FIRST] = FakeHypervisor()
        endpoint = make_endpoint(FIRST)
        host = Host.objects.get()

        def told(act: Any) -> bool:
            heard.clear()
            with django_capture_on_commit_callbacks(execute=True):
                act()
            return heard.all("hosts_changed", "host_ids") == [host.pk]

        def reads(**changes: Any) -> Any:
            fakes[FIRST].host_list = [host_facts(**changes)]
            return lambda: sync.sync_endpoint(endpoint, now=clock.advance(10))

        assert told(reads())  # it is up
        assert not told(reads(cpu_percent=99.0, memory_free_mib=5))  # load is no capacity
        for change in ({"memory_mib": 1_024}, {"networks": ("br0",)}, {"datastores": ("san",)}, {"cpu_model": "Xeon"}):
            assert told(reads(**change)), change
        fakes[FIRST].error = Unreachable("gone")
        assert told(lambda: sync.sync_endpoint(endpoint, now=clock.advance(10)))
        fakes[FIRST].error = None
        assert told(reads(cpu_model="Xeon"))
        now = clock.now
        rack = clusters.create(name="Rack 9", by=ADMIN, now=now)
        acts = (
            lambda: hosts.cordon(host, by=ADMIN, now=now),
            lambda: hosts.uncordon(host, by=ADMIN, now=now),
            lambda: hosts.set_tags(host, ["ssd"], by=ADMIN, now=now),
            lambda: hosts.change_host(host, memory_mib_override=2_048, by=ADMIN, now=now),
            lambda: hosts.change_host(host, cluster=rack, by=ADMIN, now=now),
            lambda: hosts.change_host(host, tags=["gpu"], by=ADMIN, now=now),
            lambda: clusters.change(rack, position=7, by=ADMIN, now=now),
        )
        for number, act in enumerate(acts):
            assert told(act), number
        assert not told(lambda: hosts.uncordon(host, by=ADMIN, now=now))  # it was already

    def test_an_added_host_is_told_with_what_the_operator_said(
        self, fakes: Fakes, heard: Heard, django_capture_on_commit_callbacks: Capture
    ) -> None:
        rack = Cluster.objects.create(name="Rack 1")
        with django_capture_on_commit_callbacks(execute=True):
            [host] = hosts.add_host(
                kind="libvirt", uri=FIRST, cluster=rack, migration_uri="qemu+tls://kvm1.lan/system", by=ADMIN, now=NOW
            )
        assert set(heard.all("hosts_changed", "host_ids")) == {host.pk}
        assert endpoints.migration_target(host) == MigrationTarget(
            endpoints.spec_of(host.endpoint), host.ref, "qemu+tls://kvm1.lan/system"
        )

    @pytest.mark.parametrize(
        "uri", ["qemu:///system", "qemu+unix:///system?socket=/x", "http://kvm1", "qemu+tcp:///system"]
    )
    def test_a_migration_uri_that_no_other_host_can_use_is_refused(self, fakes: Fakes, uri: str) -> None:
        make_endpoint(FIRST)
        host = Host.objects.get()
        with pytest.raises(Invalid) as refusal:
            hosts.change_host(host, migration_uri=uri, by=ADMIN, now=NOW)
        assert "migration_uri" in str(refusal.value.numbers)
        assert Host.objects.get().migration_uri == ""

    def test_template_and_pin_are_noted_and_audited(self, fakes: Fakes) -> None:
        fakes[FIRST] = FakeHypervisor(vm_list=[vm_facts(1)])
        sync.sync_endpoint(make_endpoint(FIRST), now=NOW)
        vm, debian = Vm.objects.get(), Template.objects.create(name="debian")
        vms.set_placement(vm, template=debian, pinned=True, by=ADMIN, now=NOW)
        vms.set_placement(vm, pinned=True, by=ADMIN, now=NOW)
        vm.refresh_from_db()
        assert (vm.template, vm.pinned) == (debian, True)
        line = Event.objects.get(kind="vm.placement_set")
        assert line.data == {"changed": {"template": [None, "debian"], "pinned": [False, True]}}
        with pytest.raises(Invalid):
            vms.set_placement(vm, host="elsewhere", by=ADMIN, now=NOW)


@pytest.mark.real
@pytest.mark.timeout(240)
@pytest.mark.django_db(transaction=True)
def test_a_real_guest_moves_and_its_row_follows_once(lab_of_two: Lab, moving: set[UUID], heard: Heard) -> None:
    lab = lab_of_two
    lab.reset()
    lab.boot(GuestSpec("wanderer", guest_image()), on="kvm-01")
    rack = Cluster.objects.create(name="Lab")
    try:
        first, second = (
            hosts.add_host(kind="libvirt", uri=lab.uri(name), cluster=rack, by=ADMIN, now=timezone.now())[0]
            for name in ("kvm-01", "kvm-02")
        )
        vm = Vm.objects.get()
        for source, target in ((first, second), (second, first)):
            moving.add(vm.pk)
            heard.clear()
            seen = _watch_a_move(vm, source, target)
            assert [key for key, _ in itertools.groupby(seen)] == [
                (source.name, "running", False),
                (target.name, "running", False),
            ]
            moving.clear()
            for host in (source, target):
                sync.sync_endpoint(host.endpoint, now=timezone.now())
            assert where(vm) == (target.name, "running", False)
            assert [move.to_host_id for move in heard.all("vm_moved", "moves")] == [target.pk]
            assert "vm_stopped" not in heard
        assert not Event.objects.filter(kind__in=["vm.vanished", "vm.power_changed", "vm.appeared"]).exists()
    finally:
        registry.close_all()
        connections.close_all()


def _watch_a_move(vm: Vm, source: Host, target: Host) -> list[tuple[str, str, bool]]:
    """The row after every reading of either host, from before the move until after it."""
    options = MigrationOptions(bandwidth_mib_per_second=30)
    there = endpoints.migration_target(target)
    endpoints.call(source.endpoint, "migrate", lambda hypervisor: hypervisor.migrate(vm.ref, there, options))
    seen = []
    ended_at: datetime | None = None
    while ended_at is None or (datetime.now(UTC) - ended_at).total_seconds() < 1:
        for host in (source, target):
            sync.sync_endpoint(host.endpoint, now=timezone.now())
            seen.append(where(vm))
        status = endpoints.call(source.endpoint, "migration", lambda hypervisor: hypervisor.migration(vm.ref))
        assert status.state in (MigrationState.RUNNING, MigrationState.COMPLETED), status
        if status.state is MigrationState.COMPLETED and ended_at is None:
            ended_at = datetime.now(UTC)
    return seen
