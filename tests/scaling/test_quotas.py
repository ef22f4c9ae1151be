"""What a project's VMs have together, what is left, and what is demanded."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from cloudops.accounts.models import Project
from cloudops.hypervisors.port import PowerState
from cloudops.inventory.models import Vm
from scaling import quotas
from scaling.models import VmSize
from scaling.quotas import Counted, Left
from scaling.resize_errors import QuotaExceeded
from scaling.values import Size
from tests.scaling.world import Scaling

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def acme(world: Scaling) -> Project:
    return Project.objects.create(name="acme", quota_vcpus=10, quota_memory_mib=2_048)


def test_the_largest_of_what_it_has_was_given_waits_for_and_is_resized_to(world: Scaling, acme: Project) -> None:
    host = world.add_host(1)
    running = world.add_sized("a", host, project=acme)
    off = world.add_sized("b", host, project=acme, state=PowerState.OFF)
    waits = world.add_sized("c", host, project=acme)
    world.add_sized("d", host)
    assert quotas.usage(acme) == quotas.Usage(3, 768, 10, 2_048)
    world.resize(running, world.wanted(2, 512))
    VmSize.objects.create(vm=off, vcpus=3, memory_mib=100, changed_at=world.now)
    waiting = {"vcpus": 1, "memory_mib": 400, "cpu_mhz": 0, "cpu_cap": False}
    VmSize.objects.create(vm=waits, vcpus=1, memory_mib=256, next_size=waiting, changed_at=world.now)
    assert quotas.counted([running.pk, off.pk, waits.pk]) == {
        running.pk: Counted(2, 512),
        off.pk: Counted(3, 256),
        waits.pk: Counted(1, 400),
    }
    assert quotas.left([acme.pk]) == {acme.pk: Left(4, 880)}
    assert quotas.left_beside([running])[running.pk] == Left(6, 1_392)


def test_the_number_of_queries_does_not_grow(world: Scaling, acme: Project) -> None:
    host = world.add_host(1)
    vms = [world.add_sized(f"vm{number}", host, project=acme) for number in range(5)]
    with CaptureQueriesContext(
        connection,
    ) as few:
        quotas.left_beside(vms[:1])
    with CaptureQueriesContext(connection) as many:
        quotas.left_beside(vms)
    assert len(few) == len(many) <= 6


def test_without_a_project_or_a_quota_there_is_none(world: Scaling) -> None:
    host = world.add_host(1)
    free = Project.objects.create(name="free")
    alone, shared = world.add_sized("a", host), world.add_sized("b", host, project=free)
    assert quotas.left_beside([alone, shared]) == {alone.pk: Left(), shared.pk: Left()}
    for vm in (alone, shared):
        quotas.demand(Vm.objects.get(pk=vm.pk), Size(512, 1_000_000))


def test_demanded_by_what_grows_only(world: Scaling, acme: Project) -> None:
    host = world.add_host(1)
    vm = world.add_sized("a", host, vcpus=2, memory_mib=512, project=acme)
    world.add_sized("b", host, memory_mib=1_024, project=acme)
    with transaction.atomic():
        quotas.demand(vm, Size(9, 1_024))
    for size, told in (
        (Size(10, 512), {"vcpus"}),
        (Size(2, 1_025), {"memory_mib"}),
        (Size(10, 1_025), {"vcpus", "memory_mib"}),
    ):
        with pytest.raises(QuotaExceeded) as refused:
            quotas.demand(vm, size)
        assert set(refused.value.numbers["beyond"]) == told  # type: ignore[call-overload]
    Project.objects.update(quota_vcpus=1, quota_memory_mib=100)
    quotas.demand(vm, Size(2, 512))
    quotas.demand(vm, Size(1, 256))
