"""What a host's row tells of its memory."""

from __future__ import annotations

import pytest

from cloudops.inventory.models import Host
from consoles import overview
from tests.conftest import Clock
from tests.consoles.world import build

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("override", "used"), [(None, 5_000), (16_000, 5_000), (2_048, 2 * 192)])
def test_of_a_part_of_a_machine_its_vms_memory_counts(clock: Clock, override: int | None, used: int) -> None:
    world = build(clock.now)
    Host.objects.filter(pk=world.host.pk).update(memory_mib=8_000, memory_free_mib=3_000, memory_mib_override=override)
    world.add_vm("one", memory_mib=192)
    world.add_vm("two", memory_mib=192)
    world.host.refresh_from_db()
    already = overview.loads([world.host.pk])[world.host.pk].memory_mib - 2 * 192
    row = overview.host_row(world.host, now=clock.now)
    assert row.memory_used_mib == used + (already if override == 2_048 else 0)
