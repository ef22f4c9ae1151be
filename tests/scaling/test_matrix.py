"""The matrix: the same verdicts as preflight, cell by cell; places that placement would choose; constant queries."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudops.accounts.models import Project
from cloudops.core import runtime
from cloudops.hypervisors.port import (
    GuestView,
    Kind,
    MemoryDevice,
    MemoryModel,
    PowerState,
    ScalingFacts,
    ScalingState,
    Shape,
)
from cloudops.inventory import tags as tag_rows
from cloudops.inventory.models import Connection, Host, Offering, OfferingKind, Vm
from placement import decisions, mirror
from placement.models import AffinityGroup, Claim, ClaimKind, Hold, HostCapacity
from placement.vm_migrations import Options, spec_of_move
from scaling.matrix import Matrix, matrix
from scaling.models import VmSize
from scaling.rooms import Rooms
from scaling.subjects import OfferingBounds, size_of, wanted
from scaling.values import Reach, Size
from tests.placement.world import BY, add_cluster, add_host, add_offering, add_template, add_vm

NOW = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)
TAGS = ("linux", "gpu", "ssd")
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("steady_mirror")]


def as_json(facts: ScalingFacts) -> dict[str, Any]:
    return {**asdict(facts), "memory_devices": [asdict(one) for one in facts.memory_devices]}


def some_facts(random_: random.Random, vcpus: int, memory_mib: int) -> ScalingFacts:
    """Of every kind that preflight tells apart."""
    requested = random_.choice((0, 0, memory_mib // 4 * 2))
    boot = memory_mib - requested
    device = MemoryDevice("ua-virtiomem0", MemoryModel.VIRTIO_MEM, memory_mib * 2, requested, requested, 2)
    devices = (device,) if requested or random_.random() < 0.5 else ()
    slots = random_.choice((0, 2))
    limit = boot + memory_mib * 2 + 1_000 if devices or slots else 0
    return ScalingFacts(
        max_vcpus=vcpus * random_.choice((1, 2, 4)),
        max_memory_mib=limit or boot,
        memory_slots=slots,
        memory_slots_used=random_.choice((0, slots)),
        boot_memory_mib=boot,
        balloon_mib=boot - random_.choice((0, 0, 64)),
        has_balloon=random_.random() < 0.8,
        dimm_limit_mib=limit,
        memory_devices=devices,
        removable_vcpus=random_.choice((0, 1, vcpus)),
        cpu_shares=random_.choice((0, 100, 200)),
        cpu_hot_add=random_.random() < 0.9,
    )


def some_offerings(random_: random.Random, count: int) -> list[Offering]:
    found = []
    for number in range(count):
        kind = random_.choice((OfferingKind.FIXED, OfferingKind.FIXED, OfferingKind.CUSTOM, OfferingKind.UNCONSTRAINED))
        vcpus, memory_mib = random_.choice((1, 2, 4, 8)), random_.choice((256, 512, 1_025, 2_048, 4_096, 8_192))
        custom = kind == OfferingKind.CUSTOM
        one = Offering.objects.create(
            name=f"offering {number}",
            kind=kind,
            vcpus=vcpus,
            memory_mib=memory_mib,
            max_vcpus=vcpus * 2 if custom else None,
            max_memory_mib=memory_mib + 777 if custom else None,
            cpu_mhz=random_.choice((None, 500, 1_000)),
            dynamic_scaling=random_.random() < 0.8,
            enabled=random_.random() < 0.9,
        )
        one.host_tags.set(tag_rows.ensure(random_.sample(TAGS, random_.choice((0, 0, 1, 2)))))
        found.append(one)
    return found


def some_fleet(random_: random.Random, hosts: int, vms: int) -> list[Vm]:
    """Hosts that are tight, closed, held and of many kinds, with VMs of every state."""
    clusters = [add_cluster("blue", 0), add_cluster("green", 1)]
    made = []
    for number in range(hosts):
        host = add_host(
            f"kvm-{number}",
            clusters[number % 2],
            tags=random_.sample(TAGS, random_.choice((1, 2, 3))),
            cpu_threads=random_.choice((4, 8, 16)),
            memory_mib=random_.choice((9_216, 17_408, 33_792)),
            cpu_mhz=2_000,
            schedulable=random_.random() < 0.85,
            connection=Connection.UP if random_.random() < 0.9 else Connection.UNREACHABLE,
            networks=["lan"],
            datastores=["san"] if random_.random() < 0.8 else ["nas"],
        )
        made.append(host)
    template = add_template("debian", ["linux"])
    project = Project.objects.create(name="tight", quota_vcpus=vms * 3 // 2, quota_memory_mib=vms * 900)
    sizes = [add_offering(f"old {number}", tags=random_.sample(TAGS, 1)) for number in range(3)]
    found = [_some_vm(random_, number, random_.choice(made), template, project, sizes) for number in range(vms)]
    apart = AffinityGroup.objects.create(name="apart", kind=AffinityGroup.Kind.APART, strict=True, created_at=NOW)
    apart.vms.set(found[: vms // 4])
    for host in made:
        HostCapacity.objects.filter(pk=host.pk).update(
            vcpu_claimed=random_.randrange(0, 64),
            memory_claimed_mib=random_.randrange(0, 16_384),
            hold=random_.choice((Hold.NONE, Hold.NONE, Hold.NONE, Hold.MAINTENANCE)),
        )
    mirror.forget()
    return joined(found)


def _some_vm(
    random_: random.Random, number: int, host: Host, template: Any, project: Project, sizes: Sequence[Offering]
) -> Vm:
    vcpus, memory_mib = random_.choice((1, 2, 4)), random_.choice((256, 512, 1_024, 2_048))
    told = random_.random() < 0.9
    states = (PowerState.RUNNING,) * 7 + (PowerState.OFF, PowerState.OFF, PowerState.PAUSED, PowerState.UNKNOWN)
    vm = add_vm(
        f"vm-{number}",
        host,
        vcpus=vcpus,
        memory_mib=memory_mib,
        power_state=random_.choice(states),
        scaling=as_json(some_facts(random_, vcpus, memory_mib)) if told else None,
        dynamic_scaling=random_.random() < 0.9,
        pinned=random_.random() < 0.1,
        networks=["lan"],
        disks=[{"target": "vda", "kind": random_.choice(("shared", "shared", "local")), "datastore": "san"}],
        template=random_.choice((template, None)),
        project=random_.choice((project, None)),
        offering=random_.choice((*sizes, None)),
        missing_since=NOW if random_.random() < 0.03 else None,
    )
    if random_.random() < 0.5:
        VmSize.objects.create(vm=vm, vcpus=vcpus, memory_mib=memory_mib, cpu_mhz=500, changed_at=NOW)
    return vm


def joined(vms: Sequence[Vm]) -> list[Vm]:
    """As callers read them."""
    related = ("host__endpoint", "host__cluster", "project", "offering", "template")
    return list(Vm.objects.filter(pk__in=[vm.pk for vm in vms]).select_related(*related))


def all_offerings() -> list[Offering]:
    return list(Offering.objects.prefetch_related("host_tags"))


def made(vms: Sequence[Vm], offerings: Sequence[Offering]) -> Matrix:
    return matrix(vms, offerings, settings=runtime.current(), now=NOW)


@pytest.mark.parametrize("seed", range(3))
def test_every_cell_is_what_preflight_says(seed: int) -> None:
    random_ = random.Random(seed)
    vms = some_fleet(random_, hosts=8, vms=30)
    some_offerings(random_, 16)
    offerings = all_offerings()
    found = made(vms, offerings)
    seen = set()
    for vm in vms:
        for offering in offerings:
            plan = found.plan(vm, offering)
            assert found.reach(vm, offering) is plan.reach, (vm.name, offering.name, plan)
            seen.add(plan.reach)
    assert {Reach.SAME, Reach.NOW, Reach.LIVE, Reach.RESTART, Reach.IMPOSSIBLE} <= seen
    counts = found.counts()
    for offering in offerings:
        assert sum(counts[offering.pk].values()) == len(vms)
        reaches = [found.reach(vm, offering) for vm in vms]
        assert {one: reaches.count(one) for one in Reach} == counts[offering.pk]


@pytest.mark.parametrize("seed", range(2))
def test_elsewhere_is_where_placement_would_put_it(seed: int) -> None:
    """A dry run of the same VM with the wanted size and the wanted offering's tags counts the same hosts."""
    random_ = random.Random(100 + seed)
    vms = some_fleet(random_, hosts=10, vms=12)
    offerings = some_offerings(random_, 5)
    rooms = Rooms.read(vms, now=NOW)
    hosts, options = {host.pk: host for host in Host.objects.all()}, Options.of(runtime.current())
    fits = 0
    for vm in vms:
        for offering in offerings:
            asked = wanted(offering, like=size_of(vm))
            big_enough = [
                str(pk)
                for pk, host in hosts.items()
                if host.total_cpu_threads >= asked.size.vcpus and host.total_memory_mib >= asked.size.memory_mib
            ]
            vm.offering, vm.vcpus, vm.memory_mib = offering, asked.size.vcpus, asked.size.memory_mib
            spec = replace(spec_of_move(vm, options, now=NOW), only_hosts=tuple(big_enough))
            fit = 0 if vm.pinned else decisions.dry_run(spec, by=BY, now=NOW).result.fit
            assert rooms.room(vm, asked).elsewhere == fit, (vm.name, offering.name)
            fits += fit
    assert fits


