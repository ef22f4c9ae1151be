"""Claims while a VM is resized: they follow nothing else meanwhile, and settle to what it has in the end."""

from __future__ import annotations

import pytest

from cloudops.hypervisors.port import PowerAction
from cloudops.inventory import endpoints
from cloudops.inventory.models import Vm
from placement import claims, power_claims, reconciling
from placement.models import Claim, ClaimKind
from scaling.models import Resize
from scaling.values import Reach
from tests.placement.moving import claims_add_up
from tests.scaling.world import Scaling, facts

pytestmark = pytest.mark.timeout(120)


def test_what_it_grows_by_is_kept_from_the_start(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host, vcpus=2, memory_mib=512)
    world.resize(vm, world.wanted(3, 768))
    assert world.claimed(vm) == {"vm": ("kvm1", 2, 512), "resize": ("kvm1", 1, 256)}
    claims_add_up()


def test_what_shrinks_keeps_its_room_until_it_is_smaller(world: Scaling) -> None:
    vm = world.add_sized("web", world.add_host(1), memory_mib=1_024)
    row = world.resize(vm, world.wanted(1, 512))
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 1_024)}
    assert world.go(row).outcome == Resize.Outcome.APPLIED
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 512)}
    claims_add_up()


def test_nobody_follows_it_meanwhile(world: Scaling) -> None:
    """In the middle of a restart it is off and keeps its room: neither signals nor reconciling take it away."""
    vm = world.add_sized("web", world.add_host(1), scaling=facts(256, most_vcpus=1, virtio_mib=0))
    row = world.work_for(world.resize(vm, world.wanted(2, 1_024), Reach.RESTART), 0.5)
    assert world.fresh(row).phase != Resize.Phase.ENDED
    kept = {"vm": ("kvm1", 1, 256), "resize": ("kvm1", 1, 768)}
    world.sync()
    assert world.truth(vm).power_state == "off"
    power_claims.follow(vm_ids=[vm.pk], now=world.now, gone=True)
    power_claims.follow_all(now=world.now)
    assert not reconciling.reconcile(now=world.now)
    assert world.claimed(vm) == kept
    world.pause(60)
    assert world.go(row).outcome == Resize.Outcome.APPLIED
    assert world.claimed(vm) == {"vm": ("kvm1", 2, 1_024)}
    assert not reconciling.drift(now=world.now)


def test_shut_down_meanwhile_it_holds_nothing(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    row = world.resize(vm, world.wanted(2, 1_024))
    joined = Vm.objects.select_related("host__endpoint").get(pk=vm.pk)
    endpoints.call(joined.host.endpoint, "power", lambda hypervisor: hypervisor.power(vm.ref, PowerAction.STOP))
    row = world.go(row)
    assert (row.outcome, row.operation.error_code) == (Resize.Outcome.NOTHING, "vm-stopped-meanwhile")
    assert world.claimed(vm) == {}
    claims_add_up()


def test_settling_twice_is_harmless(world: Scaling) -> None:
    host = world.add_host(1)
    vm = world.add_sized("web", host)
    row = world.resize(vm, world.wanted(2, 1_024))
    fresh = Vm.objects.select_related("host").get(pk=vm.pk)
    for _ in range(2):
        claims.settle(vm=fresh, operation=row.operation, now=world.now)
        assert world.claimed(vm) == {"vm": ("kvm1", 1, 256)}
        claims_add_up()
    Claim.objects.filter(kind=ClaimKind.VM).delete()
    type(host.capacity).objects.update(vcpu_claimed=0, memory_claimed_mib=0)
    claims.settle(vm=fresh, operation=row.operation, now=world.now)
    assert world.claimed(vm) == {"vm": ("kvm1", 1, 256)}
    claims.settle(vm=fresh, operation=row.operation, running=False, now=world.now)
    assert world.claimed(vm) == {}
    claims_add_up()
