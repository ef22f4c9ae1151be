"""vMotion through the driver: the contract of all drivers, and what vSphere alone refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pyVmomi import vim

from cloudops.hypervisors.port import (
    Busy,
    Hypervisor,
    HypervisorError,
    Kind,
    MigrationFailed,
    MigrationOptions,
    MigrationState,
    MigrationTarget,
    NoPermission,
    PowerState,
)
from cloudops.hypervisors.vsphere.errors import typed
from tests.hypervisors.contract import eventually, opened
from tests.hypervisors.migration_contract import LIVE, OFFLINE, MigrationContract, Pair, ended, failure
from tests.vsphere.fake import ClusterPlan, DatastorePlan, FakeVcenter, HostPlan, VmPlan

HELD = "MigrateVM_Task"


def target(vcenter: FakeVcenter, name: str) -> MigrationTarget:
    return MigrationTarget(vcenter.spec(), vcenter.host(name).mo_id, vcenter.uri)


class TestVsphereMigration(MigrationContract):
    """Between two hosts of one vCenter."""

    @pytest.fixture(params=["one cluster", "two clusters"])
    def site(self, request: pytest.FixtureRequest) -> Iterator[FakeVcenter]:
        there = "Cluster A" if request.param == "one cluster" else "Cluster B"
        hosts = [HostPlan("esx-1"), HostPlan("esx-2", there)]
        vms = [VmPlan("runs", "esx-1"), VmPlan("off", "esx-1", powered_on=False)]
        with FakeVcenter(hosts=hosts, vms=vms) as site:
            yield site

    @pytest.fixture
    def pair(self, site: FakeVcenter) -> Pair:
        spec = site.spec(timeout_seconds=5.0)

        def connect(state: str) -> None:
            with site.world.lock:
                site.world.connect(site.host("esx-2"), state)

        return Pair(
            source=spec,
            destination=spec,
            there=target(site, "esx-2"),
            back=target(site, "esx-1"),
            nowhere=MigrationTarget(spec, "host-9999", site.uri),
            running=site.vm("runs").instance_uuid,
            stopped=site.vm("off").instance_uuid,
            twin="",
            slow=LIVE,
            break_destination=lambda: connect("notResponding"),
            mend_destination=lambda: connect("connected"),
            slowly=lambda: site.faults.holding(HELD),
            tells_downtime=False,
        )

    def test_a_name_that_is_taken_there(self, pair: Pair, source: Hypervisor) -> None:
        """No two VMs have one name here; what vCenter says of a name in another folder is told as everywhere."""
        error = typed(vim.fault.DuplicateName(name="off", msg="The name 'off' already exists."))
        assert (error.code, error.platform_code) == ("vm-name-taken", "DuplicateName")
        assert "'off' already exists" in error.detail


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    """Hosts that differ from the first in one thing each."""
    hosts = [
        HostPlan("esx-1", datastores=("shared-1", "local-1")),
        HostPlan("good", datastores=("shared-1", "local-2")),
        HostPlan("old-cpu", "Cluster B", evc_mode="intel-haswell"),
        HostPlan("amd", "Cluster C", evc_mode="amd-zen3"),
        HostPlan("no-net", networks=("Other",)),
        HostPlan("no-store", datastores=("local-2",)),
        HostPlan("no-vmotion", vmotion=False),
        HostPlan("small", memory_mib=2048),
    ]
    vms = [
        VmPlan("runs", "esx-1"),
        VmPlan("local", "esx-1", datastore="local-1"),
        VmPlan("off", "esx-1", powered_on=False),
    ]
    stores = [
        DatastorePlan("shared-1"),
        DatastorePlan("local-1", shared=False),
        DatastorePlan("local-2", shared=False, free_gib=100),
    ]
    with FakeVcenter(hosts=hosts, vms=vms, datastores=stores, task_seconds=0.05) as vcenter:
        yield vcenter


@pytest.fixture
def driver(vcenter: FakeVcenter) -> Iterator[Hypervisor]:
    with opened(vcenter.spec(timeout_seconds=5.0)) as hypervisor:
        yield hypervisor


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("old-cpu", "cpu-incompatible"),
        ("amd", "cpu-incompatible"),
        ("no-net", "destination-network-missing"),
        ("no-store", "destination-storage-missing"),
        ("no-vmotion", "destination-unreachable"),
        ("small", "destination-out-of-space"),
    ],
)
def test_what_a_host_lacks_is_an_objection_and_an_error_of_the_same_code(
    vcenter: FakeVcenter, driver: Hypervisor, host: str, code: str
) -> None:
    vm = vcenter.vm("runs")
    vm.required_evc = "intel-skylake"
    found = driver.check_migration(vm.instance_uuid, target(vcenter, host), LIVE)
    assert code in [one.code for one in found]
    assert all(one.detail and one.remedy for one in found)
    assert not any(word in one.remedy for one in found for word in ("libvirt", "QEMU", "qemu"))
    error = failure(driver, vm.instance_uuid, target(vcenter, host))
    assert error.code == code
    assert error.platform_code
    assert "libvirt" not in error.remedy
    assert driver.vm(vm.instance_uuid).power_state is PowerState.RUNNING


def test_hosts_in_maintenance_and_lost_ones_take_nothing(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    ref, good = vcenter.vm("runs").instance_uuid, vcenter.host("good")
    with vcenter.world.lock:
        good.in_maintenance = True
        vcenter.world.changed(good)
    assert failure(driver, ref, target(vcenter, "good")).code == "destination-incompatible"
    with vcenter.world.lock:
        good.in_maintenance = False
        vcenter.world.connect(good, "disconnected")
    (objection,) = driver.check_migration(ref, target(vcenter, "good"), LIVE)
    assert objection.code == "destination-unreachable"
    assert "disconnected" in objection.detail


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("vim.fault.NoCompatibleHost", "destination-incompatible"),
        ("vim.fault.InsufficientCpuResourcesFault", "destination-out-of-space"),
        ("vim.fault.ConcurrentAccess", "vm-busy"),
        ("vim.fault.NoDiskSpace", "destination-out-of-space"),
        ("vim.fault.Timedout", "migration-interrupted"),
        ("vmodl.fault.HostNotReachable", "migration-interrupted"),
        ("vmodl.fault.SystemError", "hypervisor-error"),
    ],
)
def test_a_task_that_fails_ends_with_a_typed_error(
    vcenter: FakeVcenter, driver: Hypervisor, fault: str, code: str
) -> None:
    vcenter.faults.fail_task("MigrateVM_Task", fault, "In vSphere's own words.")
    error = failure(driver, vcenter.vm("runs").instance_uuid, target(vcenter, "good"))
    assert (error.code, error.platform_code) == (code, fault.rpartition(".")[2])
    assert "In vSphere's own words." in str(error)
    assert error.remedy


def test_a_missing_privilege_is_named_with_its_object(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    vcenter.faults.deny("Resource.HotMigrate", "runs")
    with pytest.raises(NoPermission, match=r"Resource\.HotMigrate"):
        driver.migrate(vcenter.vm("runs").instance_uuid, target(vcenter, "good"), LIVE)


def test_disks_move_along_where_only_their_host_reaches_them(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    vm = vcenter.vm("local")
    assert failure(driver, vm.instance_uuid, target(vcenter, "good")).code == "destination-storage-missing"
    with_disks = MigrationOptions(copy_storage=True)
    assert driver.check_migration(vm.instance_uuid, target(vcenter, "good"), with_disks) == []
    driver.migrate(vm.instance_uuid, target(vcenter, "good"), with_disks)
    assert ended(driver, vm.instance_uuid).state is MigrationState.COMPLETED
    assert (vm.host.name, vm.datastore.name) == ("good", "shared-1")
    assert vcenter.calls("RelocateVM_Task") == 1


def test_a_session_that_is_lost_meanwhile_begins_nothing_twice(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    ref = vcenter.vm("runs").instance_uuid
    driver.vm(ref)
    vcenter.faults.expire_sessions()
    with vcenter.faults.holding(HELD):
        driver.migrate(ref, target(vcenter, "good"), replace(LIVE, label="one"))
        vcenter.faults.expire_sessions()
        assert driver.migration(ref).state is MigrationState.RUNNING
    status = ended(driver, ref)
    assert (status.state, status.label) == (MigrationState.COMPLETED, "one")
    assert vcenter.calls(HELD) == 1


def test_another_process_sees_what_runs_and_knows_nothing_of_what_has_ended(
    vcenter: FakeVcenter, driver: Hypervisor
) -> None:
    ref = vcenter.vm("runs").instance_uuid
    with opened(vcenter.spec()) as successor:
        with vcenter.faults.holding(HELD):
            driver.migrate(ref, target(vcenter, "good"), LIVE)
            eventually(lambda: successor.migration(ref).memory_sent_mib > 0)
            status = successor.migration(ref)
            assert (status.state, status.label) == (MigrationState.RUNNING, "")
            with pytest.raises(Busy):
                successor.migrate(ref, target(vcenter, "no-vmotion"), LIVE)
        ended(driver, ref)
        assert successor.migration(ref).state is MigrationState.NONE
        assert successor.vm(ref).host_ref == target(vcenter, "good").host_ref


def test_a_restarted_vcenter_has_forgotten_the_task(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    ref = vcenter.vm("runs").instance_uuid
    with vcenter.faults.holding(HELD):
        driver.migrate(ref, target(vcenter, "good"), LIVE)
        with vcenter.world.lock:
            for task in [*vcenter.world.tasks.values()]:
                del vcenter.world.tasks[task.mo_id], vcenter.world.objects[task.mo_id]
        status = driver.migration(ref)
    assert (status.state, status.error and status.error.code) == (MigrationState.FAILED, "migration-interrupted")


def test_between_two_vcenters_vms_are_moved_by_others(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    with FakeVcenter(hosts=1, vms=0) as other:
        there = MigrationTarget(other.spec(key="other"), next(iter(other.world.hosts.values())).mo_id, other.uri)
        (objection,) = driver.check_migration(vcenter.vm("runs").instance_uuid, there, LIVE)
    assert objection.code == "destination-unreachable"
    assert "cross vCenter" in objection.remedy


def test_other_platforms_are_no_destination(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    there = replace(target(vcenter, "good"), spec=replace(vcenter.spec(), kind=Kind.LIBVIRT))
    assert [one.code for one in driver.check_migration(vcenter.vm("off").instance_uuid, there, OFFLINE)] == [
        "destination-incompatible"
    ]


def test_a_standalone_host_moves_nothing() -> None:
    with FakeVcenter(hosts=1, vms=1, standalone=True) as esxi, opened(esxi.spec()) as driver:
        vm, host = next(iter(esxi.world.vms.values())), next(iter(esxi.world.hosts.values()))
        there = MigrationTarget(esxi.spec(), host.mo_id, esxi.uri)
        assert [one.code for one in driver.check_migration(vm.instance_uuid, there, LIVE)] == ["same-host"]
        with pytest.raises(HypervisorError):
            driver.migrate(vm.instance_uuid, replace(there, host_ref="ha-host-2"), LIVE)


def test_drs_that_moves_a_vm_is_seen_as_a_move(vcenter: FakeVcenter, driver: Hypervisor) -> None:
    """What others begin runs under the same name, and is busy for us."""
    assert ClusterPlan("x").drs is False
    ref = vcenter.vm("runs").instance_uuid
    with vcenter.faults.holding(HELD), opened(vcenter.spec()) as client:
        client.migrate(ref, target(vcenter, "good"), LIVE)
        with pytest.raises(Busy):
            driver.migrate(ref, target(vcenter, "good"), LIVE)
        driver.abort_migration(ref)
        error = ended(client, ref).error
    assert isinstance(error, MigrationFailed)
