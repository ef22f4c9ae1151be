"""The dry run: what moves where, in which order, what is in the way and what one click would do about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudops.hypervisors.port import DiskFacts, DiskKind, PowerAction, PowerState
from cloudops.inventory import tags as tag_rows
from cloudops.inventory.models import Host, Offering, Template, Vm
from cloudops.inventory.power import power
from placement import maintenance
from placement.maintenance import words
from placement.maintenance.errors import NoHosts
from placement.maintenance.options import Choice, VmChoice
from placement.maintenance.outlook import Blocker, Preview
from placement.models import AffinityGroup, HostCapacity, Maintenance, MaintenanceMove
from tests.placement.maintenance.draining import Drains
from tests.placement.moving import BY


def three(world: Drains, vms: int = 3) -> list[Host]:
    hosts = [world.build_host("kvm1"), world.build_host("kvm2"), world.build_host("kvm3", cluster="Rack 2")]
    for number in range(vms):
        world.build_vm(f"vm{number}", hosts[0], gib=4)
    world.ready()
    return hosts


def preview(world: Drains, *hosts: Host, **options: object) -> Preview:
    chosen = maintenance.Options(**options)  # type: ignore[arg-type]
    return maintenance.preview(host_ids=[host.pk for host in hosts], options=chosen, now=world.now, exact_seconds=0.0)


def blocker(found: Preview, name: str) -> Blocker:
    return next(one for one in found.blockers if one.vm_name == name)


def choices(found: Preview, name: str) -> list[str]:
    return [str(one.choice) for one in blocker(found, name).remedies]


def make_offering(name: str, tags: tuple[str, ...] = (), soft: tuple[str, ...] = ()) -> Offering:
    offering = Offering.objects.create(name=name, vcpus=1, memory_mib=4_096)
    offering.host_tags.set(tag_rows.ensure(tags))
    offering.soft_host_tags.set(tag_rows.ensure(soft))
    return offering


def test_moves_with_order_seconds_and_loads_and_nothing_changes(world: Drains) -> None:
    first, *_ = three(world)
    found = preview(world, first)
    assert {move.vm_name for move in found.moves} == {"vm0", "vm1", "vm2"}
    assert all(move.from_host_name == "kvm1" and move.seconds > 0 and move.live for move in found.moves)
    assert found.seconds >= found.lower_bound_seconds > 0
    assert found.can_empty
    source = next(host for host in found.hosts if host.emptied)
    assert (source.before.memory_mib, source.after.memory_mib, source.leaving) == (3 * 4_096, 0, 3)
    arrived = sum(host.after.memory_mib - host.before.memory_mib for host in found.destinations)
    assert arrived == 3 * 4_096
    assert all(host.peak.memory_mib <= host.memory_capacity_mib for host in found.hosts)
    assert not Maintenance.objects.exists()
    assert not HostCapacity.objects.exclude(hold="").exists()


def test_what_is_previewed_is_what_is_done(world: Drains) -> None:
    first, *_ = three(world)
    found = preview(world, first)
    job = world.start(first)
    world.until_status(job, "holding")
    assert {m.vm_name: m.to_host_name for m in found.moves} == {
        name: row.vm.host.name for name, row in world.moves(job).items()
    }


def test_nobody_named_is_refused(world: Drains) -> None:
    with pytest.raises(NoHosts):
        maintenance.preview(host_ids=[], now=world.now)


def test_within_its_cluster_it_is_blocked_and_across_is_one_click(world: Drains) -> None:
    first, second, _ = three(world, vms=1)
    Host.objects.filter(pk=second.pk).update(schedulable=False)
    world.sync()
    found = preview(world, first, across_clusters=False)
    one = blocker(found, "vm0")
    assert one.code == words.NO_HOST
    assert "are not in its cluster Rack 1" in one.words
    assert choices(found, "vm0")[0] == Choice.ACROSS
    (button, *_) = one.remedies
    vm = world.vm("vm0")
    mended = preview(world, first, across_clusters=False, choices={vm.pk: VmChoice().plus(button.choice)})
    assert [(move.to_host_name, move.across_clusters) for move in mended.moves] == [("kvm3", True)]
    assert not mended.blockers


def test_a_missing_tag_is_named(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    Vm.objects.update(offering=make_offering("gpu-small", tags=("gpu",)))
    found = preview(world, first)
    assert "lack the tag gpu" in blocker(found, "vm0").words
    assert choices(found, "vm0") == ["skip", "stop"]
    assert blocker(found, "vm0").proven
    assert found.proof == "proven"


def test_template_and_offering_tags_both_count(world: Drains) -> None:
    first, second, third = three(world, vms=1)
    template = Template.objects.create(name="debian")
    template.host_tags.set(tag_rows.ensure(("linux",)))
    Vm.objects.update(offering=make_offering("small", tags=("generic",)), template=template)
    for host, names in ((second, ("generic", "windows")), (third, ("generic", "linux"))):
        host.tags.set(tag_rows.ensure(names))
    world.ready()
    found = preview(world, first)
    assert [move.to_host_name for move in found.moves] == ["kvm3"]


def test_a_soft_tag_that_it_has_is_kept_until_it_is_dropped(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    first.tags.set(tag_rows.ensure(("ssd",)))
    Vm.objects.update(offering=make_offering("fast", soft=("ssd",)))
    world.ready()
    found = preview(world, first)
    assert "lack its soft tag ssd" in blocker(found, "vm0").words
    assert choices(found, "vm0")[0] == Choice.DROP_SOFT_TAGS
    mended = preview(world, first, choices={world.vm("vm0").pk: VmChoice().plus(Choice.DROP_SOFT_TAGS)})
    assert mended.can_empty


def test_local_disks_are_copied_only_when_chosen(world: Drains) -> None:
    first, *_ = three(world, vms=0)
    disk = DiskFacts("vda", "/var/lib/images/a.qcow2", DiskKind.LOCAL, size_mib=10_240)
    world.build_vm("local", first, disks=(disk,))
    world.ready()
    found = preview(world, first)
    assert "local disk" in blocker(found, "local").words
    assert choices(found, "local")[0] == Choice.COPY_STORAGE
    chosen = {world.vm("local").pk: VmChoice().plus(Choice.COPY_STORAGE)}
    mended = preview(world, first, choices=chosen)
    assert mended.can_empty
    job = world.start(first, choices=chosen)
    world.until_status(job, "holding")
    assert world.vm("local").host != first


def test_who_stays_and_who_waits_is_said(world: Drains) -> None:
    first, *_ = three(world, vms=3)
    world.build_vm("off", first, state=PowerState.OFF)
    world.sync(first)
    Vm.objects.filter(name="vm0").update(pinned=True)
    power(world.vm("vm1"), action=PowerAction.REBOOT, by=BY, now=world.now)
    chosen = {world.vm("vm2").pk: VmChoice(Choice.STOP)}
    found = preview(world, first, choices=chosen)
    assert [(one.vm_name, one.code) for one in found.stays] == [("off", words.POWERED_OFF)]
    assert blocker(found, "vm0").code == words.PINNED
    assert choices(found, "vm0") == ["move-pinned", "skip", "stop"]
    assert [one.vm_name for one in found.stops] == ["vm2"]
    (move,) = found.moves
    assert "Reboot vm1" in move.note
    assert len(preview(world, first, choices=chosen, move_powered_off=True).moves) == 2


def test_only_stop_asks_for_an_administrator(world: Drains) -> None:
    first, *_ = three(world, vms=1)
    Vm.objects.update(pinned=True)
    (one,) = preview(world, first).blockers
    assert {str(button.choice): button.admin_only for button in one.remedies} == {
        "move-pinned": False,
        "skip": False,
        "stop": True,
    }


def test_apart_groups_are_kept(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    group = AffinityGroup.objects.create(name="databases", kind="apart", created_at=world.now)
    group.vms.set(Vm.objects.all())
    found = preview(world, first)
    assert {move.to_host_name for move in found.moves} == {"kvm2", "kvm3"}


def test_a_soft_group_decides_between_hosts_and_keeps_nobody_back(world: Drains) -> None:
    first, *_ = three(world, vms=4)
    group = AffinityGroup.objects.create(name="app", kind="together", strict=False, created_at=world.now)
    group.vms.set(Vm.objects.filter(name__in=["vm0", "vm1"]))
    apart = AffinityGroup.objects.create(name="web", kind="apart", strict=False, created_at=world.now)
    apart.vms.set(Vm.objects.all())
    found = preview(world, first)
    assert (found.can_empty, len(found.moves)) == (True, 4)
    apart.delete()
    to = {move.vm_name: move.to_host_name for move in preview(world, first).moves}
    assert to["vm0"] == to["vm1"]


def test_a_host_of_another_job_takes_nothing_and_why_is_said(world: Drains) -> None:
    first, second, third = three(world, vms=1)
    world.start(second, title="New disks")
    Host.objects.filter(pk=third.pk).update(schedulable=False)
    world.sync()
    found = preview(world, first)
    assert "take no VMs now" in blocker(found, "vm0").words
    assert any("New disks" in line for line in preview(world, second).warnings)


def test_turns_are_planned_one_after_the_other(world: Drains) -> None:
    hosts = [world.build_host(f"kvm{number}", gib=16) for number in range(1, 4)]
    for number in range(6):
        world.build_vm(f"vm{number}", hosts[number % 3], gib=4)
    world.ready()
    found = preview(world, *hosts, hosts_at_once=1)
    assert found.turns == 3
    assert found.can_empty
    assert {move.turn for move in found.moves} == {1, 2, 3}
    assert len(preview(world, *hosts).blockers) == 6


def queries(ask: Callable[[], object]) -> int:
    """The least of a few times: now and then the copy of the fleet is read anew as a whole."""
    counted = []
    for _ in range(4):
        with CaptureQueriesContext(connection) as seen:
            ask()
        counted.append(len(seen))
    return min(counted)


@pytest.mark.usefixtures("steady_mirror")
def test_the_number_of_queries_does_not_grow_with_vms(world: Drains) -> None:
    first, *_ = three(world, vms=2)
    counted = []
    for batch in range(3):
        for number in range(4 * batch):
            world.build_vm(f"more{batch}-{number}", first, gib=1)
        world.ready()
        counted.append(queries(lambda: preview(world, first)))
    # On a slow machine the copy of the fleet is too old each time, which is a few queries; twelve more VMs are more.
    assert counted[2] - counted[0] < 8
    assert max(counted) <= 40


def test_a_look_at_a_job_costs_the_same_however_many_vms_it_has(world: Drains) -> None:
    counted = []
    for size in (2, 12):
        first = world.build_host(f"full{size}")
        second = world.build_host(f"tiny{size}", gib=1)
        for number in range(size):
            world.build_vm(f"big{size}-{number}", first, gib=4)
        world.ready()
        others = [host.pk for host in Host.objects.exclude(pk__in=[first.pk, second.pk])]
        Host.objects.filter(pk__in=others).update(schedulable=False)
        world.sync()
        job = world.start(first)
        world.until_status(job, "blocked")
        world.now = job.wake_at or world.now
        counted.append(queries(lambda job=job: maintenance.advance(job.pk, clock=world.clock)))  # type: ignore[misc]
        assert MaintenanceMove.objects.filter(maintenance=job, status="blocked").count() == size
        maintenance.cancel(job, by=BY, now=world.now)
    assert counted[0] == counted[1] <= 40
