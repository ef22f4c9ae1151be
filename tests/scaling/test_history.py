"""The sizes that VMs had."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudops.core import runtime
from cloudops.inventory.models import Vm
from scaling import history
from scaling.models import SizeSample, VmSize
from tests.scaling.world import BY, Scaling

pytestmark = pytest.mark.timeout(60)


def test_a_sample_whenever_something_changed_and_never_else(world: Scaling) -> None:
    SizeSample.objects.all().delete()
    vm = world.add_sized("web", world.add_host(1))
    history.note([vm.pk], now=world.now)
    start = world.now
    history.note([vm.pk], now=world.now)
    assert SizeSample.objects.filter(vm=vm).count() == 1
    world.pause(60)
    VmSize.objects.create(vm=vm, vcpus=2, memory_mib=512, changed_at=world.now)
    assert history.note([vm.pk], now=world.now) == 1
    world.pause(60)
    Vm.objects.filter(pk=vm.pk).update(vcpus=2, memory_mib=512)
    assert history.note([vm.pk], now=world.now, guest_mib={vm.pk: 470}) == 1
    world.pause(60)
    assert history.note([vm.pk], now=world.now) == 0, "what the guest said holds"
    found = history.series(vm, since=start + timedelta(seconds=90), until=world.now)
    assert [one.size for one in found] == [(2, 512, 1, 256, None), (2, 512, 2, 512, 470)]
    assert found[0].at == start + timedelta(seconds=90), "what it had before begins the chart"
    assert len(history.series(vm, since=start - timedelta(days=1), until=world.now)) == 3
    assert history.series(vm, since=start - timedelta(days=2), until=start - timedelta(days=1)) == []


def test_what_the_inventory_sees_is_noted(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1))
    row = world.go(world.resize(vm, world.wanted(2, 512)))
    wanted = [one.wanted_memory_mib for one in history.series(vm, since=row.created_at, until=world.now)]
    assert wanted[-1] == 512


def test_many_at_once_in_constantly_many_queries(world: Scaling) -> None:
    host = world.add_host(1)
    vms = [world.add_sized(f"vm{number}", host) for number in range(6)]
    SizeSample.objects.all().delete()
    with CaptureQueriesContext(connection) as few:
        history.note([vms[0].pk], now=world.now)
    with CaptureQueriesContext(connection) as many:
        assert history.note([vm.pk for vm in vms], now=world.now) == 5
    assert len(many) <= len(few) + 1


def test_purged_but_for_the_last_one_before(world: Scaling) -> None:
    runtime.change(by=BY, now=world.now, scaling_history_retention_days=10)
    vm = world.add_sized("web", world.add_host(1))
    SizeSample.objects.all().delete()
    for days in (40, 30, 20, 5):
        Vm.objects.filter(pk=vm.pk).update(memory_mib=days)
        history.note([vm.pk], now=world.now - timedelta(days=days))
    assert history.purge(now=world.now) == 2
    assert [one.memory_mib for one in SizeSample.objects.order_by("at")] == [20, 5]
    assert history.purge(now=world.now) == 0
