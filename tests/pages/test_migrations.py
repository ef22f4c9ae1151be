"""Moving VMs, fencing hosts and what pages tell of it, as people use them. Nothing is executed: no worker runs here."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.core.models import Event
from cloudops.hypervisors.port import Kind, PowerState
from cloudops.inventory.models import Connection, Endpoint, Host, Vm
from placement import capacity, maintenance, versions
from placement.models import Claim, HostCapacity, VmMigration
from tests.pages.conftest import As
from tests.pages.installation import Installation

pytestmark = pytest.mark.django_db

HOW = {"bandwidth_mib_per_second": "77", "downtime_milliseconds": "250", "timeout_seconds": "900"}


@pytest.fixture
def fleet(installation: Installation) -> Installation:
    """Every host is up, of one kind, and takes any VM."""
    Endpoint.objects.update(kind=Kind.SIMULATED)
    Host.objects.update(connection=Connection.UP, schedulable=True)
    Vm.objects.update(template=None)
    installation.group.delete()
    capacity.refresh(now=timezone.now())
    return installation


def _running(installation: Installation) -> Vm:
    """A running VM of the tenant's that nothing is at work on."""
    busy = VmMigration.objects.filter(ended_at=None).values("vm")
    return Vm.objects.filter(power_state=PowerState.RUNNING, project=installation.project).exclude(pk__in=busy)[0]


def _room(memory_mib: int, *hosts: Host) -> None:
    """These hosts may promise so much memory, and schedulers hear of it."""
    rows = HostCapacity.objects.filter(pk__in=[host.pk for host in hosts])
    rows.update(memory_capacity_mib=memory_mib, version=versions.Now())


