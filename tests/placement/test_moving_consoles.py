"""Who is told that a VM is on its way: consoles ask while a display is gone."""

from __future__ import annotations

import pytest

from cloudops.inventory import signals
from cloudops.inventory.notices import ask
from placement.models import VmMigration
from tests.conftest import Clock
from tests.placement.moving import Moving

pytestmark = pytest.mark.django_db


def test_only_vms_that_may_change_hosts_now_are_named(clock: Clock) -> None:
    world = Moving(clock.now)
    first, second = world.add_host(1), world.add_host(2)
    one, two = world.add_vm("one", first), world.add_vm("two", first)
    migration = world.migrate(one, second)
    asked = [one.pk, two.pk]
    assert ask(signals.vms_moving, vm_ids=asked) == []  # it waits for its turn
    for phase in (VmMigration.Phase.COPYING, VmMigration.Phase.VERIFYING):
        VmMigration.objects.filter(pk=migration.pk).update(phase=phase)
        assert ask(signals.vms_moving, vm_ids=asked) == [{one.pk: "kvm2"}]
        assert ask(signals.vms_moving, vm_ids=[two.pk]) == []
    VmMigration.objects.filter(pk=migration.pk).update(phase=VmMigration.Phase.ENDED, ended_at=clock.now)
    assert ask(signals.vms_moving, vm_ids=asked) == []