def test_room_here_is_what_the_host_could_still_promise() -> None:
    host = add_host("kvm-1", add_cluster("blue"))
    vm = joined([add_vm("web", host)])[0]
    HostCapacity.objects.filter(pk=host.pk).update(vcpu_claimed=62, memory_claimed_mib=16_000)
    mirror.forget()
    room = Rooms.read([vm], now=NOW).room(vm, wanted(add_offering("big", vcpus=4, memory_mib=4_096)))
    assert (room.free_vcpus, room.free_memory_mib, room.here_open, room.elsewhere) == (2, 384, True, 0)
    HostCapacity.objects.filter(pk=host.pk).update(hold=Hold.MAINTENANCE)
    mirror.forget()
    assert not Rooms.read([vm], now=NOW).here(0)[2]
    mirror.forget()
    Host.objects.filter(pk=host.pk).delete()
    assert Rooms.read([vm], now=NOW).room(vm, wanted(Offering.objects.get())).here_open is False


def test_the_number_of_queries_grows_with_nothing() -> None:
    random_ = random.Random(7)
    vms = some_fleet(random_, hosts=6, vms=40)
    some_offerings(random_, 12)

    def queries(count: int, of_offerings: int) -> int:
        mirror.forget()
        with CaptureQueriesContext(connection) as captured:
            found = made(joined(vms[:count]), all_offerings()[:of_offerings])
            for vm in vms[:count]:
                found.plan(vm, found.offerings[0])
        return len(captured)

    queries(40, 12)
    few, many = queries(12, 2), queries(40, 12)
    assert few == many
    assert many < 40