def _page(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200, address
    return unescape(response.content.decode())


def _disabled(page: str, label: str) -> bool:
    """Whether the button with this label says why it does nothing."""
    found = re.search(rf"<(?:button|a)[^>]*>(?:<svg.*?</svg>)?{re.escape(label)}</", page, re.S)
    assert found, label
    return 'aria-disabled="true"' in found.group(0)


class TestMigrate:
    def test_hosts_that_fit_come_first_and_the_others_say_why_not(self, fleet: Installation, admin: Client) -> None:
        vm = _running(fleet)
        full = next(host for host in fleet.hosts if host.pk != vm.host_id)
        _room(1, full)
        page = _page(admin, f"/vms/{vm.pk}/migrate/")
        fits, others = page.split("Hosts that do not")
        assert f'id="to-{full.pk}"' not in fits
        assert full.name in others
        assert "MiB free" in others
        assert f'id="to-{vm.host_id}"' not in fits

    def test_it_moves_to_the_chosen_host_as_was_said(self, fleet: Installation, admin: Client) -> None:
        vm = _running(fleet)
        target = [host for host in fleet.hosts if host.pk != vm.host_id][-1]
        answer = admin.post(f"/vms/{vm.pk}/migrate/", {**HOW, "to": str(target.pk), "post_copy": "on"})
        assert answer.headers["Location"] == f"/vms/{vm.pk}/"
        row = VmMigration.objects.get(vm=vm, ended_at=None)
        assert row.target == target
        assert row.options["bandwidth_mib_per_second"] == 77
        assert (row.options["post_copy"], row.options["auto_converge"]) == (True, False)

    def test_a_refusal_keeps_what_was_typed(self, fleet: Installation, admin: Client) -> None:
        vm = _running(fleet)
        target = next(host for host in fleet.hosts if host.pk != vm.host_id)
        _room(1, target)
        page = unescape(admin.post(f"/vms/{vm.pk}/migrate/", {**HOW, "to": str(target.pk)}).content.decode())
        assert 'role="alert"' in page
        assert target.name in page.split("error-summary")[1].split("</div>")[0]
        assert 'value="77"' in page
        assert not VmMigration.objects.filter(vm=vm, ended_at=None).exists()
        wrong = unescape(admin.post(f"/vms/{vm.pk}/migrate/", {**HOW, "downtime_milliseconds": "0"}).content.decode())
        assert "greater than or equal to 1" in wrong
        assert 'value="900"' in wrong

    def test_a_pin_is_overruled_only_when_asked_for(self, fleet: Installation, admin: Client) -> None:
        vm = _running(fleet)
        Vm.objects.filter(pk=vm.pk).update(pinned=True)
        page = _page(admin, f"/vms/{vm.pk}/migrate/")
        assert f"{vm.name} is pinned to {vm.host.name}." in page
        assert _disabled(page, "Migrate")
        admin.post(f"/vms/{vm.pk}/migrate/", HOW)
        assert not VmMigration.objects.filter(vm=vm, ended_at=None).exists()
        assert not _disabled(_page(admin, f"/vms/{vm.pk}/migrate/?pinned=1"), "Migrate")
        admin.post(f"/vms/{vm.pk}/migrate/?pinned=1", HOW)
        assert VmMigration.objects.filter(vm=vm, ended_at=None).exists()
        assert Vm.objects.get(pk=vm.pk).pinned

    def test_local_disks_are_named_and_copied_only_when_asked_for(self, fleet: Installation, admin: Client) -> None:
        vm = _running(fleet)
        disk = {"target": "vda", "source": "/var/lib/disks/a.qcow2", "kind": "local", "size_mib": 20_480}
        Vm.objects.filter(pk=vm.pk).update(disks=[disk])
        page = _page(admin, f"/vms/{vm.pk}/migrate/")
        assert "/var/lib/disks/a.qcow2" in page
        assert "Copy its local disks, too" in page
        relaxed = _page(admin, f"/vms/{vm.pk}/migrate/?copy=1")
        assert "vda (20 GiB)" in relaxed
        admin.post(f"/vms/{vm.pk}/migrate/?copy=1", HOW)
        assert VmMigration.objects.get(vm=vm, ended_at=None).options["copy_storage"] is True

    def test_another_operation_is_named_before_anything_is_tried(self, fleet: Installation, admin: Client) -> None:
        page = _page(admin, f"/vms/{fleet.migration.vm_id}/migrate/")
        assert f"“{fleet.migration.operation.title}” is at work" in page
        assert _disabled(page, "Migrate")


class TestSeveral:
    def test_each_ones_destination_or_reason_is_told_before(self, fleet: Installation, admin: Client) -> None:
        vm, busy = _running(fleet), fleet.migration.vm
        page = _page(admin, f"/migrations/several/?ids={vm.pk}&ids={busy.pk}&ids=nonsense")
        stays = page.split(f'id="vm-{busy.pk}"')[1].split("</tr>")[0]
        moves = page.split(f'id="vm-{vm.pk}"')[1].split("</tr>")[0]
        assert "is at work" in stays
        assert "<b>kvm-" in moves
        assert f'name="ids" value="{busy.pk}"' not in page

    def test_what_became_of_each_is_told_after(self, fleet: Installation, admin: Client) -> None:
        vm, busy = _running(fleet), fleet.migration.vm
        answer = admin.post("/migrations/several/", {**HOW, "confirm": "1", "ids": [str(vm.pk), str(busy.pk)]})
        page = unescape(answer.content.decode())
        assert VmMigration.objects.filter(vm=vm, ended_at=None).exists()
        assert "1</b> is under way" in page
        assert "1</b> was refused" in page

    def test_room_that_one_takes_is_not_there_for_the_next(self, fleet: Installation, admin: Client) -> None:
        first, second = Vm.objects.filter(host=fleet.hosts[0], power_state=PowerState.RUNNING, project__isnull=False)[
            :2
        ]
        _room(0, *fleet.hosts[1:])
        one = HostCapacity.objects.get(pk=fleet.hosts[1].pk)
        enough = one.memory_claimed_mib + max(first.memory_mib, second.memory_mib)
        _room(enough, fleet.hosts[1])
        page = _page(admin, f"/migrations/several/?ids={first.pk}&ids={second.pk}")
        assert "1</b> moves" in page
        assert "1</b> stays" in page

    def test_without_vms_it_says_where_to_choose_them(self, admin: Client) -> None:
        assert "Which VMs?" in _page(admin, "/migrations/several/")


class TestMigrations:
    def test_progress_and_outcomes_are_told(self, installation: Installation, admin: Client) -> None:
        page = _page(admin, "/migrations/")
        assert "812 of 2,048 MiB left, 118.2 MiB/s" in page
        assert 'value="60"' in page
        assert "The migration took longer than allowed." in page
        assert "arrived" not in _page(admin, "/migrations/?state=failed").split('id="moved-table"')[1]
        assert "No migration matches" in _page(admin, "/migrations/?host=nonsense")
        assert installation.migration.vm.name in _page(admin, f"/vms/{installation.migration.vm_id}/placement/")

    def test_a_migration_is_aborted_once(self, installation: Installation, admin: Client) -> None:
        row = installation.migration
        assert admin.post(f"/migrations/{row.pk}/abort/", headers={"HX-Request": "true"}).status_code == 204
        row.refresh_from_db()
        assert row.abort_requested_by == "anna"
        assert "anna asked to abort it." in _page(admin, "/migrations/")
        ended = VmMigration.objects.filter(ended_at__isnull=False)[0]
        assert admin.post(f"/migrations/{ended.pk}/abort/").status_code == 409


class TestTenants:
    def test_of_a_move_they_read_no_host(self, installation: Installation, tenant: Client) -> None:
        vm = _running(installation)
        VmMigration.objects.filter(pk=installation.migration.pk).update(vm=vm)
        page = _page(tenant, f"/vms/{vm.pk}/placement/")
        assert "It is moving to another host." in page
        assert "console follows" in page
        self._reveals_nothing(page, installation, vm)
        for address in (f"/vms/{vm.pk}/", "/my/vms/"):
            assert "<span>moving</span>" in _page(tenant, address)
            assert installation.migration.target.name not in _page(tenant, address)

    def test_whether_there_is_a_place_is_told_without_numbers(self, fleet: Installation, tenant: Client) -> None:
        vm = _running(fleet)
        assert "There is a place for this VM." in _page(tenant, f"/vms/{vm.pk}/placement/?ask=1")
        _room(0, *fleet.hosts)
        page = _page(tenant, f"/vms/{vm.pk}/placement/?ask=1")
        assert "There is no place for this VM now." in page
        self._reveals_nothing(page, fleet, vm)

    def test_they_may_not_say_where_it_runs(self, installation: Installation, tenant: Client) -> None:
        vm = _running(installation)
        assert tenant.post(f"/vms/{vm.pk}/placement/", {"pinned": "on"}).status_code == 403
        assert not Vm.objects.get(pk=vm.pk).pinned

    def test_what_happened_to_it_names_no_host(self, fleet: Installation, admin: Client, tenant: Client) -> None:
        vm = _running(fleet)
        room = HostCapacity.objects.get(pk=fleet.hosts[1].pk).memory_capacity_mib
        _room(0, *fleet.hosts)
        admin.post(f"/vms/{vm.pk}/migrate/", HOW)
        assert "There is no place for this VM now." in _page(tenant, f"/vms/{vm.pk}/")
        _room(room, *fleet.hosts)
        admin.post(f"/vms/{vm.pk}/migrate/", HOW)
        operation = VmMigration.objects.get(vm=vm, ended_at=None).operation
        told = f"/operations/{operation.pk}/"
        for address in (f"/vms/{vm.pk}/", "/my/activity/", "/operations/", "/operations/tray/", told):
            page = _page(tenant, address)
            assert [host.name for host in fleet.hosts if host.name in page] == [], address
        assert operation.title in _page(admin, "/operations/")

    @staticmethod
    def _reveals_nothing(page: str, installation: Installation, own: Vm) -> None:
        main = page.split("<main")[1].split("</main>")[0]
        others = [vm.name for vm in installation.vms if vm.pk != own.pk]
        clusters = [cluster.name for cluster in installation.clusters]
        told = [name for name in [*(host.name for host in installation.hosts), *clusters, *others] if name in main]
        assert told == []
        assert "GiB" not in main


class TestHosts:
    def test_the_fleet_says_what_holds_a_host(self, fleet: Installation, admin: Client) -> None:
        host = next(one for one in fleet.hosts if one.pk != fleet.migration.target_id)
        by = maintenance.jobs.acting_for(fleet.job)
        job = maintenance.start(host_ids=[host.pk], by=by, now=timezone.now())
        row = _page(admin, "/fleet/").split(f'id="host-{host.pk}"')[1].split("</tr>")[0]
        assert "draining" in row
        assert f"0 of {job.moves.count()}" in row
        assert f"/maintenance/{job.pk}/" in row
        assert f"/maintenance/{job.pk}/" in _page(admin, f"/hosts/{host.pk}/placement/")
        assert f"/maintenance/{job.pk}/" in _page(admin, f"/hosts/{host.pk}/")
        names = re.findall(r'class="row-link" href="/hosts/[^"]*">([^<]*)<', _page(admin, "/fleet/?state=held"))
        assert names == [host.name]

    def test_a_blocked_drain_and_a_held_host_are_named(self, fleet: Installation, admin: Client) -> None:
        host = fleet.hosts[0]
        job = maintenance.start(host_ids=[host.pk], by=maintenance.jobs.acting_for(fleet.job), now=timezone.now())
        job.moves.update(status="moved")
        stays = job.moves.all()[0]
        job.moves.filter(pk=stays.pk).update(status="skipped")
        job.hosts.update(status="blocked")
        row = _page(admin, "/fleet/").split(f'id="host-{host.pk}"')[1].split("</tr>")[0]
        assert "drain blocked" in row
        left = job.moves.count() - 1  # one that stays by choice does not count
        assert f"{left} of {left}" in row
        HostCapacity.objects.filter(pk=host.pk).update(hold="maintenance")
        assert "in maintenance" in _page(admin, "/fleet/").split(f'id="host-{host.pk}"')[1].split("</tr>")[0]
        assert "in maintenance" in admin.get("/fleet/?format=csv").content.decode()

    def test_claims_that_stand_out_are_listed_and_all_on_the_page(
        self, installation: Installation, admin: Client
    ) -> None:
        row = installation.migration
        page = _page(admin, f"/hosts/{row.target_id}/placement/")
        for claim in Claim.objects.filter(host=row.target_id):
            assert f'id="claim-{claim.pk}"' in page
        response = admin.get(f"/hosts/{row.target_id}/placement/", headers={"X-Live": "host-placement"})
        fragment = response.content.decode()
        listed = [one for one in Claim.objects.filter(host=row.target_id) if f'id="claim-{one.pk}"' in fragment]
        assert [one.kind for one in listed] == ["incoming"]
        assert "arriving" in fragment

    def test_a_host_that_answers_is_not_fenced(self, installation: Installation, admin: Client) -> None:
        host = next(one for one in installation.hosts if one.connection == Connection.UP)
        assert _disabled(_page(admin, f"/hosts/{host.pk}/fence/"), f"Fence {host.name}")
        page = unescape(admin.post(f"/hosts/{host.pk}/fence/", {"name": host.name, "reason": "gone"}).content.decode())
        assert f"{host.name} is up." in page
        assert ">gone</textarea>" in re.sub(r"\s*\n\s*", "", page)
        assert not HostCapacity.objects.filter(hold="fenced").exists()

    def test_a_dead_host_is_fenced_by_its_name_and_given_back(self, installation: Installation, admin: Client) -> None:
        host = next(one for one in installation.hosts if one.connection == Connection.UNREACHABLE)
        page = _page(admin, f"/hosts/{host.pk}/fence/")
        assert re.search(rf"<dd>{host.vms.count()}</dd>", page)
        wrong = unescape(admin.post(f"/hosts/{host.pk}/fence/", {"name": "kvm", "reason": "off"}).content.decode())
        assert f"That is not “{host.name}”." in wrong
        assert ">off</textarea>" in re.sub(r"\s*\n\s*", "", wrong)
        assert not HostCapacity.objects.filter(hold="fenced").exists()
        admin.post(f"/hosts/{host.pk}/fence/", {"name": host.name, "reason": "off"})
        assert set(host.vms.values_list("power_state", flat=True)) == {PowerState.UNKNOWN}
        assert Event.objects.get(kind="host.fenced").reason == "off"
        assert "fenced" in _page(admin, "/fleet/").split(f'id="host-{host.pk}"')[1].split("</tr>")[0]
        assert "Unfence" in _page(admin, f"/hosts/{host.pk}/")
        admin.post(f"/hosts/{host.pk}/unfence/")
        assert not HostCapacity.objects.filter(hold="fenced").exists()

    def test_only_administrators_are_offered_to_fence(self, installation: Installation, as_user: As) -> None:
        host = next(one for one in installation.hosts if one.connection == Connection.UNREACHABLE)
        assert f"/hosts/{host.pk}/fence/" in _page(as_user(installation.admin), f"/hosts/{host.pk}/")
        assert "/fence/" not in _page(as_user(installation.operator), f"/hosts/{host.pk}/")


def test_drift_is_shown_and_put_right(installation: Installation, admin: Client) -> None:
    vm = _running(installation)
    Claim.objects.filter(vm=vm, kind="vm").update(vcpus=9)
    page = _page(admin, "/placement/drift/?kind=size")
    assert f"{vm.name} has" in page
    assert vm.name in _page(admin, f"/hosts/{vm.host_id}/placement/")
    admin.post("/placement/drift/mend/")
    assert Claim.objects.get(vm=vm, kind="vm").vcpus == vm.vcpus
    assert "Nothing of this kind" in _page(admin, "/placement/drift/?kind=size")
