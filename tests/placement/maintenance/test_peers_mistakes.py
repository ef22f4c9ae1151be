"""What went wrong elsewhere, by its number: CloudStack's drains that stop VMs, choose hosts that are in maintenance
themselves, look at one cluster only, or forget groups."""

from __future__ import annotations

from cloudops.core.models import Event
from cloudops.hypervisors.port import MigrationInterrupted
from cloudops.inventory import tags as tag_rows
from cloudops.inventory.models import Host, Offering, Template, Vm
from placement import maintenance
from placement.models import AffinityGroup, VmMigration
from tests.placement.maintenance.draining import Drains
from tests.placement.moving import BY


def nothing_was_stopped(world: Drains) -> None:
    for vm in Vm.objects.all():
        assert world.really_on(vm), f"{vm.name} runs nowhere"
        assert vm.power_state == "running"
    assert not Event.objects.filter(kind="operation.vm.power").exists()


def test_cloudstack_3720_a_vm_that_cannot_migrate_is_not_stopped(world: Drains) -> None:
    """“If a VM cant migrate it will hard stopped”: here it stays, runs, and says what is in the way."""
    first, second = world.build_host("kvm1", gib=64), world.build_host("kvm2", gib=4)
    world.build_vm("large", first, gib=32)
    world.build_vm("small", first, gib=2)
    world.ready()
    job = world.start(first)
    world.until_status(job, "blocked")
    for _ in range(100):
        world.step(10)
    nothing_was_stopped(world)
    assert world.statuses(job) == {"large": "blocked", "small": "moved"}
    assert "too little memory" in world.move(job, "large").reason
    del second


def test_cloudstack_11286_hosts_in_maintenance_are_no_destinations(world: Drains) -> None:
    """Two hosts of three in maintenance: the third has no room, so VMs stay where they run."""
    hosts = [world.build_host(f"kvm{number}", gib=8) for number in range(1, 4)]
    world.build_vm("one", hosts[0], gib=6)
    world.build_vm("two", hosts[2], gib=6)
    world.ready()
    held = world.start(hosts[1])
    world.until_status(held, "holding")
    job = world.start(hosts[0])
    world.until_status(job, "blocked")
    for _ in range(30):
        world.step(5)
    assert not VmMigration.objects.filter(target=hosts[1]).exists()
    nothing_was_stopped(world)


def test_cloudstack_12045_hosts_that_prepare_for_maintenance_are_no_destinations_either(world: Drains) -> None:
    hosts = [world.build_host(f"kvm{number}", gib=16) for number in range(1, 4)]
    for number in range(4):
        world.build_vm(f"vm{number}", hosts[number % 2], gib=2)
    world.ready()
    jobs = [world.start(hosts[0]), world.start(hosts[1])]
    for job in jobs:
        world.until_status(job, "holding")
    assert set(VmMigration.objects.values_list("target", flat=True)) == {hosts[2].pk}
    nothing_was_stopped(world)


def test_cloudstack_14026_trying_again_never_marks_running_vms_stopped(world: Drains) -> None:
    first, second = (world.build_host(name) for name in ("kvm1", "kvm2"))
    for number in range(3):
        world.build_vm(f"vm{number}", first)
    world.ready()
    world.fault(second, error=MigrationInterrupted, detail="line cut", at_percent=50, direction="to", count=3)
    job = world.start(first)
    world.until_status(job, "blocked")
    for _ in range(3):
        maintenance.retry(job, by=BY, now=world.now)
        world.step()
        nothing_was_stopped(world)
    world.until_status(job, "holding")
    nothing_was_stopped(world)
    assert set(world.statuses(job).values()) == {"moved"}


def test_cloudstack_10598_every_cluster_is_tried(world: Drains) -> None:
    """Clusters by tag, Windows before Linux: the drain of a Linux host finds the other Linux host, cluster after
    cluster."""
    first = world.build_host("lin1", cluster="L", tags=("generic", "linux"))
    for name, cluster, tags in (
        ("win1", "A-windows", ("generic", "windows")),
        ("win2", "A-windows", ("generic", "windows")),
        ("lin2", "Z-linux", ("generic", "linux")),
    ):
        world.build_host(name, cluster=cluster, tags=tags)
    for number in range(3):
        world.build_vm(f"vm{number}", first)
    world.ready()
    template = Template.objects.create(name="debian")
    template.host_tags.set(tag_rows.ensure(("linux",)))
    Vm.objects.update(template=template)
    job = world.start(first)
    world.until_status(job, "holding")
    assert {vm.host.name for vm in Vm.objects.select_related("host")} == {"lin2"}
    nothing_was_stopped(world)


def test_cloudstack_12473_groups_hold_during_a_drain(world: Drains) -> None:
    """Kept apart: never two of them on one host, not even on the way."""
    hosts = [world.build_host(f"kvm{number}") for number in range(1, 5)]
    for number, host in enumerate((hosts[0], hosts[0], hosts[1])):
        world.build_vm(f"db{number}", host)
    world.ready()
    group = AffinityGroup.objects.create(name="databases", kind="apart", created_at=world.now)
    group.vms.set(Vm.objects.all())
    job = world.start(hosts[0])
    world.until_status(job, "holding")
    assert len({vm.host_id for vm in Vm.objects.all()}) == 3
    nothing_was_stopped(world)


def test_cloudstack_8629_a_second_cluster_does_not_break_it(world: Drains) -> None:
    """Each VM finds the cluster that its offering's tags ask for, in one drain."""
    first = world.build_host("kvm1", cluster="One", tags=("ssd", "gpu"))
    world.build_host("kvm2", cluster="One", tags=("ssd",))
    world.build_host("kvm3", cluster="Two", tags=("gpu",))
    for name in ("ssd", "gpu"):
        world.build_vm(name, first)
    world.ready()
    for name in ("ssd", "gpu"):
        offering = Offering.objects.create(name=name, vcpus=1, memory_mib=2_048)
        offering.host_tags.set(tag_rows.ensure((name,)))
        Vm.objects.filter(name=name).update(offering=offering)
    job = world.start(first)
    world.until_status(job, "holding")
    assert {vm.name: vm.host.name for vm in Vm.objects.select_related("host")} == {"ssd": "kvm2", "gpu": "kvm3"}
    assert Host.objects.filter(maintenances__maintenance=job).count() == 1