def test_what_a_hypervisor_tells_this_moment_wins() -> None:
    host = add_host("kvm-1", add_cluster("blue"))
    facts = ScalingFacts(4, 2_048, boot_memory_mib=2_048, balloon_mib=2_048, has_balloon=True)
    vm = joined([add_vm("web", host, scaling=as_json(facts))])[0]
    small = add_offering("small", vcpus=2, memory_mib=1_024)
    Offering.objects.update(dynamic_scaling=True)
    offerings = all_offerings()
    assert made([vm], offerings).reach(vm, small) is Reach.RESTART  # nobody knows what its guest uses
    state = ScalingState(2, 2_048, PowerState.RUNNING, facts, GuestView(2_048, 300, 2), Shape(2, 4, 2_048))
    found = matrix([vm], offerings, settings=runtime.current(), now=NOW, states={vm.pk: state})
    assert found.reach(vm, small) is Reach.LIVE
    off = replace(state, power_state=PowerState.OFF)
    found = matrix([vm], offerings, settings=runtime.current(), now=NOW, states={vm.pk: off})
    assert found.reach(vm, small) is Reach.NOW


def test_nothing_of_nothing() -> None:
    assert made([], all_offerings()).counts() == {}
    offering = add_offering("small")
    assert set(made([], [offering]).counts()[offering.pk].values()) == {0}


