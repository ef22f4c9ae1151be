"""Many VMs at once: what they need of placement, and where they would go, in a fixed number of queries."""

from __future__ import annotations

import random

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudops.core import runtime
from cloudops.hypervisors.port import PowerState
from cloudops.inventory.models import Vm
from placement import foresight, mirror, requests
from placement.models import AffinityGroup, Claim, ClaimKind
from placement.spec import Purpose
from placement.vm_migrations import Options, spec_of_move, specs_of_moves
from tests.placement.world import NOW, add_cluster, add_host, add_offering, add_template, add_vm

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("steady_mirror")]


def some_vms(count: int) -> list[Vm]:
    """VMs of a few offerings and templates, in groups of every kind, some off, some on their way."""
    chance = random.Random(count)
    cluster = add_cluster("linux")
    hosts = [add_host(f"kvm-{number}", cluster, tags=["ssd", "gpu"]) for number in range(5)]
    offerings = [add_offering(f"offering {number}", tags=["ssd"][:number]) for number in range(2)]
    templates = [add_template("debian", ["gpu"], ["ssd"]), None]
    for number in range(count):
        vm = add_vm(
            f"vm-{number}",
            chance.choice(hosts),
            offering=chance.choice(offerings),
            template=chance.choice(templates),
            vcpus=1,
            memory_mib=256,
            power_state=chance.choice((PowerState.RUNNING, PowerState.RUNNING, PowerState.OFF)),
        )
        if chance.random() < 0.3:
            there = chance.choice(hosts)
            Claim.objects.create(host_id=there.pk, vm=vm, kind=ClaimKind.VM, vcpus=1, memory_mib=256, created_at=NOW)
    for kind in AffinityGroup.Kind:
        for strict in (True, False):
            group = AffinityGroup.objects.create(name=f"{kind} {strict}", kind=kind, strict=strict, created_at=NOW)
            group.vms.set(chance.sample(list(Vm.objects.all()), count // 2))
    mirror.forget()
    return joined()


def joined(count: int | None = None) -> list[Vm]:
    """In the same order each time: some few without any template would spare the query for templates' tags."""
    related = ("host__endpoint", "host__cluster", "project", "offering", "template")
    return list(Vm.objects.select_related(*related).order_by("name")[:count])


def test_many_together_need_what_each_needs_alone() -> None:
    vms, options = some_vms(12), Options.of(runtime.current())
    together = requests.specs_for(vms, purpose=Purpose.DRAIN, now=NOW)
    assert together == {vm.pk: requests.spec_for(vm, purpose=Purpose.DRAIN, now=NOW) for vm in joined()}
    assert any(spec.apart_hosts and spec.together_hosts and spec.tags for spec in together.values())
    moves = specs_of_moves(vms, options, now=NOW)
    assert moves == {vm.pk: spec_of_move(vm, options, now=NOW) for vm in joined()}
    bare = requests.specs_for(vms, purpose=Purpose.DRAIN, groups=False, offering_tags=False)
    assert {tag for spec in bare.values() for tag in spec.tags} == {"gpu"}  # the template's
    assert not any(spec.apart_hosts for spec in bare.values())


def test_a_vms_group_binds_it_to_where_the_others_are_or_are_going() -> None:
    cluster = add_cluster("linux")
    hosts = [add_host(f"kvm-{number}", cluster) for number in range(4)]
    one, other, off = (add_vm(name, hosts[0]) for name in ("one", "other", "off"))
    Vm.objects.filter(pk=off.pk).update(power_state=PowerState.OFF, host=hosts[3])
    Vm.objects.filter(pk=other.pk).update(host=hosts[1])
    Claim.objects.create(host_id=hosts[2].pk, vm=other, kind=ClaimKind.VM, vcpus=1, memory_mib=1, created_at=NOW)
    group = AffinityGroup.objects.create(name="pair", kind=AffinityGroup.Kind.APART, strict=True, created_at=NOW)
    group.vms.set([one, other, off])
    found = requests.specs_for(joined(), purpose=Purpose.MIGRATE)
    assert set(found[one.pk].apart_hosts) == {str(hosts[1].pk), str(hosts[2].pk)}
    assert set(found[other.pk].apart_hosts) == {str(hosts[0].pk)}
    assert set(found[off.pk].apart_hosts) == {str(host.pk) for host in hosts[:3]}


def test_where_many_would_go_is_told_in_a_fixed_number_of_queries() -> None:
    some_vms(24)
    options = Options.of(runtime.current())

    def queries(count: int) -> int:
        mirror.forget()
        with CaptureQueriesContext(connection) as captured:
            assert len(foresight.foresee(joined(count), options=options, now=NOW)) == count
        return len(captured)

    queries(24)
    assert queries(6) == queries(24)
