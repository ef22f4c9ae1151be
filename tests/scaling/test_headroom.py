"""Ceilings: whose setting counts, what a VM lacks of it, and how it gets there."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from cloudops.core import runtime
from cloudops.core.errors import Invalid
from cloudops.core.models import Event, Operation
from cloudops.core.operations import OperationRunning
from cloudops.hypervisors.port import HypervisorError, Kind, PowerState, Shape
from cloudops.inventory.models import OfferingKind, Vm
from scaling import headroom, planning
from scaling.headroom import Source
from scaling.models import VmSize
from tests.scaling.world import BY, Scaling, facts

pytestmark = pytest.mark.timeout(60)
PLAIN: dict[str, Any] = {"scaling": facts(256, most_vcpus=1, virtio_mib=0)}


def ceiling(vm: Vm) -> headroom.Ceiling:
    return headroom.effective(planning.read(vm), settings=runtime.current())


def test_a_multiple_of_the_largest_size_that_its_offering_gives(world: Scaling) -> None:
    host = world.add_host(1)
    custom = world.offering(vcpus=1, max_vcpus=2, memory_mib=256, max_memory_mib=512)
    fixed = world.offering(
        "fixed", kind=OfferingKind.FIXED, vcpus=2, memory_mib=384, max_vcpus=None, max_memory_mib=None
    )
    any_size = world.offering("any", kind=OfferingKind.UNCONSTRAINED, max_vcpus=None, max_memory_mib=None)
    found = {
        name: ceiling(world.add_sized(name, host, offering=offering))
        for name, offering in (("a", custom), ("b", fixed), ("c", any_size), ("d", None))
    }
    assert {name: (one.max_vcpus, one.max_memory_mib) for name, one in found.items()} == {
        "a": (8, 2_048),
        "b": (8, 1_536),
        "c": (4, 1_024),
        "d": (4, 1_024),
    }
    assert {one.source for one in found.values()} == {Source.INSTALLATION}


def test_the_vm_before_its_cluster_before_the_installation_and_absolute_before_multiples(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1), memory_mib=512)
    settings = {"scaling_max_memory_mib": 1_000, "scaling_vcpu_factor": 3.0}
    runtime.change(by=BY, now=world.now, **settings)
    assert (ceiling(vm).max_vcpus, ceiling(vm).max_memory_mib) == (3, 1_000)
    cluster = planning.read(vm).host.cluster
    headroom.set_for_cluster(cluster, memory_factor=3.0, max_vcpus=6, vcpu_factor=2.0, by=BY, now=world.now)
    assert (ceiling(vm).max_vcpus, ceiling(vm).max_memory_mib) == (6, 1_536)
    assert (ceiling(vm).source, ceiling(vm).vcpu_source) == (Source.CLUSTER, Source.CLUSTER)
    headroom.set_for_vm(vm, max_memory_mib=4_096, by=BY, now=world.now)
    assert (ceiling(vm).max_vcpus, ceiling(vm).max_memory_mib) == (6, 4_096)
    assert (ceiling(vm).source, ceiling(vm).vcpu_source) == (Source.VM, Source.CLUSTER)
    assert Event.objects.filter(kind="headroom.changed").count() == 2
    headroom.set_for_vm(vm, max_memory_mib=4_096, by=BY, now=world.now)
    assert Event.objects.filter(kind="headroom.changed").count() == 2, "nothing changed"
    with pytest.raises(Invalid):
        headroom.set_for_vm(vm, memory_factor=99.0, by=BY, now=world.now)


def test_never_less_than_it_has_and_never_more_than_its_host(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1, memory_mib=4_096), vcpus=4, memory_mib=1_536)
    headroom.set_for_vm(vm, max_memory_mib=512, max_vcpus=2, by=BY, now=world.now)
    assert (ceiling(vm).max_vcpus, ceiling(vm).max_memory_mib) == (4, 1_536)
    headroom.set_for_vm(vm, max_memory_mib=99_999, max_vcpus=999, by=BY, now=world.now)
    assert (ceiling(vm).max_vcpus, ceiling(vm).max_memory_mib, ceiling(vm).capped) == (32, 4_096, True)


def test_what_it_lacks_in_words(world: Scaling) -> None:
    host = world.add_host(1)
    ready, plain = world.add_sized("ready", host), world.add_sized("plain", host, **PLAIN)
    assert headroom.lacks(planning.read(ready)) is None
    lack = headroom.lacks(planning.read(plain))
    assert lack is not None
    assert not lack.waits
    assert lack.words == (
        "It was started with room for 1 vCPUs; 4 are wanted.",
        "It was started with room for 256 MiB of memory; 1,024 are wanted.",
    )
    assert any("virtio-mem" in one for one in lack.changes)
    for values in ({"dynamic_scaling": False}, {"scaling": None}):
        Vm.objects.filter(pk=plain.pk).update(**values)
        assert headroom.lacks(planning.read(plain)) is None
        Vm.objects.filter(pk=plain.pk).update(dynamic_scaling=True, scaling=plain.scaling)
    Vm.objects.filter(pk=plain.pk).update(offering=world.offering(dynamic_scaling=False))
    assert headroom.lacks(planning.read(plain)) is None


def test_prepared_it_keeps_its_size_and_gets_its_ceiling_with_its_next_start(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host, **PLAIN)
    headroom.prepare(vm, by=BY, now=world.now)
    shape = world.truth(vm).next_start
    assert (shape.vcpus, shape.max_vcpus, shape.memory_mib, shape.virtio_mem_mib) == (1, 4, 256, 768)
    assert world.truth(vm).facts.max_vcpus == 1, "it runs on as it is"
    lack = headroom.lacks(planning.read(vm))
    assert lack is not None
    assert lack.waits
    assert Operation.objects.get().status == "succeeded"
    Vm.objects.filter(pk=vm.pk).update(dynamic_scaling=False)
    with pytest.raises(headroom.NotScalable):
        headroom.prepare(vm, by=BY, now=world.now)


def test_preparing_waits_for_nobody_and_says_what_failed(world: Scaling) -> None:
    first, second = world.add_host(1), world.add_host(2)
    vm = world.add_sized("web", first, **PLAIN)
    world.faults(first, error="internal error: no")
    with pytest.raises(HypervisorError):
        headroom.prepare(vm, by=BY, now=world.now)
    assert Operation.objects.get().status == "failed"
    assert not VmSize.objects.filter(next_headroom=True).exists()
    world.faults(first)
    world.migrate(vm, second)
    with pytest.raises(OperationRunning):
        headroom.prepare(vm, by=BY, now=world.now)


def test_off_it_has_its_ceiling_at_once(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1), state=PowerState.OFF, **PLAIN)
    assert not headroom.prepare(vm, by=BY, now=world.now).next_headroom
    world.sync()
    assert headroom.lacks(planning.read(vm)) is None


def test_a_higher_ceiling_that_is_there_stays() -> None:
    shape = Shape(2, 16, 512, max_memory_mib=8_704, memory_slots=4, virtio_mem_mib=8_192, virtio_mem_requested_mib=512)
    assert headroom.with_ceiling(shape, headroom.Ceiling(8, 4_096, Source.VM), kind=Kind.LIBVIRT) == shape
    more = headroom.with_ceiling(shape, headroom.Ceiling(32, 16_001, Source.VM), kind=Kind.LIBVIRT)
    assert (more.max_vcpus, more.virtio_mem_mib, more.memory_slots) == (32, 15_488, 16)
    assert more.max_memory_mib >= more.memory_mib + more.virtio_mem_mib
    assert more.virtio_mem_requested_mib == 512
    assert asdict(more)["virtio_mem_mib"] % 2 == 0