# Subjects


def test_a_subject_is_what_the_rows_say() -> None:
    host = add_host("kvm-1", add_cluster("blue"), tags=["linux"], cpu_mhz=2_100)
    vm = joined([add_vm("web", host, guest_os="Debian 12")])[0]
    VmSize.objects.create(vm=vm, vcpus=2, memory_mib=1_025, cpu_mhz=700, cpu_cap=True, changed_at=NOW)
    claim = Claim(host_id=host.pk, vm=vm, kind=ClaimKind.VM, vcpus=2, memory_mib=2_048, created_at=NOW)
    claim.save()
    subject = made([vm], []).subjects[vm.pk]
    assert (subject.kind, subject.power_state, subject.facts) == (Kind.SIMULATED, PowerState.RUNNING, None)
    assert subject.size == Size(2, 2_048, 700, cpu_cap=True)  # sizes as reported, speed as it was given
    assert (subject.host_threads, subject.host_memory_mib, subject.host_mhz) == (16, 17_408, 2_100)
    assert (subject.host_tags, subject.guest_os) == (frozenset({"linux"}), "Debian 12")
    assert size_of(vm) == Size(2, 1_025, 700, cpu_cap=True)


@pytest.mark.parametrize(
    ("kind", "asked", "size"),
    [
        ("fixed", {}, Size(2, 1_024, 500)),
        ("fixed", {"like": Size(8, 8_192)}, Size(2, 1_024, 500)),
        ("custom", {}, Size(2, 1_024, 500)),
        ("custom", {"vcpus": 3, "memory_mib": 1_025}, Size(3, 1_025, 500)),
        ("custom", {"like": Size(8, 100)}, Size(4, 1_024, 500)),
        ("custom", {"like": Size(8, 100), "memory_mib": 1_500}, Size(4, 1_500, 500)),
        ("unconstrained", {"vcpus": 9, "memory_mib": 333, "cpu_mhz": 700}, Size(9, 333, 700)),
        ("unconstrained", {"like": Size(8, 100)}, Size(8, 100, 500)),
    ],
)
def test_an_offering_gives_its_size_the_one_asked_for_or_the_nearest(
    kind: str, asked: dict[str, Any], size: Size
) -> None:
    assert wanted(_offering(kind), **asked).size == size


@pytest.mark.parametrize(
    ("kind", "asked", "fields"),
    [
        ("fixed", {"vcpus": 3}, {"vcpus"}),
        ("custom", {"vcpus": 5, "memory_mib": 3_000}, {"vcpus", "memory_mib"}),
        ("custom", {"cpu_mhz": 600}, {"cpu_mhz"}),
        ("unconstrained", {"vcpus": 1_025, "memory_mib": 8, "cpu_mhz": 50}, {"vcpus", "memory_mib", "cpu_mhz"}),
    ],
)
def test_sizes_out_of_bounds_are_refused_field_by_field(kind: str, asked: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(OfferingBounds) as refused:
        wanted(_offering(kind), **asked)
    assert set(refused.value.errors) == fields
    assert all(refused.value.errors.values())


def _offering(kind: str) -> Offering:
    custom = kind == "custom"
    return Offering.objects.create(
        name=kind,
        kind=kind,
        vcpus=2,
        max_vcpus=4 if custom else None,
        memory_mib=1_024,
        max_memory_mib=2_048 if custom else None,
        cpu_mhz=500,
    )
