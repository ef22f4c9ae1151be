"""A whole maintenance of an ESXi host through CloudOps' own verbs: preview, drain, vSphere's own mode, and back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from django.utils import timezone

from cloudops.core.actors import Actor, ActorKind
from cloudops.core.errors import Conflict
from cloudops.core.models import Operation
from cloudops.hypervisors import registry
from cloudops.inventory import clusters, sync
from cloudops.inventory.models import Endpoint, Host, Vm
from placement import capacity, claims, maintenance, migration_run, mirror, power_claims, vm_migrations
from placement.maintenance import advancing, platform
from placement.models import ClaimKind, Maintenance, MaintenanceHost, Platform, VmMigration
from tests.placement.maintenance.draining import quiet_queues
from tests.placement.moving import claims_add_up
from tests.vsphere.fake import ClusterPlan, FakeVcenter, HostPlan, VmPlan
from tests.vsphere.rows import endpoint_on

BY = Actor(ActorKind.USER, "ada", user_id=None, address="192.0.2.7")
LONGEST_SECONDS = 60.0


@dataclass
class Site:
    """An installation with one vCenter; the test is every worker."""

    vcenter: FakeVcenter
    endpoint: Endpoint

    def host(self, name: str) -> Host:
        return Host.objects.select_related("endpoint", "cluster").get(name=name)

    def vm(self, name: str) -> Vm:
        return Vm.objects.select_related("host").get(name=name)

    def sync(self) -> None:
        sync.sync_endpoint(self.endpoint, now=timezone.now())
        capacity.refresh(now=timezone.now())
        power_claims.follow_all(now=timezone.now())

    def work(self) -> None:
        """Every worker does what it can do now."""
        for pk in advancing.advance_due(now=timezone.now()):
            maintenance.advance(pk, clock=timezone.now)
        for row_id in platform.due(now=timezone.now()):
            platform.follow(row_id, clock=timezone.now)
        for row in VmMigration.objects.filter(ended_at__isnull=True).order_by("created_at", "pk"):
            try:
                migration_run.run(Operation.objects.get(pk=row.pk), clock=timezone.now, pause=time.sleep)
            except Conflict:
                continue

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not done():
            assert time.monotonic() < deadline, [
                (
                    job.title,
                    job.status,
                    job.blocked_reason,
                    [(one.status, one.platform_detail) for one in job.hosts.all()],
                )
                for job in Maintenance.objects.all()
            ]
            self.work()
            time.sleep(0.05)

    def until_status(self, job: Maintenance, *statuses: str) -> Maintenance:
        def there() -> bool:
            job.refresh_from_db()
            return job.status in statuses

        self.until(there)
        return job

    def row(self, job: Maintenance) -> MaintenanceHost:
        return job.hosts.select_related("host__endpoint").get()


@contextmanager
def site(*, drs: bool = False) -> Iterator[Site]:
    hosts = [HostPlan(f"esx-{number}") for number in range(1, 4)]
    vms = [VmPlan(f"vm{number}", "esx-1", memory_mib=1024) for number in range(3)]
    vms.append(VmPlan("off", "esx-1", powered_on=False))
    plan = [ClusterPlan("Cluster A", drs=drs)]
    with quiet_queues(), FakeVcenter(hosts=hosts, vms=vms, clusters=plan, task_seconds=0.05) as vcenter:
        cluster = clusters.create(name=f"vc {uuid.uuid4()}", by=BY, now=timezone.now())
        endpoint = endpoint_on(vcenter)
        for name, entity in vcenter.world.hosts.items():
            Host.objects.create(endpoint=endpoint, cluster=cluster, ref=entity.mo_id, name=name)
        found = Site(vcenter, endpoint)
        mirror.forget()
        try:
            found.sync()
            yield found
        finally:
            registry.close_all()
            mirror.forget()


@pytest.fixture(params=[False, True], ids=["without DRS", "with DRS"])
def vcenter(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[Site]:
    with site(drs=request.param) as found:
        yield found


@pytest.fixture
def one(transactional_db: None) -> Iterator[Site]:
    with site() as found:
        yield found


def test_a_host_is_emptied_put_into_vspheres_own_mode_and_given_back(vcenter: Site) -> None:
    world, first = vcenter.vcenter, vcenter.host("esx-1")
    seen = maintenance.preview(host_ids=[first.pk], now=timezone.now())
    assert (len(seen.moves), seen.blockers) == (3, ())
    assert seen.platform == ("Once esx-1 is empty, vSphere is asked to put it into its own maintenance mode, too.",)
    job = maintenance.start(host_ids=[first.pk], reason="Fan", by=BY, now=timezone.now())
    vcenter.until_status(job, "holding")
    assert vcenter.row(job).platform == Platform.ENTERED
    assert world.host("esx-1").in_maintenance
    assert [vm.name for vm in world.host("esx-1").vms.values()] == ["off"]
    assert world.calls("MigrateVM_Task") == 3  # by our drain, DRS or not
    assert world.calls("EnterMaintenanceMode_Task") == 1
    vcenter.sync()
    assert vcenter.host("esx-1").platform_maintenance
    assert {vcenter.vm(f"vm{number}").host.name for number in range(3)} <= {"esx-2", "esx-3"}

    maintenance.complete(job, by=BY, now=timezone.now())
    vcenter.until(lambda: vcenter.row(job).platform == Platform.LEFT)
    assert not world.host("esx-1").in_maintenance
    vcenter.sync()
    home = maintenance.bring_home(job, by=BY, now=timezone.now())
    vcenter.until_status(home, "completed")
    assert {vm.name for vm in world.host("esx-1").vms.values()} == {"vm0", "vm1", "vm2", "off"}
    assert {vm.power for vm in world.world.vms.values()} == {"poweredOn", "poweredOff"}
    claims_add_up()


def test_cancelled_while_vsphere_takes_it_there(one: Site) -> None:
    world, first = one.vcenter, one.host("esx-1")
    with world.faults.holding("EnterMaintenanceMode_Task"):
        job = maintenance.start(host_ids=[first.pk], by=BY, now=timezone.now())
        one.until(lambda: one.row(job).platform_asked_at is not None and world.calls("EnterMaintenanceMode_Task") == 1)
        assert one.row(job).status == "entering"
        assert "vSphere puts it into its own maintenance mode" in one.row(job).platform_detail
        maintenance.cancel(job, by=BY, now=timezone.now())
        one.until(lambda: one.row(job).platform == Platform.LEFT)
    assert not world.host("esx-1").in_maintenance
    assert world.host("esx-1").entering == 0
    assert one.host("esx-1").schedulable


def test_a_missing_privilege_blocks_in_words_and_is_asked_for_again(one: Site) -> None:
    world, first = one.vcenter, one.host("esx-1")
    world.faults.deny("Host.Config.Maintenance")
    job = maintenance.start(host_ids=[first.pk], by=BY, now=timezone.now())
    one.until_status(job, "blocked")
    assert "Host.Config.Maintenance" in job.blocked_reason
    assert "try again" in job.blocked_reason
    assert {vm.name for vm in world.host("esx-1").vms.values()} == {"off"}
    world.faults.allow("Host.Config.Maintenance")
    maintenance.retry(job, by=BY, now=timezone.now())
    one.until_status(job, "holding")
    assert world.host("esx-1").in_maintenance


def test_a_vm_that_vsphere_does_not_move_there_goes_elsewhere(one: Site) -> None:
    """What only vCenter knows: a host without vMotion. The next best host is tried."""
    world, first = one.vcenter, one.host("esx-1")
    object.__setattr__(world.host("esx-2").plan, "vmotion", False)
    job = maintenance.start(host_ids=[first.pk], by=BY, now=timezone.now())
    one.until_status(job, "holding")
    assert {one.vm(f"vm{number}").host.name for number in range(3)} == {"esx-3"}
    tried = [entry["code"] for move in job.moves.all() for entry in move.tried_hosts]
    assert set(tried) <= {"destination-unreachable"}


def test_a_host_in_vspheres_own_mode_takes_no_vms(one: Site) -> None:
    world = one.vcenter
    with world.world.lock:
        world.host("esx-2").in_maintenance = True
        world.world.changed(world.host("esx-2"))
    one.sync()
    assert one.host("esx-2").platform_maintenance
    with pytest.raises(Conflict, match="own maintenance mode"):
        claims.take(
            host_id=one.host("esx-2").pk,
            vm=one.vm("off"),
            kind=ClaimKind.VM,
            vcpus=1,
            memory_mib=1,
            now=timezone.now(),
        )
    operation = vm_migrations.migrate(one.vm("vm0"), to=None, by=BY, now=timezone.now())
    migration_run.run(operation, clock=timezone.now, pause=time.sleep)
    assert one.vm("vm0").host.name == "esx-3"
